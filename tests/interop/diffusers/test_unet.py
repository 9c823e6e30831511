"""Networks against `diffusers` itself: the same numbers on both sides, and back again."""

import inspect
import json
import sys
from dataclasses import fields, replace

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from _support.networks import randomised
from _support.unet2d import K4, SCALE_SHIFT, T4, TINY
from diffusion_book.interop import unet_from_diffusers, unet_to_diffusers
from diffusion_book.interop.diffusers.unet import _OPTIONS
from diffusion_book.nn import MLP, SIZES, UNet, UNetConfig

CIFAR10 = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
# The network that benchmarks/unet.py compares with.
BASELINE = {
    "sample_size": 32,
    "layers_per_block": 2,
    "block_out_channels": (32, 64, 128),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    "norm_num_groups": 32,
    "attention_head_dim": 32,
}
CONFIGS = {
    "tiny": TINY,
    "cifar10": CIFAR10,
    "baseline": BASELINE,
    "defaults": {"block_out_channels": (32, 64, 64, 64)},
    "classes": TINY | {"num_class_embeds": 11},
    "scale-shift": SCALE_SHIFT,
    "scale-shift-norm": SCALE_SHIFT | {"attn_norm_num_groups": 8, "attention_head_dim": 16},
    "scale-shift-no-attention": SCALE_SHIFT
    | {"add_attention": False, "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2},
    "middle-only": TINY | {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2},
    "no-middle": TINY | {"add_attention": False, "in_channels": 1, "out_channels": 1},
    "learned-variance": TINY | {"out_channels": 6, "act_fn": "swish"},
    "fractions": TINY | {"block_out_channels": (16, 24), "time_embedding_dim": 64, "dropout": 0.1},
    "resnet": TINY
    | {
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
        "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
    },
}


def options(theirs: UNet2DModel) -> dict:
    """As JSON knows them, and without those that start with an underscore."""
    return json.loads(json.dumps({key: value for key, value in theirs.config.items() if key[0] != "_"}))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_network_of_diffusers_says_the_same_here_and_goes_back_bit_for_bit(config, generator):
    theirs = UNet2DModel(**{key: value for key, value in config.items() if key[0] != "_"})
    # Small networks get weights that excite every branch; the wide ones keep to their initial size.
    theirs = randomised(theirs) if max(config["block_out_channels"]) < 64 else theirs.eval()
    ours = unet_from_diffusers(config, theirs.state_dict())
    side = 8 if len(config["block_out_channels"]) < 4 else 16
    x = torch.randn(4, ours.config.image_channels, side, side, generator=generator)
    y = torch.tensor([0, 3, 9, 10]) if ours.config.classes else None
    with torch.no_grad():
        expected = theirs(x, K4, class_labels=y).sample
        torch.testing.assert_close(ours(x, T4, y), expected, rtol=1e-5, atol=1e-5)

    back, state = unet_to_diffusers(ours, config.get("sample_size"))
    expected_options = options(theirs) | {"act_fn": "silu", "time_embedding_dim": None}  # two names of each
    assert json.loads(json.dumps(back)) == expected_options
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in theirs.state_dict().items())


OURS = {
    "tiny": SIZES["tiny"],
    "digits-unpatched": replace(SIZES["digits"], patch=1, classes=10),
    "small": replace(SIZES["small"], channels=32),
    "learned-variance": replace(SIZES["tiny"], learned_variance=True, image_channels=3),
    "others": replace(
        SIZES["tiny"],
        conditioning="add",
        resample="block",
        sines_first=True,
        frequency_shift=1,
        pad_end=True,
        norm_eps=1e-6,
        head_channels=None,
    ),
    "no-attention": replace(SIZES["tiny"], attention_levels=()),
    "middle-without-norm": replace(SIZES["tiny"], middle_attention_norm=False, time_origin=3),
}


@pytest.mark.parametrize("config", OURS.values(), ids=OURS.keys())
def test_a_network_of_ours_says_the_same_there_and_comes_back(config, generator):
    """Its sinusoids start at 0 where theirs start at 1, so the first layer behind them is turned."""
    ours = randomised(UNet(config))
    options, state = unet_to_diffusers(ours, 8)
    theirs = UNet2DModel(**options).eval()
    theirs.load_state_dict(state)
    again = unet_from_diffusers(options, state, last_is_no_label=bool(config.classes))
    assert again.config == replace(config, time_origin=1)
    x = torch.randn(4, config.image_channels, 8, 8, generator=generator)
    y = torch.tensor([0, 3, 9, 10]) if config.classes else None
    with torch.no_grad():
        expected = ours(x, T4, y)
        # An angle of up to 1000 in single precision is off by 1000 · 6e-8 on either side.
        torch.testing.assert_close(theirs(x, K4, class_labels=y).sample, expected, rtol=0, atol=5e-4)
        torch.testing.assert_close(again(x, T4, y), expected, rtol=0, atol=5e-4)
    late = torch.nn.functional.mse_loss(theirs(x, T4, class_labels=y).sample, expected)
    assert late.sqrt() > 2e-3, "the tolerance could not tell one time from the next"


def test_what_was_written_is_read_bit_for_bit():
    ours = randomised(UNet(replace(SIZES["tiny"], time_origin=1, classes=4)))
    again = unet_from_diffusers(*unet_to_diffusers(ours), last_is_no_label=True)
    assert again.config == ours.config
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())


def test_a_copy_is_a_copy_and_can_be_trained():
    theirs = UNet2DModel(**TINY)
    before = {key: value.clone() for key, value in theirs.state_dict().items()}
    ours = unet_from_diffusers(TINY, theirs.state_dict())
    _, state = unet_to_diffusers(ours)
    with torch.no_grad():
        for parameter in ours.parameters():
            assert parameter.requires_grad
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in theirs.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in state.items())


def test_the_old_names_of_attention_are_understood(generator):
    theirs = randomised(UNet2DModel(**TINY))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for key, value in theirs.state_dict().items():
        for new, name in old.items():
            key = key.replace(f".{new}.", f".{name}.")
        state[key] = value
    assert "mid_block.attentions.0.proj_attn.weight" in state
    x = torch.randn(4, 3, 8, 8, generator=generator)
    with torch.no_grad():
        expected = theirs(x, K4).sample
        torch.testing.assert_close(unet_from_diffusers(TINY, state)(x, T4), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"center_input_sample": True}, "center_input_sample = True does not fit: our UNet needs False"),
        ({"time_embedding_type": "fourier", "act_fn": "relu"}, "time_embedding_type = 'fourier' does not fit"),
        ({"time_embedding_dim": 32}, "time_embedding_dim = 32 .* needs None or 64"),
        ({"freq_shift": 2}, "freq_shift = 2 .* 0 or 1"),
        ({"mid_block_type": None}, "mid_block_type = None"),
        ({"mid_block_scale_factor": 1.4}, "mid_block_scale_factor = 1.4"),
        ({"downsample_padding": 2}, "downsample_padding = 2"),
        ({"act_fn": "gelu"}, "act_fn = 'gelu' .* 'silu' or 'swish'"),
        ({"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
        ({"out_channels": 4}, "out_channels = 4 .* in_channels = 3 or twice as many"),
        ({"norm_num_groups": 5}, "norm_num_groups = 5"),
        ({"attn_norm_num_groups": 4}, "attn_norm_num_groups = 4 .* None or 8"),
        ({"attention_head_dim": 12}, r"attention_head_dim = 12 .* a divisor of each of \[32, 32\]"),
        ({"down_block_types": ("KDownBlock2D", "AttnDownBlock2D")}, "down_block_types = .* among DownBlock2D"),
        ({"up_block_types": ("UpBlock2D", "AttnUpBlock2D")}, "up_block_types = .* same levels as down_block_types"),
        ({"down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D")}, "up_block_types = .* to resample like"),
        ({"up_block_types": ("AttnUpBlock2D",)}, "up_block_types = .* a type for each of the 2 levels"),
        ({"upsample_type": "resnet"}, "up_block_types = .* to resample like the way down"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift = 'spatial'"),
        ({"encoder_hid_dim": 8}, "encoder_hid_dim = 8: this is no option of a UNet2DModel"),
    ],
)
def test_an_option_that_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        unet_from_diffusers(TINY | changes, {})


# What a config.json of another hand, or a damaged one, may have in any place.
ODD = (None, 0, -1, 1, 3, 5, 0.5, 1e400, True, False, "", "conv", [], [0], [None, 16], [16], {}, ["DownBlock2D"] * 2)
# Options that say nothing of a network: the size of its images, and of a table that only learned times have.
SILENT = ("sample_size", "num_train_timesteps")
# Where an option is another's measure, that other may be the one that no longer fits.
MEASURED = {
    "in_channels": "out_channels",
    "block_out_channels": "down_block_types",
    "down_block_types": "up_block_types",
}


@pytest.mark.parametrize("base", [TINY, SCALE_SHIFT], ids=["add", "scale-shift"])
@pytest.mark.parametrize("option", [key for key in inspect.signature(UNet2DModel).parameters if key not in SILENT])
def test_each_option_is_read_as_diffusers_reads_it_or_named(option, base):
    """Without weights: what is lacking then are weights that `UNet2DModel` has, or an option that does not fit."""
    refused = 0
    for value in ODD:
        config = base | {option: value}
        named = f"^({option}|{MEASURED.get(option, option)}) = .* does not fit: our UNet needs"
        with pytest.raises(ValueError, match=f"{named}|^the weights lack") as told:
            unet_from_diffusers(config, {})
        if str(told.value).startswith("the weights lack"):
            unet_from_diffusers(config, UNet2DModel(**config).state_dict())
        else:
            refused += 1
    assert refused > 5, "odd values of every option were read"


def test_an_option_that_is_left_out_is_what_diffusers_takes():
    signature = inspect.signature(UNet2DModel).parameters
    assert _OPTIONS.defaults == {name: parameter.default for name, parameter in signature.items()}


# Every option of ours, told otherwise than in the network `BASE`: what it means there, or why it cannot be written.
BASE = replace(SIZES["tiny"], classes=4, time_origin=1)
OTHERS = {
    "image_channels": 3,
    "channels": 32,
    "channel_mults": (1, 3),
    "blocks": 2,
    "attention_levels": (0, 1),
    "middle_attention": False,
    "head_channels": 8,
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
    "patch": 2,  # written as its inside: test_first_layers.py
    "time_origin": 0,  # written into a weight: the same
    "context_dim": 4,
    "pooled_dim": 4,
    "checkpoint": True,  # a way to compute the same numbers
}
REFUSED = {
    "context_dim": "context_dim = 4 cannot be written as a UNet2DModel: it reads no text",
    "pooled_dim": "pooled_dim = 4 cannot be written as a UNet2DModel: it takes no vector of a text",
}
UNSAID = {"patch", "time_origin", "checkpoint"}


def test_no_option_of_ours_is_left_unsaid():
    assert OTHERS.keys() | {"mixer"} == {field.name for field in fields(UNetConfig)}  # another reads a text: below


def test_other_mixers_and_heads_by_level_are_refused():
    for changes, message in (
        ({"mixer": "spatial_transformer", "context_dim": 4}, "context_dim = 4 cannot"),
        ({"head_channels": (16, 8)}, r"head_channels = \(16, 8\) cannot be written as a UNet2DModel: its heads are"),
    ):
        with pytest.raises(ValueError, match=message):
            unet_to_diffusers(UNet(replace(BASE, **changes)))


@pytest.mark.parametrize("option", OTHERS)
def test_each_option_of_ours_comes_back_or_is_refused(option):
    config = replace(BASE, **{option: OTHERS[option]})
    assert config != BASE
    if option in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[option]):
            unet_to_diffusers(UNet(config))
        return
    options, state = unet_to_diffusers(UNet(config), 8)
    UNet2DModel(**options).load_state_dict(state)
    again = unet_from_diffusers(options, state, last_is_no_label=config.no_label).config
    inside = replace(config, image_channels=config.image_channels * config.patch**2)
    assert again == replace(inside, **{name: getattr(BASE, name) for name in UNSAID})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((nn.Linear(2, 2), {}), r"config must be a mapping by name, got Linear; pass model\.config"),
        ((TINY, nn.Linear(2, 2)), r"state_dict must be a mapping by name, got Linear; pass model\.state_dict\(\)"),
    ],
)
def test_a_whole_network_in_the_place_of_its_options_or_weights_is_told(given, message):
    with pytest.raises(ValueError, match=message):
        unet_from_diffusers(*given)


def test_another_kind_of_network_is_told():
    with pytest.raises(ValueError, match="a UNet2DModel of diffusers is made of a UNet, got MLP"):
        unet_to_diffusers(MLP(2))


def test_networks_need_no_diffusers(monkeypatch):
    state = UNet2DModel(**TINY).state_dict()
    monkeypatch.setitem(sys.modules, "diffusers", None)
    unet = unet_from_diffusers(TINY, state)
    assert isinstance(unet.config, UNetConfig)
    unet_to_diffusers(unet)
