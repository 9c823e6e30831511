"""Autoencoders to and from `diffusers`: its AutoencoderKL is our Autoencoder under other names. Chapter 13."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffusion_book.interop.diffusers.ladder import check_mappings
from diffusion_book.interop.diffusers.options import (
    COUNT,
    COUNTS,
    FLAG,
    NAMES,
    NUMBER_OR_NONE,
    POSITIVE,
    Option,
    Options,
    Said,
    among,
)
from diffusion_book.interop.diffusers.weights import ATTENTION, OLD_ATTENTION, RESIDUAL_BLOCK, Weights, as_matrix
from diffusion_book.nn import Autoencoder, AutoencoderConfig
from diffusion_book.nn.build import uncompiled

_DOWN, _UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
_TABLE = {
    "in_channels": Option(3, COUNT, "image_channels"),
    "out_channels": Option(3),
    "latent_channels": Option(4, COUNT, "latent_channels"),
    "down_block_types": Option((_DOWN,), NAMES),
    "up_block_types": Option((_UP,), NAMES),
    "block_out_channels": Option((64,), COUNTS),
    "layers_per_block": Option(1, COUNT, "blocks"),
    "act_fn": Option("silu", among(["silu", "swish"])),
    "norm_num_groups": Option(32, COUNT, "groups"),
    "mid_block_add_attention": Option(True, FLAG, "attention"),
    "use_quant_conv": Option(True, FLAG, "quant_conv"),
    "use_post_quant_conv": Option(True, FLAG, "quant_conv"),
    "scaling_factor": Option(0.18215, POSITIVE, "scale"),
    "shift_factor": Option(None, NUMBER_OR_NONE),
    "latents_mean": Option(None, among([None])),
    "latents_std": Option(None, among([None])),
    "sample_size": Option(32),
    "force_upcast": Option(True),  # to float32, which our weights have anyhow
}


def _rules(o: Any) -> Said:
    widths, groups, levels = o.block_out_channels, o.norm_num_groups, len(o.block_out_channels)
    yield "out_channels", o.out_channels == o.in_channels, f"in_channels = {o.in_channels}"
    yield "block_out_channels", all(width % widths[0] == 0 for width in widths), "multiples of the first width"
    yield "norm_num_groups", all(width % groups == 0 for width in widths), f"a divisor of each of {widths}"
    yield "down_block_types", list(o.down_block_types) == [_DOWN] * levels, f"{levels} of {_DOWN}"
    yield "up_block_types", list(o.up_block_types) == [_UP] * levels, f"{levels} of {_UP}"
    yield "use_post_quant_conv", o.use_post_quant_conv == o.use_quant_conv, f"use_quant_conv = {o.use_quant_conv}"


def _to_ours(o: Any) -> dict[str, Any]:
    widths = o.block_out_channels
    return {
        "channels": widths[0],
        "channel_mults": tuple(width // widths[0] for width in widths),
        "shift": o.shift_factor or 0.0,
        "norm_eps": 1e-6,
        "pad_end": True,
    }


def _refused(c: Any) -> Said:
    yield "patch", c.patch == 1, "it begins with single pixels"
    yield "norm_eps", c.norm_eps == 1e-6, "it has 1e-6"
    yield "pad_end", c.pad_end, "its convolutions are padded at the bottom and right only"


def _to_theirs(c: Any) -> dict[str, Any]:
    return {
        "out_channels": c.image_channels,
        "down_block_types": [_DOWN] * len(c.widths),
        "up_block_types": [_UP] * len(c.widths),
        "block_out_channels": list(c.widths),
        "shift_factor": c.shift or None,
    }


_OPTIONS = Options("AutoencoderKL", _TABLE, _rules, _to_ours, _refused, _to_theirs)
_WEIGHTS = Weights(
    "this autoencoder",
    renames=[
        (r"^(encoder|decoder)\.stem", r"\1.conv_in"),
        (r"^(encoder|decoder)\.norm", r"\1.conv_norm_out"),
        (r"^(encoder|decoder)\.head", r"\1.conv_out"),
        (r"\.(down|up)\.(\d+)\.(\d+)\.", r".\1_blocks.\2.resnets.\3."),
        (r"\.downsample\.(\d+)\.", r".down_blocks.\1.downsamplers.0.conv."),
        (r"\.upsample\.(\d+)\.", r".up_blocks.\1.upsamplers.0."),
        (r"\.middle\.0\.", ".mid_block.resnets.0."),
        (r"\.middle\.1\.(norm|qkv|out)\.", r".mid_block.attentions.0.\1."),
        (r"\.middle\.[12]\.", ".mid_block.resnets.1."),
        *RESIDUAL_BLOCK,
        *ATTENTION,
    ],
    shapes=[(r"\.attentions\.\d+\.to_", as_matrix)],
    old=OLD_ATTENTION,
)


def autoencoder_from_diffusers(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> Autoencoder:
    """The autoencoder of an `AutoencoderKL`, with its weights in float32, ready to evaluate. Chapter 13.

    Args:
        config: the options of `AutoencoderKL`, as in its config.json; those left out have its defaults.
        state_dict: its weights, in any precision; the old names of its attention layers are understood.

    Raises:
        ValueError: an option or a weight does not fit an `Autoencoder`; the message names the first.

    Source: Rombach et al. 2022, appendix G.
    """
    check_mappings(config, state_dict)
    _OPTIONS.check_known(config)
    ours = AutoencoderConfig(**_OPTIONS.read(config, "our Autoencoder"))
    with torch.device("meta"):  # names and shapes only
        autoencoder = Autoencoder(ours)
    autoencoder.load_state_dict(_WEIGHTS.read(state_dict, autoencoder.state_dict()), assign=True)
    return autoencoder.eval()


def autoencoder_to_diffusers(
    autoencoder: Autoencoder, image_size: int | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The options and weights with which an `AutoencoderKL` is our autoencoder; read ones go back bit for bit.

    Args:
        image_size: side of the pictures, which `diffusers` asks where it cuts large ones into tiles.

    Raises:
        ValueError: an option of the autoencoder is not one of `AutoencoderKL`'s; the message names the first.
    """
    network = uncompiled(autoencoder)
    if not isinstance(network, Autoencoder):
        raise ValueError(f"an AutoencoderKL of diffusers is made of an Autoencoder, got {type(autoencoder).__name__}")
    options = _OPTIONS.defaults | _OPTIONS.write(network.config)
    return options | ({"sample_size": image_size} if image_size else {}), _WEIGHTS.write(network.state_dict())
