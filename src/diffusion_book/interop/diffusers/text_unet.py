"""U-Nets that read a text, to and from `diffusers`: its UNet2DConditionModel, as Stable Diffusion has it. Chapter 13.

It is our UNet with `mixer` = "spatial_transformer". What their configurations call `attention_head_dim` is how many
heads there are, and not how wide they are.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from diffusion_book.interop.diffusers import ladder
from diffusion_book.interop.diffusers.options import (
    COUNT,
    COUNT_OR_COUNTS,
    COUNT_OR_NONE,
    FLAG,
    Kind,
    Option,
    Options,
    Said,
    among,
)
from diffusion_book.interop.diffusers.weights import TRANSFORMER, Weights, as_matrix
from diffusion_book.nn import UNet

_TABLE = {
    **ladder.OPTIONS,
    **ladder.images(4),
    **ladder.levels(
        ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        [320, 640, 1280, 1280],
    ),
    "mid_block_type": Option("UNetMidBlock2DCrossAttn", among(["UNetMidBlock2DCrossAttn"])),
    "cross_attention_dim": Option(1280, COUNT, "context_dim"),
    "attention_head_dim": Option(8, COUNT_OR_COUNTS),
    "use_linear_projection": Option(False, FLAG),
    "upcast_attention": Option(False, FLAG),  # to float32, which our weights have anyhow
    "class_embed_type": Option(None, among([None, "projection"])),
    "projection_class_embeddings_input_dim": Option(None, COUNT_OR_NONE),
    # What other models have and Stable Diffusion 1 and 2 have not.
    "only_cross_attention": Option(False, Kind(lambda value: value is False, "False")),  # 0 is none there
    "mid_block_only_cross_attention": Option(None, among([None, False])),
    "dual_cross_attention": Option(False, among([False])),
    "cross_attention_norm": Option(None, among([None])),
    "attention_type": Option("default", among(["default"])),
    "num_attention_heads": Option(None, among([None])),
    "transformer_layers_per_block": Option(1, among([1])),
    "reverse_transformer_layers_per_block": Option(None, among([None])),
    "encoder_hid_dim": Option(None, among([None])),
    "encoder_hid_dim_type": Option(None, among([None])),
    "addition_embed_type": Option(None, among([None])),
    "addition_embed_type_num_heads": Option(64),
    "addition_time_embed_dim": Option(None),
    "class_embeddings_concat": Option(False, among([False])),
    "time_embedding_act_fn": Option(None, among([None])),
    "timestep_post_act": Option(None, among([None])),
    "time_cond_proj_dim": Option(None, among([None])),
    "resnet_skip_time_act": Option(False, among([False])),
    "resnet_out_scale_factor": Option(1.0, among([1.0])),
    "conv_in_kernel": Option(3, among([3])),
    "conv_out_kernel": Option(3, among([3])),
}


def _kinds(way: str) -> tuple[str, ...]:
    return f"{way}Block2D", f"CrossAttn{way}Block2D"


def _rules(o: Any) -> Said:
    yield from ladder.rules(o, _kinds)
    widths, heads = o.block_out_channels, _heads(o)
    looking = sorted({*ladder.attending(o.down_block_types), len(widths) - 1})  # the last for the middle
    yield "attention_head_dim", len(heads) == len(widths), f"one number of heads, or {len(widths)}"
    fits = all(widths[level] % heads[level] == 0 for level in looking)
    yield "attention_head_dim", fits, f"numbers of heads, which divide {[widths[level] for level in looking]}"
    projects, dim = o.class_embed_type == "projection", o.projection_class_embeddings_input_dim
    yield "projection_class_embeddings_input_dim", not projects or dim is not None, "how long the class_labels are"
    yield "num_class_embeds", not projects or o.num_class_embeds is None, "None where class_labels are projected"


def _to_ours(o: Any) -> dict[str, Any]:
    ours = ladder.to_ours(o)
    widths = [max(1, width // heads) for width, heads in zip(o.block_out_channels, _heads(o))]
    return {
        **ours,
        "mixer": "spatial_transformer",
        "head_channels": widths[0] if len(set(widths)) == 1 else tuple(widths),
        "middle_attention": None if ours["attention_levels"] else True,
        "pooled_dim": o.projection_class_embeddings_input_dim if o.class_embed_type == "projection" else 0,
    }


def _refused(c: Any) -> Said:
    looks = "its levels look at each other's positions and at the text in a spatial transformer"
    yield "mixer", c.mixer == "spatial_transformer", looks
    yield "middle_attention", c.attends_in_the_middle, "its middle always looks at the text"
    yield "middle_attention_norm", c.middle_attention_norm, "it always has one"
    yield "resample", c.resample == "conv", "convolutions stand between its levels"
    yield "pooled_dim", not (c.pooled_dim and c.classes), "it takes a class or a vector of a text, and not both"


def _to_theirs(c: Any) -> dict[str, Any]:
    heads = [max(1, width // head) for width, head in zip(c.widths, c.head_widths)]
    return {
        **ladder.to_theirs(c, "{}Block2D", "CrossAttn{}Block2D"),
        "attention_head_dim": heads[0] if len(set(heads)) == 1 else heads,
        "class_embed_type": "projection" if c.pooled_dim else None,
        "projection_class_embeddings_input_dim": c.pooled_dim or None,
    }


def _heads(o: Any) -> list[int]:
    """How many there are at each level."""
    heads = o.attention_head_dim
    return list(heads) if isinstance(heads, list | tuple) else [heads] * len(o.block_out_channels)


_OPTIONS = Options("UNet2DConditionModel", _TABLE, _rules, _to_ours, _refused, _to_theirs)
_WEIGHTS = Weights(
    "this U-Net",
    renames=[
        (r"^embed_pooled\.0", "class_embedding.linear_1"),
        (r"^embed_pooled\.2", "class_embedding.linear_2"),
        *ladder.RENAMES,
        *TRANSFORMER,
    ],
)
# A 1×1 convolution and a linear layer are one thing; Stable Diffusion 2 has the second around its transformers.
_LINEAR = replace(_WEIGHTS, shapes=[(r"\.proj_(in|out)\.weight", as_matrix)])


def text_unet_from_diffusers(
    config: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    last_is_no_label: bool = False,
    time_origin: int = 1,
    patch: int = 1,
) -> UNet:
    """The U-Net of a `UNet2DConditionModel`, with its weights in float32, ready to evaluate. Chapter 13.

    Ours at t with `context` is theirs at t − 1 with `encoder_hidden_states`; a `context_mask` is their
    `encoder_attention_mask`, and `pooled` are their `class_labels` where these are projected.

    Args:
        config: the options of `UNet2DConditionModel`, as in its config.json; those left out have its defaults.
        state_dict: its weights, in any precision.
        last_is_no_label, time_origin, patch: as for `unet_from_diffusers`.

    Raises:
        ValueError: an option or a weight does not fit a `UNet`; the message names the first.

    Source: Rombach et al. 2022, section 3.3 and appendix E.2.1.
    """
    ladder.check_mappings(config, state_dict)
    weights = _LINEAR if config.get("use_linear_projection") else _WEIGHTS
    return ladder.read(_OPTIONS, weights, config, state_dict, last_is_no_label, time_origin, patch)


def text_unet_to_diffusers(
    unet: UNet, image_size: int | tuple[int, int] | None = None, time_origin: int = 1
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The options and weights with which a `UNet2DConditionModel` at timestep t − 1 is our U-Net at t.

    Weights read by `text_unet_from_diffusers` go back bit for bit; around the transformers they are written as 1×1
    convolutions, whatever they were.

    Args:
        unet: what to write; its `mixer` is "spatial_transformer".
        image_size, time_origin: as for `unet_to_diffusers`.

    Raises:
        ValueError: an option of the U-Net is not one of `UNet2DConditionModel`'s; the message names the first. Or
            image_size is no multiple of `patch`.
    """
    return ladder.write(_OPTIONS, _WEIGHTS, unet, image_size, time_origin)
