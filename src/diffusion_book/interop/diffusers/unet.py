"""U-Nets to and from `diffusers`: its UNet2DModel is our UNet under other names. Chapters 5 and 16."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from diffusion_book.interop.diffusers import ladder
from diffusion_book.interop.diffusers.options import COUNT_OR_NONE, FLAG, Option, Options, Said, among
from diffusion_book.interop.diffusers.weights import ATTENTION, OLD_ATTENTION, Weights, as_matrix
from diffusion_book.nn import UNet

_TABLE = {
    **ladder.OPTIONS,
    **ladder.images(3),
    **ladder.levels(
        ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
        ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        [224, 448, 672, 896],
    ),
    "mid_block_type": Option("UNetMidBlock2D", among(["UNetMidBlock2D"])),
    "downsample_type": Option("conv", among(["conv", "resnet"])),
    "upsample_type": Option("conv", among(["conv", "resnet"])),
    "attention_head_dim": Option(8, COUNT_OR_NONE, "head_channels"),
    "attn_norm_num_groups": Option(None),
    "add_attention": Option(True, FLAG),
    "class_embed_type": Option(None, among([None])),
    "num_train_timesteps": Option(None),
}


def _kinds(way: str) -> tuple[str, ...]:
    return f"{way}Block2D", f"Attn{way}Block2D", f"Resnet{way}sampleBlock2D"


def _rules(o: Any) -> Said:
    yield from ladder.rules(o, _kinds)
    widths, head, groups = o.block_out_channels, o.attention_head_dim, o.norm_num_groups
    yield "attn_norm_num_groups", o.attn_norm_num_groups in (None, groups), f"None or {groups}"

    below = _resamples(o.down_block_types, o.downsample_type)
    above = _resamples(o.up_block_types, o.upsample_type)
    yield "down_block_types", len(below) < 2, "convolutions between all levels, or residual blocks between all"
    yield "up_block_types", above == below, "the way up to resample like the way down"

    attends = [widths[level] for level in ladder.attending(o.down_block_types)] + [widths[-1]] * o.add_attention
    fits = head is None or all(width % head == 0 for width in attends)
    yield "attention_head_dim", fits, f"a divisor of each of {attends}"


def _to_ours(o: Any) -> dict[str, Any]:
    ours = ladder.to_ours(o)
    blocks = _resamples(o.down_block_types, o.downsample_type) == {True}
    # Theirs leaves the middle's norm out under scale_shift, unless it is given groups.
    norm = o.resnet_time_scale_shift == "default" or o.attn_norm_num_groups is not None or not o.add_attention
    return {
        **ours,
        "middle_attention": None if o.add_attention == bool(ours["attention_levels"]) else o.add_attention,
        "middle_attention_norm": norm,
        "resample": "block" if blocks else "conv",
    }


def _refused(c: Any) -> Said:
    norm = c.middle_attention_norm or c.conditioning != "add" or not c.attends_in_the_middle
    yield "context_dim", c.context_dim == 0, "it reads no text"
    yield "pooled_dim", c.pooled_dim == 0, "it takes no vector of a text"
    yield "mixer", c.mixer == "attention", "its positions look at each other and at nothing else"
    yield "head_channels", not isinstance(c.head_channels, tuple | list), "its heads are as wide at every level"
    yield "middle_attention_norm", norm, 'under conditioning = "add" it always has one'


def _to_theirs(c: Any) -> dict[str, Any]:
    between = "resnet" if c.resample == "block" else "conv"
    norm_is_told = c.attends_in_the_middle and c.middle_attention_norm and c.conditioning == "scale_shift"
    return {
        **ladder.to_theirs(c, "Resnet{}sampleBlock2D" if c.resample == "block" else "{}Block2D", "Attn{}Block2D"),
        "downsample_type": between,
        "upsample_type": between,
        "attn_norm_num_groups": c.groups if norm_is_told else None,
        "add_attention": c.attends_in_the_middle,
    }


def _resamples(types: Sequence[str], attention: str) -> set[bool]:
    """Whether residual blocks stand between levels, as each kind of level says that has another behind it."""
    return {attention == "resnet" if kind.startswith("Attn") else kind.startswith("Resnet") for kind in types[:-1]}


_OPTIONS = Options("UNet2DModel", _TABLE, _rules, _to_ours, _refused, _to_theirs)
_WEIGHTS = Weights(
    "this U-Net",
    renames=[*ladder.RENAMES, *ATTENTION],
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
    ladder.check_mappings(config, state_dict)
    return ladder.read(_OPTIONS, _WEIGHTS, config, state_dict, last_is_no_label, time_origin, patch)


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
    return ladder.write(_OPTIONS, _WEIGHTS, unet, image_size, time_origin)
