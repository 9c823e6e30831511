"""U-Nets that read a text, against `diffusers` itself: the same numbers on both sides, and back again."""

import inspect
import json
import runpy
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from _support.networks import randomised
from _support.unet2d import K4, SD1, SD2, T4
from diffusion_book.interop import text_unet_from_diffusers, text_unet_to_diffusers
from diffusion_book.interop.diffusers.text_unet import _OPTIONS
from diffusion_book.nn import MLP, SIZES, UNet, UNetConfig

ROOT = Path(__file__).parents[3]
REAL = runpy.run_path(str(ROOT / "benchmarks" / "stable_diffusion.py"))["UNETS"]

# Two levels, the text at the lower.
TINY = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
BOTH = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
}
CONFIGS = {
    "sd1": SD1,
    "sd2": SD2,
    "sd2-as-sd1": SD2 | {"use_linear_projection": False},
    "tiny": TINY,
    "tiny-linear": TINY | {"use_linear_projection": True},
    "everywhere": TINY | BOTH | {"attention_head_dim": [2, 8]},
    "middle-only": TINY | {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2},
    "scale-shift": TINY | {"resnet_time_scale_shift": "scale_shift", "dropout": 0.1},
    "learned-variance": TINY | {"out_channels": 6, "act_fn": "swish"},
    "classes": TINY | {"num_class_embeds": 11},
    "pooled": TINY | {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 5},
    "others": TINY | {"downsample_padding": 0, "freq_shift": 1, "flip_sin_to_cos": False, "norm_eps": 1e-6},
    "fractions": TINY | {"block_out_channels": (16, 24), "attention_head_dim": 3, "time_embedding_dim": 64},
}
# What has two names, or none here.
SAME = {"act_fn": "silu", "time_embedding_dim": None, "use_linear_projection": False, "upcast_attention": False}


def options(theirs: UNet2DConditionModel) -> dict:
    """As JSON knows them, and without those that start with an underscore."""
    return json.loads(json.dumps({key: value for key, value in theirs.config.items() if key[0] != "_"}))


def told(config: UNetConfig, generator: torch.Generator) -> tuple[dict, dict]:
    """What a network and theirs are told besides the picture and the time: a text, and a class or a vector."""
    context = torch.randn(4, 5, config.context_dim, generator=generator)
    if config.classes:
        y = torch.tensor([0, 3, 9, 10])
        return {"context": context, "y": y}, {"encoder_hidden_states": context, "class_labels": y}
    if config.pooled_dim:
        pooled = torch.randn(4, config.pooled_dim, generator=generator)
        return {"context": context, "pooled": pooled}, {"encoder_hidden_states": context, "class_labels": pooled}
    return {"context": context}, {"encoder_hidden_states": context}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_network_of_diffusers_says_the_same_here_and_goes_back_bit_for_bit(config, generator):
    theirs = randomised(UNet2DConditionModel(**config))
    ours = text_unet_from_diffusers(config, theirs.state_dict())
    x = torch.randn(4, ours.config.image_channels, 8, 8, generator=generator)
    conditions, their_conditions = told(ours.config, generator)
    with torch.no_grad():
        expected = theirs(x, K4, **their_conditions).sample
        torch.testing.assert_close(ours(x, T4, **conditions), expected, rtol=1e-5, atol=1e-5)
        other = ours(x, T4, **conditions | {"context": conditions["context"].flip(0)})
    assert (other - expected).abs().max() > 1e-2, "the text is heard"

    back, state = text_unet_to_diffusers(ours, config["sample_size"])
    heads = {"attention_head_dim": back["attention_head_dim"]}  # one number may stand for equal ones
    assert json.loads(json.dumps(back)) == json.loads(json.dumps(options(theirs) | SAME | heads))
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(value.flatten(), state[key].flatten()) for key, value in theirs.state_dict().items())
    again = UNet2DConditionModel(**back).eval()
    again.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(again(x, K4, **their_conditions).sample, expected, rtol=1e-5, atol=1e-5)


TEXT = replace(SIZES["tiny"], context_dim=12, mixer="spatial_transformer")
OURS = {
    "tiny": TEXT,
    "classes": replace(TEXT, classes=10, image_channels=3),
    "pooled": replace(TEXT, pooled_dim=5, patch=2),
    "three-levels": replace(TEXT, channel_mults=(1, 2, 2), attention_levels=(0, 2), head_channels=(8, 3, 32)),
}


@pytest.mark.parametrize("config", OURS.values(), ids=OURS.keys())
def test_a_network_of_ours_says_the_same_there_and_comes_back(config, generator):
    ours = randomised(UNet(config))
    options, state = text_unet_to_diffusers(ours, 8 * config.patch)
    theirs = UNet2DConditionModel(**options).eval()
    theirs.load_state_dict(state)
    x = torch.randn(4, config.image_channels, 8 * config.patch, 8 * config.patch, generator=generator)
    conditions, their_conditions = told(config, generator)
    again = text_unet_from_diffusers(options, state, bool(config.classes), patch=config.patch)
    with torch.no_grad():
        expected = ours(x, T4, **conditions)
        found = theirs(torch.nn.functional.pixel_unshuffle(x, config.patch), K4, **their_conditions).sample
        # An angle of up to 1000 in single precision is off by 1000 · 6e-8 on either side.
        torch.testing.assert_close(torch.nn.functional.pixel_shuffle(found, config.patch), expected, rtol=0, atol=5e-4)
        torch.testing.assert_close(again(x, T4, **conditions), expected, rtol=0, atol=5e-4)
    assert again.config.widths == config.widths
    assert all(again.config.head_widths[level] == config.head_widths[level] for level in config.attention_levels)


def test_a_mask_is_theirs_as_well(generator):
    theirs = randomised(UNet2DConditionModel(**TINY))
    ours = text_unet_from_diffusers(TINY, theirs.state_dict())
    x, context = (torch.randn(shape, generator=generator) for shape in ((4, 3, 8, 8), (4, 5, 12)))
    mask = torch.arange(5) < torch.tensor([5, 3, 1, 2])[:, None]
    with torch.no_grad():
        expected = theirs(x, K4, context, encoder_attention_mask=mask).sample
        # Theirs adds −10000 to what does not count.
        torch.testing.assert_close(ours(x, T4, context=context, context_mask=mask), expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(ours(x, T4, context=context), expected, atol=1e-3)


@pytest.mark.parametrize(("name", "parameters"), [("1.5", 859_520_964), ("2.1", 865_910_724)])
def test_the_real_configurations_are_read_and_written(name, parameters):
    """All names and shapes, without a number of them: what is on "meta" takes no memory."""
    with torch.device("meta"):
        theirs = UNet2DConditionModel(**REAL[name])
    state = theirs.state_dict()
    ours = text_unet_from_diffusers(REAL[name], state)
    assert sum(value.numel() for value in ours.parameters()) == sum(value.numel() for value in state.values())
    assert sum(value.numel() for value in state.values()) == parameters
    assert ours.config.head_channels == ((40, 80, 160, 160) if name == "1.5" else 64)


@pytest.mark.parametrize("name", ["1.5", "2.1"])
def test_the_real_configurations_come_back(name):
    written = _OPTIONS.defaults | _OPTIONS.write(UNetConfig(**_OPTIONS.read(REAL[name], "us", last_is_no_label=False)))
    expected = json.loads(json.dumps(_OPTIONS.defaults | dict(REAL[name]) | SAME))
    assert json.loads(json.dumps(written)) == expected | {"sample_size": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 9}, "out_channels = 3 does not fit: our UNet needs in_channels = 9 or twice as many"),
        ({"mid_block_type": "UNetMidBlock2D"}, "mid_block_type = 'UNetMidBlock2D' does not fit"),
        ({"attention_head_dim": 5}, r"attention_head_dim = 5 .* numbers of heads, which divide \[32\]"),
        ({"attention_head_dim": [2, 4, 8]}, "attention_head_dim = .* needs one number of heads, or 2"),
        ({"attention_head_dim": None}, "attention_head_dim = None .* a positive integer, or a list of them"),
        ({"cross_attention_dim": (12, 12)}, r"cross_attention_dim = \(12, 12\)"),
        ({"transformer_layers_per_block": [1, 2]}, r"transformer_layers_per_block = \[1, 2\]"),
        ({"addition_embed_type": "text_time"}, "addition_embed_type = 'text_time'"),
        ({"class_embed_type": "projection"}, "projection_class_embeddings_input_dim = None .* how long"),
        ({"down_block_types": ("AttnDownBlock2D",) * 2}, "down_block_types = .* among DownBlock2D, CrossAttnDownBl"),
        ({"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}, "up_block_types = .* same levels as down_block"),
        ({"time_cond_proj_dim": 256}, "time_cond_proj_dim = 256"),
        ({"add_attention": True}, "add_attention = True: this is no option of a UNet2DConditionModel"),
    ],
)
def test_an_option_that_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        text_unet_from_diffusers(TINY | changes, {})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (TINY | {"cross_attention_dim": 16}, r"attn2.to_k.weight must have the shape \(32, 12\), got \(32, 16\)"),
        (
            TINY | {"use_linear_projection": True},
            r"proj_in.weight must have the shape \(32, 32, 1, 1\), got \(32, 32\)",
        ),
        (TINY | {"layers_per_block": 2}, r"up_blocks.0.resnets.1.norm1.weight must have the shape|has no place"),
        (SD1 | {"in_channels": 3, "out_channels": 3}, "lack|must have the shape|no place"),
    ],
)
def test_weights_of_another_configuration_are_told_and_left_as_they_were(other, message):
    state = UNet2DConditionModel(**other).state_dict()
    before = dict(state)
    with pytest.raises(ValueError, match=message):
        text_unet_from_diffusers(TINY, state)
    assert state.keys() == before.keys()
    assert all(state[key] is before[key] for key in before)


def test_an_option_that_is_left_out_is_what_diffusers_takes():
    signature = inspect.signature(UNet2DConditionModel).parameters
    assert _OPTIONS.defaults == {name: parameter.default for name, parameter in signature.items()}


# Options that say nothing of a network as we read it.
SILENT = {"sample_size", "addition_time_embed_dim", "addition_embed_type_num_heads", "upcast_attention"}
ODD = (None, 0, -1, 1, 3, 5, 0.5, True, "", "conv", [], [0], [None, 16], [16], {}, ["DownBlock2D"] * 2)


@pytest.mark.parametrize("option", [name for name in _OPTIONS.table if name not in SILENT])
def test_each_option_is_read_as_diffusers_reads_it_or_named(option):
    """Without weights: what is lacking then are weights that theirs has, or an option that does not fit."""
    refused = 0
    for value in ODD:
        config = TINY | {option: value}
        with pytest.raises(ValueError, match=r" = .* does not fit: our UNet needs|^the weights lack") as found:
            text_unet_from_diffusers(config, {})
        if str(found.value).startswith("the weights lack"):
            text_unet_from_diffusers(config, UNet2DConditionModel(**config).state_dict())
        else:
            refused += 1
    assert refused > 5, "odd values of every option were read"


# Every option of ours, told otherwise than in `TEXT`: what it means there, or why it cannot be written.
OTHERS = {
    "image_channels": 3,
    "channels": 32,
    "channel_mults": (1, 3),
    "blocks": 2,
    "attention_levels": (0, 1),
    "middle_attention": False,
    "head_channels": (16, 8),
    "groups": 4,
    "classes": 5,
    "no_label": False,
    "learned_variance": True,
    "dropout": 0.25,
    "conditioning": "add",
    "resample": "block",
    "pad_end": True,
    "middle_attention_norm": False,
    "norm_eps": 1e-6,
    "frequency_shift": 1,
    "sines_first": True,
    "patch": 2,  # written as its inside
    "time_origin": 0,  # written into a weight
    "context_dim": 4,
    "pooled_dim": 4,
    "mixer": "attention",
    "checkpoint": True,  # a way to compute the same numbers
}
REFUSED = {
    "middle_attention": "middle_attention = False cannot be written as a UNet2DConditionModel: its middle always looks",
    "middle_attention_norm": "middle_attention_norm = False cannot be written",
    "resample": "resample = 'block' cannot be written",
    "mixer": "mixer = 'attention' cannot be written as a UNet2DConditionModel",
}
UNSAID = {"patch", "time_origin", "checkpoint"}


def test_no_option_of_ours_is_left_unsaid():
    assert OTHERS.keys() == {field.name for field in fields(UNetConfig)}


@pytest.mark.parametrize("option", OTHERS)
def test_each_option_of_ours_comes_back_or_is_refused(option):
    base = replace(TEXT, time_origin=1, classes=4 * (option in ("classes", "no_label")))
    config = replace(base, **{option: OTHERS[option]})
    assert config != base
    if option in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[option]):
            text_unet_to_diffusers(UNet(config))
        return
    options, state = text_unet_to_diffusers(UNet(config), 8)
    UNet2DConditionModel(**options).load_state_dict(state)
    again = text_unet_from_diffusers(options, state, last_is_no_label=bool(config.classes) and config.no_label).config
    inside = replace(config, image_channels=config.image_channels * config.patch**2)
    assert again == replace(inside, **{name: getattr(base, name) for name in UNSAID})


def test_a_class_and_a_vector_at_once_are_refused():
    with pytest.raises(ValueError, match=r"pooled_dim = 4 cannot be written .* and not both"):
        text_unet_to_diffusers(UNet(replace(TEXT, pooled_dim=4, classes=3)))


def test_another_kind_of_network_is_told():
    with pytest.raises(ValueError, match="a UNet2DConditionModel of diffusers is made of a UNet, got MLP"):
        text_unet_to_diffusers(MLP(2))
