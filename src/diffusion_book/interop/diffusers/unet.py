"""U-Nets to and from `diffusers`: its UNet2DModel is our UNet under other names. Chapters 5 and 16.

Differences are of meaning. Where a schedule has steps, `diffusers` counts the noisy times from 0, this book from 1, so
its timestep k is our t = k + 1. A network read from there has `time_origin` = 1; in one written there the step of time
goes into the first layer behind the sinusoids. Flows and EDM tell a network the same numbers there as here, the
schedule's `clock`: 1000 t and ¼ ln σ.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

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
    FLAG,
    NAMES,
    NEGATED,
    POSITIVE,
    SHARE,
    Option,
    Options,
    Said,
    among,
)
from diffusion_book.interop.diffusers.weights import ATTENTION, OLD_ATTENTION, RESIDUAL_BLOCK, Weights, as_matrix
from diffusion_book.nn import UNet, UNetConfig
from diffusion_book.nn.build import uncompiled

_TABLE = {
    "sample_size": Option(None),
    "in_channels": Option(3, COUNT, "image_channels"),
    "out_channels": Option(3),
    "center_input_sample": Option(False, among([False])),
    "time_embedding_type": Option("positional", among(["positional"])),
    "time_embedding_dim": Option(None),
    "freq_shift": Option(0, among([0, 1]), "frequency_shift"),
    "flip_sin_to_cos": Option(True, NEGATED, "sines_first"),
    "down_block_types": Option(("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"), NAMES),
    "mid_block_type": Option("UNetMidBlock2D", among(["UNetMidBlock2D"])),
    "up_block_types": Option(("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"), NAMES),
    "block_out_channels": Option((224, 448, 672, 896), COUNTS),
    "layers_per_block": Option(2, COUNT, "blocks"),
    "mid_block_scale_factor": Option(1, among([1])),
    "downsample_padding": Option(1, among({0: True, 1: False}), "pad_end"),
    "downsample_type": Option("conv", among(["conv", "resnet"])),
    "upsample_type": Option("conv", among(["conv", "resnet"])),
    "dropout": Option(0.0, SHARE, "dropout"),
    "act_fn": Option("silu", among(["silu", "swish"])),
    "attention_head_dim": Option(8, COUNT_OR_NONE, "head_channels"),
    "norm_num_groups": Option(32, COUNT, "groups"),
    "attn_norm_num_groups": Option(None),
    "norm_eps": Option(1e-5, POSITIVE, "norm_eps"),
    "resnet_time_scale_shift": Option(
        "default", among({"default": "add", "scale_shift": "scale_shift"}), "conditioning"
    ),
    "add_attention": Option(True, FLAG),
    "class_embed_type": Option(None, among([None])),
    "num_class_embeds": Option(None, COUNT_OR_NONE),
    "num_train_timesteps": Option(None),
}


def _rules(o: Any) -> Said:
    C, widths, groups, head = o.in_channels, o.block_out_channels, o.norm_num_groups, o.attention_head_dim
    yield "out_channels", o.out_channels in (C, 2 * C), f"in_channels = {C} or twice as many"
    yield "block_out_channels", widths[0] % 2 == 0, "an even first width"
    yield "block_out_channels", widths[0] > 2 * o.freq_shift, "a first width of 4 or more with freq_shift = 1"
    yield "time_embedding_dim", o.time_embedding_dim in (None, 4 * widths[0]), f"None or {4 * widths[0]}"
    yield "norm_num_groups", all(w % groups == 0 for w in widths), f"a divisor of each of {widths}"
    yield "attn_norm_num_groups", o.attn_norm_num_groups in (None, groups), f"None or {groups}"

    down, up = o.down_block_types, o.up_block_types
    for option, types, known in (("down_block_types", down, _kinds("Down")), ("up_block_types", up, _kinds("Up"))):
        yield option, len(types) == len(widths), f"a type for each of the {len(widths)} levels"
        yield option, set(types) <= set(known), f"types among {', '.join(known)}"
    levels = _attending(down)
    yield "up_block_types", _attending(up[::-1]) == levels, "attention on the same levels as down_block_types"
    below, above = _resamples(down, o.downsample_type), _resamples(up, o.upsample_type)
    yield "down_block_types", len(below) < 2, "convolutions between all levels, or residual blocks between all"
    yield "up_block_types", above == below, "the way up to resample like the way down"

    attends = [widths[level] for level in levels] + [widths[-1]] * o.add_attention
    yield (
        "attention_head_dim",
        head is None or all(w % head == 0 for w in attends),
        f"a divisor of each of {attends}",
    )
    yield "num_class_embeds", (o.num_class_embeds or 0) > 1 or not o.last_is_no_label, 'a class besides "no label"'


def _to_ours(o: Any) -> dict[str, Any]:
    widths, levels = o.block_out_channels, _attending(o.down_block_types)
    blocks = _resamples(o.down_block_types, o.downsample_type) == {True}
    # Theirs leaves the middle's norm out under scale_shift, unless it is given groups.
    norm = o.resnet_time_scale_shift == "default" or o.attn_norm_num_groups is not None or not o.add_attention
    return {
        "channels": widths[0],
        "channel_mults": tuple(w // widths[0] if w % widths[0] == 0 else w / widths[0] for w in widths),
        "attention_levels": levels,
        "middle_attention": None if o.add_attention == bool(levels) else o.add_attention,
        "middle_attention_norm": norm,
        "classes": (o.num_class_embeds or 0) - o.last_is_no_label,
        "no_label": o.last_is_no_label or not o.num_class_embeds,
        "learned_variance": o.out_channels == 2 * o.in_channels,
        "resample": "block" if blocks else "conv",
    }


def _refused(c: Any) -> Said:
    norm = c.middle_attention_norm or c.conditioning != "add" or not c.attends_in_the_middle
    yield "context_dim", c.context_dim == 0, "it reads no text"
    yield "pooled_dim", c.pooled_dim == 0, "it takes no vector of a text"
    yield "mixer", c.mixer == "attention", "its positions look at each other and at nothing else"
    yield "middle_attention_norm", norm, 'under conditioning = "add" it always has one'


def _to_theirs(c: Any) -> dict[str, Any]:
    between = "resnet" if c.resample == "block" else "conv"
    norm_is_told = c.attends_in_the_middle and c.middle_attention_norm and c.conditioning == "scale_shift"
    return {
        "out_channels": c.out_channels,
        "down_block_types": _types("Down", c),
        "up_block_types": _types("Up", c)[::-1],
        "block_out_channels": list(c.widths),
        "downsample_type": between,
        "upsample_type": between,
        "attn_norm_num_groups": c.groups if norm_is_told else None,
        "add_attention": c.attends_in_the_middle,
        "num_class_embeds": c.classes + c.no_label if c.classes else None,
    }


_OPTIONS = Options("UNet2DModel", _TABLE, _rules, _to_ours, _refused, _to_theirs)
_WEIGHTS = Weights(
    "this U-Net",
    renames=[
        (r"^stem", "conv_in"),
        (r"^norm", "conv_norm_out"),
        (r"^head", "conv_out"),
        (r"^embed_time\.layers\.0", "time_embedding.linear_1"),
        (r"^embed_time\.layers\.2", "time_embedding.linear_2"),
        (r"^embed_class", "class_embedding"),
        (r"^(down|up)\.(\d+)\.(\d+)\.block", r"\1_blocks.\2.resnets.\3"),
        (r"^(down|up)\.(\d+)\.(\d+)\.attention", r"\1_blocks.\2.attentions.\3"),
        (r"^middle\.(\d+)\.block", r"mid_block.resnets.\1"),
        (r"^middle\.(\d+)\.attention", r"mid_block.attentions.\1"),
        (r"^downsample\.(\d+)\.(weight|bias)", r"downsample.\1.conv.\2"),
        (r"^(down|up)sample\.(\d+)", r"\1_blocks.\2.\1samplers.0"),
        *RESIDUAL_BLOCK,
        *ATTENTION,
    ],
    shapes=[(r"\.attentions\.\d+\.to_", as_matrix)],
    old=OLD_ATTENTION,
)


def unet_from_diffusers(
    config: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    last_is_no_label: bool = False,
    time_origin: int = 1,
    patch: int = 1,
) -> UNet:
    """The U-Net of a `UNet2DModel`, with its weights in float32, ready to evaluate: ours at t is theirs at t − 1.

    Args:
        config: the options of `UNet2DModel`, as in its config.json; those left out have its defaults.
        state_dict: its weights, in any precision; the old names of its attention layers are understood.
        last_is_no_label: whether the last of its `num_class_embeds` classes means "no label". `diffusers` does not
            say; otherwise the network wants a label in every call.
        time_origin: the time of ours that they call 0: 1 where they count steps, 0 for flows and EDM.
        patch: p of the network that `unet_to_diffusers` wrote, for one of images [B, C, H, W] again; 1 leaves one of
            their unshuffled form [B, C p², H/p, W/p].

    Raises:
        ValueError: an option or a weight does not fit a `UNet`; the message names the first.
    """
    _check_mappings(config, state_dict)
    _OPTIONS.check_known(config)
    ours = UNetConfig(**_OPTIONS.read(config, "our UNet", last_is_no_label=last_is_no_label), time_origin=time_origin)
    with torch.device("meta"):  # names and shapes only: no memory, and no random numbers
        unet = UNet(with_patches(ours, patch))
    expected = unet.state_dict()
    expected["stem.weight"] = widen(expected["stem.weight"], patch)
    state = _WEIGHTS.read(state_dict, expected)
    state["stem.weight"] = narrow(state["stem.weight"], patch)
    unet.load_state_dict(state, assign=True)
    return unet.eval()


def unet_to_diffusers(
    unet: UNet, image_size: int | tuple[int, int] | None = None, time_origin: int = 1
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The options and weights with which a `UNet2DModel` at timestep t − 1 is our U-Net at t.

    Weights read by `unet_from_diffusers` go back bit for bit. Those of a network with another `time_origin` than is
    asked for have the step of time in `time_embedding.linear_1`; the outputs then differ by the rounding of an angle.

    With `patch` = p > 1 theirs takes `pixel_unshuffle(x, p)` [B, C p², H/p, W/p] and its output is that of ours in the
    same form: `pixel_shuffle(…, p)` makes it [B, C, H, W]. Both functions are in `torch.nn.functional`.

    Args:
        unet: what to write. Label `classes` still means "no label", but nothing in the options says so.
        image_size: side, or (height, width), of the images; `diffusers` wants to know before it samples. The options
            have it in patches.
        time_origin: the time of ours that they are to call 0: 1 where they count steps, 0 for flows and EDM.

    Raises:
        ValueError: an option of the U-Net is not one of `UNet2DModel`'s; the message names the first. Or image_size is
            no multiple of `patch`.
    """
    network = uncompiled(unet)
    if not isinstance(network, UNet):
        raise ValueError(f"a UNet2DModel of diffusers is made of a UNet, got {type(unet).__name__}")
    config, state = network.config, network.state_dict()
    options = _OPTIONS.defaults | _OPTIONS.write(without_patches(config))
    options["sample_size"] = size_in_patches(image_size, config.patch)
    state["stem.weight"] = widen(state["stem.weight"], config.patch)
    behind_sinusoids = "embed_time.layers.0.weight"
    state[behind_sinusoids] = turn(state[behind_sinusoids], time_origin - config.time_origin, config)
    return options, _WEIGHTS.write(state)


def _kinds(way: str) -> tuple[str, str, str]:
    return f"{way}Block2D", f"Attn{way}Block2D", f"Resnet{way}sampleBlock2D"


def _types(way: str, c: UNetConfig) -> list[str]:
    """The kind of each level, from the highest resolution down."""
    conv, attention, block = _kinds(way)
    plain = block if c.resample == "block" else conv
    return [attention if level in c.attention_levels else plain for level in range(len(c.widths))]


def _attending(types: Sequence[str]) -> tuple[int, ...]:
    return tuple(level for level, kind in enumerate(types) if kind.startswith("Attn"))


def _resamples(types: Sequence[str], attention: str) -> set[bool]:
    """Whether residual blocks stand between levels, as each kind of level says that has another behind it."""
    return {attention == "resnet" if kind.startswith("Attn") else kind.startswith("Resnet") for kind in types[:-1]}


def _check_mappings(config: object, state_dict: object) -> None:
    for name, value, of_theirs in (("config", config, "config"), ("state_dict", state_dict, "state_dict()")):
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be a mapping by name, got {type(value).__name__}; pass model.{of_theirs}")
