"""Autoencoders against `diffusers` itself: the same numbers on both sides, and back again."""

import inspect
import json
from dataclasses import fields, replace

import pytest
import torch
from diffusers import AutoencoderKL

from _support.networks import randomised
from diffusion_book.interop import autoencoder_from_diffusers, autoencoder_to_diffusers
from diffusion_book.interop.diffusers.autoencoder import _OPTIONS
from diffusion_book.models.codec import Autoencoded
from diffusion_book.nn import MLP, Autoencoder, AutoencoderConfig
from diffusion_book.nn.autoencoder import STABLE_DIFFUSION


def levels(*widths: int) -> dict:
    return {
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
    }


TINY = levels(8, 16) | {"norm_num_groups": 4}
CONFIGS = {
    "tiny": TINY,
    "sd": levels(8, 16, 32, 32) | {"norm_num_groups": 8, "layers_per_block": 2, "sample_size": 512},
    "sd3": TINY
    | {
        "latent_channels": 16,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "force_upcast": True,
    },
    "no-attention": TINY | {"mid_block_add_attention": False, "in_channels": 1, "out_channels": 1, "act_fn": "swish"},
    "one-level": levels(8) | {"norm_num_groups": 4},
}


def options(theirs: AutoencoderKL) -> dict:
    return json.loads(json.dumps({key: value for key, value in theirs.config.items() if key[0] != "_"}))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_an_autoencoder_of_diffusers_says_the_same_here_and_goes_back_bit_for_bit(config, generator):
    theirs = randomised(AutoencoderKL(**config))
    ours = autoencoder_from_diffusers(config, theirs.state_dict())
    stride = 2 ** (len(config["block_out_channels"]) - 1)
    x = torch.randn(2, ours.config.image_channels, 4 * stride, 2 * stride, generator=generator)
    z = torch.randn(2, ours.config.latent_channels, 4, 2, generator=generator)
    with torch.no_grad():
        expected, found = theirs.encode(x).latent_dist, ours.encode(x)
        torch.testing.assert_close(found.mean, expected.mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.log_var, expected.logvar, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.decode(z), theirs.decode(z).sample, rtol=1e-5, atol=1e-5)
    assert expected.mean.std() > 0.05

    back, state = autoencoder_to_diffusers(ours, config.get("sample_size"))
    assert json.loads(json.dumps(back)) == options(theirs) | {"act_fn": "silu"}
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in theirs.state_dict().items())


def test_latents_are_scaled_and_shifted_as_in_their_pipelines(generator):
    """(z − shift) · scale on the way in, z / scale + shift on the way out."""
    config = CONFIGS["sd3"]
    theirs = randomised(AutoencoderKL(**config))
    codec = Autoencoded(autoencoder_from_diffusers(config, theirs.state_dict()))
    x = torch.rand(2, 3, 8, 8, generator=generator) * 2 - 1
    with torch.no_grad():
        z = theirs.encode(x).latent_dist.mode()
        x0 = (z - theirs.config.shift_factor) * theirs.config.scaling_factor
        pictures = theirs.decode(x0 / theirs.config.scaling_factor + theirs.config.shift_factor).sample
    torch.testing.assert_close(codec.encode(x), x0, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(codec.decode(x0), pictures.clamp(-1, 1), rtol=1e-5, atol=1e-5)


def test_the_old_names_of_attention_are_understood(generator):
    """As in the files of Stable Diffusion 1, which were written in 2022."""
    theirs = randomised(AutoencoderKL(**TINY))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for key, value in theirs.state_dict().items():
        for new, name in old.items():
            key = key.replace(f".{new}.", f".{name}.")
        state[key] = value
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in state
    z = torch.randn(2, 4, 4, 4, generator=generator)
    with torch.no_grad():
        expected = theirs.decode(z).sample
        torch.testing.assert_close(autoencoder_from_diffusers(TINY, state).decode(z), expected, rtol=1e-5, atol=1e-5)


def test_stable_diffusions_is_read_and_written():
    """All names and shapes, without a number of them: what is on "meta" takes no memory."""
    config = levels(128, 256, 512, 512) | {"layers_per_block": 2, "sample_size": 512}
    with torch.device("meta"):
        theirs = AutoencoderKL(**config)
    ours = autoencoder_from_diffusers(config, theirs.state_dict())
    assert ours.config == STABLE_DIFFUSION
    assert sum(value.numel() for value in ours.parameters()) == 83_653_863
    back, state = autoencoder_to_diffusers(ours, 512)
    assert back == _OPTIONS.defaults | {key: list(v) if isinstance(v, tuple) else v for key, v in config.items()}
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out_channels": 4}, "out_channels = 4 does not fit: our Autoencoder needs in_channels = 3"),
        ({"block_out_channels": (8, 12)}, r"block_out_channels = \(8, 12\) .* multiples of the first width"),
        ({"norm_num_groups": 3}, "norm_num_groups = 3 .* a divisor of each"),
        ({"down_block_types": ("AttnDownEncoderBlock2D",) * 2}, "down_block_types = .* 2 of DownEncoderBlock2D"),
        ({"up_block_types": ("UpDecoderBlock2D",)}, "up_block_types = .* 2 of UpDecoderBlock2D"),
        ({"use_quant_conv": False}, "use_post_quant_conv = True .* use_quant_conv = False"),
        ({"latents_mean": [0.0] * 4}, "latents_mean = .* needs None"),
        ({"scaling_factor": 0}, "scaling_factor = 0 .* a positive number"),
        ({"shift_factor": "0"}, "shift_factor = '0' .* None or a number"),
        ({"codebook": 8192}, "codebook = 8192: this is no option of a AutoencoderKL"),
    ],
)
def test_an_option_that_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        autoencoder_from_diffusers(TINY | changes, {})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (TINY | {"latent_channels": 8}, r"conv_out.weight must have the shape \(8, 16, 3, 3\), got \(16, 16, 3, 3\)"),
        (TINY | {"mid_block_add_attention": False}, "the weights lack encoder.mid_block.attentions.0.group_norm"),
        (TINY | {"layers_per_block": 2}, "encoder.down_blocks.0.resnets.1.norm1.weight has no place in this auto"),
    ],
)
def test_weights_of_another_configuration_are_told_and_left_as_they_were(other, message):
    state = AutoencoderKL(**other).state_dict()
    before = dict(state)
    with pytest.raises(ValueError, match=message):
        autoencoder_from_diffusers(TINY, state)
    assert state.keys() == before.keys()
    assert all(state[key] is before[key] for key in before)


def test_an_option_that_is_left_out_is_what_diffusers_takes():
    signature = inspect.signature(AutoencoderKL).parameters
    assert _OPTIONS.defaults == {name: parameter.default for name, parameter in signature.items()}


BASE = AutoencoderConfig(groups=4, channels=8)
OTHERS = {
    "image_channels": 1,
    "latent_channels": 2,
    "channels": 16,
    "channel_mults": (1, 2, 4),
    "blocks": 2,
    "attention": True,
    "patch": 2,
    "groups": 8,
    "norm_eps": 1e-5,
    "pad_end": False,
    "quant_conv": True,
    "scale": 0.25,
    "shift": 0.5,
}


def test_no_option_of_ours_is_left_unsaid():
    assert OTHERS.keys() == {field.name for field in fields(AutoencoderConfig)}


@pytest.mark.parametrize("option", OTHERS)
def test_each_option_of_ours_comes_back_or_is_refused(option, generator):
    config = replace(BASE, **{option: OTHERS[option]})
    assert config != BASE
    ours = randomised(Autoencoder(config))
    if option in ("patch", "norm_eps", "pad_end"):
        with pytest.raises(ValueError, match=f"{option} = .* cannot be written as a AutoencoderKL"):
            autoencoder_to_diffusers(ours)
        return
    options, state = autoencoder_to_diffusers(ours)
    theirs = AutoencoderKL(**options).eval()
    theirs.load_state_dict(state)
    again = autoencoder_from_diffusers(options, state)
    assert again.config == config
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in ours.state_dict().items())
    z = torch.randn(2, config.latent_channels, 4, 4, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(ours.decode(z), theirs.decode(z).sample, rtol=1e-5, atol=1e-5)


def test_another_kind_of_network_is_told():
    with pytest.raises(ValueError, match="an AutoencoderKL of diffusers is made of an Autoencoder, got MLP"):
        autoencoder_to_diffusers(MLP(2))
    with pytest.raises(ValueError, match=r"config must be a mapping by name, got Autoencoder; pass model\.config"):
        autoencoder_from_diffusers(Autoencoder(BASE), {})
