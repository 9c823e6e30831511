"""What the U-Nets of `diffusers` have in common: options, names and rules of their ladder, and the loop each way.

Differences are of meaning. Where a schedule has steps, `diffusers` counts the noisy times from 0, this book from 1, so
its timestep k is our t = k + 1. A network read from there has `time_origin` = 1; in one written there the step of time
goes into the first layer behind the sinusoids. Flows and EDM tell a network the same numbers there as here, the
schedule's `clock`: 1000 t and ¼ ln σ.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_book.interop.diffusers.first_layers import (
    narrow,
    size_in_patches,
    turn,
    widen,
    with_patches,
    without_patches,
)
from diffusion_book.interop.diffusers.options import (
    COUNT,
    COUNT_OR_NONE,
    COUNTS,
    NAMES,
    NEGATED,
    POSITIVE,
    SHARE,
    Option,
    Options,
    Said,
    among,
)
from diffusion_book.interop.diffusers.weights import RESIDUAL_BLOCK, Renames, Weights
from diffusion_book.nn import UNet, UNetConfig
from diffusion_book.nn.build import uncompiled

OPTIONS = {
    "sample_size": Option(None),
    "center_input_sample": Option(False, among([False])),
    "time_embedding_type": Option("positional", among(["positional"])),
    "time_embedding_dim": Option(None),
    "freq_shift": Option(0, among([0, 1]), "frequency_shift"),
    "flip_sin_to_cos": Option(True, NEGATED, "sines_first"),
    "layers_per_block": Option(2, COUNT, "blocks"),
    "mid_block_scale_factor": Option(1, among([1])),
    "downsample_padding": Option(1, among({0: True, 1: False}), "pad_end"),
    "dropout": Option(0.0, SHARE, "dropout"),
    "act_fn": Option("silu", among(["silu", "swish"])),
    "norm_num_groups": Option(32, COUNT, "groups"),
    "norm_eps": Option(1e-5, POSITIVE, "norm_eps"),
    "resnet_time_scale_shift": Option(
        "default", among({"default": "add", "scale_shift": "scale_shift"}), "conditioning"
    ),
    "num_class_embeds": Option(None, COUNT_OR_NONE),
}
RENAMES: Renames = [
    (r"^stem", "conv_in"),
    (r"^norm", "conv_norm_out"),
    (r"^head", "conv_out"),
    (r"^embed_time\.layers\.0", "time_embedding.linear_1"),
    (r"^embed_time\.layers\.2", "time_embedding.linear_2"),
    (r"^embed_class", "class_embedding"),
    (r"^(down|up)\.(\d+)\.(\d+)\.block", r"\1_blocks.\2.resnets.\3"),
    (r"^(down|up)\.(\d+)\.(\d+)\.(attention|transformer)", r"\1_blocks.\2.attentions.\3"),
    (r"^middle\.(\d+)\.block", r"mid_block.resnets.\1"),
    (r"^middle\.(\d+)\.(attention|transformer)", r"mid_block.attentions.\1"),
    (r"^downsample\.(\d+)\.(weight|bias)", r"downsample.\1.conv.\2"),
    (r"^(down|up)sample\.(\d+)", r"\1_blocks.\2.\1samplers.0"),
    *RESIDUAL_BLOCK,
]

Kinds = Callable[[str], tuple[str, ...]]
"""What the levels of the way "Down" or "Up" may be, by name; those that look around have “Attn” in theirs."""


def images(channels: int) -> dict[str, Option]:
    """The options of what goes in and comes out."""
    return {"in_channels": Option(channels, COUNT, "image_channels"), "out_channels": Option(channels)}


def levels(down: Sequence[str], up: Sequence[str], widths: Sequence[int]) -> dict[str, Option]:
    """The options of the levels, which have defaults of a class's own."""
    return {
        "down_block_types": Option(tuple(down), NAMES),
        "up_block_types": Option(tuple(up), NAMES),
        "block_out_channels": Option(tuple(widths), COUNTS),
    }


def rules(o: Any, kinds: Kinds) -> Said:
    """What options must be to each other, in either class."""
    C, widths, groups = o.in_channels, o.block_out_channels, o.norm_num_groups
    yield "out_channels", o.out_channels in (C, 2 * C), f"in_channels = {C} or twice as many"
    yield "block_out_channels", widths[0] % 2 == 0, "an even first width"
    yield "block_out_channels", widths[0] > 2 * o.freq_shift, "a first width of 4 or more with freq_shift = 1"
    yield "time_embedding_dim", o.time_embedding_dim in (None, 4 * widths[0]), f"None or {4 * widths[0]}"
    yield "norm_num_groups", all(w % groups == 0 for w in widths), f"a divisor of each of {widths}"
    down, up = o.down_block_types, o.up_block_types
    for option, types, known in (("down_block_types", down, kinds("Down")), ("up_block_types", up, kinds("Up"))):
        yield option, len(types) == len(widths), f"a type for each of the {len(widths)} levels"
        yield option, set(types) <= set(known), f"types among {', '.join(known)}"
    yield "up_block_types", attending(up[::-1]) == attending(down), "attention on the same levels as down_block_types"
    yield "num_class_embeds", (o.num_class_embeds or 0) > 1 or not o.last_is_no_label, 'a class besides "no label"'


def to_ours(o: Any) -> dict[str, Any]:
    """What follows for ours from several of theirs, in either class."""
    widths = o.block_out_channels
    return {
        "channels": widths[0],
        "channel_mults": tuple(w // widths[0] if w % widths[0] == 0 else w / widths[0] for w in widths),
        "attention_levels": attending(o.down_block_types),
        "classes": (o.num_class_embeds or 0) - o.last_is_no_label,
        "no_label": o.last_is_no_label or not o.num_class_embeds,
        "learned_variance": o.out_channels == 2 * o.in_channels,
    }


def to_theirs(c: Any, plain: str, looking: str) -> dict[str, Any]:
    """What follows for theirs from several of ours, in either class.

    Args:
        plain, looking: what a level is called without and with attention, with {} in the place of "Down" or "Up".
    """
    types = [looking if level in c.attention_levels else plain for level in range(len(c.widths))]
    return {
        "out_channels": c.out_channels,
        "down_block_types": [kind.format("Down") for kind in types],
        "up_block_types": [kind.format("Up") for kind in reversed(types)],
        "block_out_channels": list(c.widths),
        "num_class_embeds": c.classes + c.no_label if c.classes else None,
    }


def attending(types: Sequence[str]) -> tuple[int, ...]:
    """The levels that look around."""
    return tuple(level for level, kind in enumerate(types) if "Attn" in kind)


def read(
    options: Options,
    weights: Weights,
    config: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    last_is_no_label: bool,
    time_origin: int,
    patch: int,
) -> UNet:
    """Theirs → ours; see `unet_from_diffusers`."""
    options.check_known(config)
    ours = UNetConfig(**options.read(config, "our UNet", last_is_no_label=last_is_no_label), time_origin=time_origin)
    with torch.device("meta"):  # names and shapes only: no memory, and no random numbers
        unet = UNet(with_patches(ours, patch))
    expected = unet.state_dict()
    expected["stem.weight"] = widen(expected["stem.weight"], patch)
    state = weights.read(state_dict, expected)
    state["stem.weight"] = narrow(state["stem.weight"], patch)
    unet.load_state_dict(state, assign=True)
    return unet.eval()


def write(
    options: Options, weights: Weights, unet: nn.Module, image_size: int | tuple[int, int] | None, time_origin: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Ours → theirs; see `unet_to_diffusers`."""
    network = uncompiled(unet)
    if not isinstance(network, UNet):
        raise ValueError(f"a {options.theirs} of diffusers is made of a UNet, got {type(unet).__name__}")
    config, state = network.config, network.state_dict()
    written = options.defaults | options.write(without_patches(config))
    written["sample_size"] = size_in_patches(image_size, config.patch)
    state["stem.weight"] = widen(state["stem.weight"], config.patch)
    behind_sinusoids = "embed_time.layers.0.weight"
    state[behind_sinusoids] = turn(state[behind_sinusoids], time_origin - config.time_origin, config)
    return written, weights.write(state)


def check_mappings(config: object, state_dict: object) -> None:
    """A ValueError where a whole network came in the place of its options or weights."""
    for name, value, of_theirs in (("config", config, "config"), ("state_dict", state_dict, "state_dict()")):
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be a mapping by name, got {type(value).__name__}; pass model.{of_theirs}")
