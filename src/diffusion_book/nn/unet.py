"""The U-Net: a ladder of resolutions with a shortcut on each rung (Ronneberger et al. 2015; Ho et al. 2020, app. B).

Chapter 5 derives each part; chapter 6 uses the small one; chapter 9 gives it a text. Shapes: images [B, C, H, W],
times [B], labels [B], tokens of a text [B, L, D].
"""

import math
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from diffusion_book._checks import at_least, check_floating, check_time_of_each
from diffusion_book._names import unknown
from diffusion_book.nn.attention import CrossAttention, SelfAttention
from diffusion_book.nn.blocks import Conditioning, Downsample, ResBlock, Upsample, silu, zero_init
from diffusion_book.nn.embedding import ClassEmbedding, TimeEmbedding


@dataclass(frozen=True)
class UNetConfig:
    """What a U-Net is made of (Ho et al. 2020, appendix B; Dhariwal and Nichol 2021, section 3). Chapter 5.

    Attributes:
        image_channels: 1 for digits, 3 for colour.
        channels: features at the highest resolution; even, for the sines and cosines of the time.
        channel_mults: features of each level, as multiples of `channels`, whole or not (1.5) as long as the features
            are whole; each level halves the resolution of the last.
        blocks: residual blocks at each level on the way down; the way up has one more.
        attention_levels: levels (0 is the highest resolution) that end their blocks with attention.
        middle_attention: whether the middle has attention; None is yes where any level has it.
        head_channels: features of one attention head; None is one head of all features.
        patch: the stem turns patch × patch pixels into one position; 2 is four times cheaper than 1.
        groups: groups of each GroupNorm; must divide every level's features.
        classes: number of classes, or 0 for none.
        no_label: with classes, whether label `classes` (or leaving y out) means "no label", as guidance needs.
        context_dim: features of a token of text, or 0 for none; wherever there is attention, the picture then looks
            at the text too.
        learned_variance: the output has 2C channels, the prediction and then v, which interpolates the logarithm of
            the variance between its bounds (Nichol and Dhariwal 2021, section 3.1).
        dropout: inside the residual blocks, in [0, 1).
        checkpoint: keep no activations inside the stages and compute them again for the gradient: about a third
            slower, and far less memory (Chen et al. 2016).

    The rest are choices that others made otherwise, so that their weights fit (`interop.diffusers`). Start without.

    Attributes:
        conditioning: how the embedding enters a block, "scale_shift" or "add"; see `ResBlock`.
        resample: between levels, "conv" or a residual "block" that pools or repeats pixels.
        pad_end: of the strided convolutions; see `Downsample`.
        middle_attention_norm: whether the middle's self-attention begins with a GroupNorm.
        norm_eps: of every GroupNorm.
        time_origin, frequency_shift, sines_first: of the sinusoids of the time; see `TimeEmbedding`.
    """

    image_channels: int = 1
    channels: int = 32
    channel_mults: tuple[float, ...] = (1, 2, 2)
    blocks: int = 1
    attention_levels: tuple[int, ...] = (2,)
    middle_attention: bool | None = None
    head_channels: int | None = 32
    patch: int = 1
    groups: int = 8
    classes: int = 0
    no_label: bool = True
    context_dim: int = 0
    learned_variance: bool = False
    dropout: float = 0.0
    checkpoint: bool = False
    conditioning: Conditioning = "scale_shift"
    resample: Literal["conv", "block"] = "conv"
    pad_end: bool = False
    middle_attention_norm: bool = True
    norm_eps: float = 1e-5
    time_origin: int = 0
    frequency_shift: int = 0
    sines_first: bool = False

    def __post_init__(self) -> None:
        at_least(1, image_channels=self.image_channels, channels=self.channels, blocks=self.blocks, patch=self.patch)
        at_least(1, groups=self.groups)
        if self.head_channels is not None:
            at_least(1, head_channels=self.head_channels)
        at_least(0, classes=self.classes, context_dim=self.context_dim, frequency_shift=self.frequency_shift)
        if not isinstance(self.channel_mults, tuple | list) or not self.channel_mults:
            raise ValueError(f"channel_mults needs at least one level, such as (1, 2, 2), got {self.channel_mults!r}")
        if not all(math.isfinite(mult) for mult in self.channel_mults):
            raise ValueError(f"channel_mults must be finite numbers, such as (1, 2, 2), got {self.channel_mults!r}")
        if self.channels % 2:
            raise ValueError(f"channels must be even, got {self.channels}")
        for mult, width in zip(self.channel_mults, self.widths):
            if abs(self.channels * mult - width) > 1e-6 * width or width < 1:
                raise ValueError(
                    f"every level needs a whole number of features, got {self.channels} × {mult} = "
                    f"{self.channels * mult:g}; change channel_mults"
                )
            if width % self.groups:
                raise ValueError(f"groups = {self.groups} must divide the features of every level, got {width}")
        last = len(self.channel_mults) - 1
        for level in self.attention_levels:
            if not isinstance(level, Integral) or not 0 <= level <= last:
                raise ValueError(f"attention_levels must be whole numbers in 0 … {last}, got {level}")
        for level in {*self.attention_levels, last} if self.attends_in_the_middle else self.attention_levels:
            if self.head_channels is not None and self.widths[level] % self.head_channels:
                raise ValueError(
                    f"head_channels = {self.head_channels} must divide the features of attention level {level} "
                    f"(the middle is level {last}), got {self.widths[level]}"
                )
        if self.context_dim and not (self.attention_levels or self.attends_in_the_middle):
            raise ValueError("context_dim needs attention somewhere to read the text; give attention_levels")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        if not 0 < self.norm_eps < math.inf:
            raise ValueError(f"norm_eps must be positive and finite, got {self.norm_eps}; 1e-5 is usual")
        if self.conditioning not in ("scale_shift", "add"):
            raise ValueError(f"conditioning must be 'scale_shift' or 'add', got {self.conditioning!r}")
        if self.resample not in ("conv", "block"):
            raise ValueError(f"resample must be 'conv' or 'block', got {self.resample!r}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of each level."""
        return tuple(round(self.channels * mult) for mult in self.channel_mults)

    @property
    def attends_in_the_middle(self) -> bool:
        """Whether the middle has attention."""
        return bool(self.attention_levels) if self.middle_attention is None else self.middle_attention

    @property
    def out_channels(self) -> int:
        """Channels of the output: the image's, or twice as many with a learned variance."""
        return self.image_channels * (2 if self.learned_variance else 1)

    @property
    def stride(self) -> int:
        """Image sides must be multiples of this."""
        return self.patch * 2 ** (len(self.channel_mults) - 1)

    @classmethod
    def named(cls, size: str, **changes: Any) -> "UNetConfig":
        """A size by name, with changes: `UNetConfig.named("digits", classes=10)`."""
        if size not in SIZES:
            raise ValueError(unknown("U-Net size", size, SIZES))
        return replace(SIZES[size], **changes)


SIZES: dict[str, UNetConfig] = {
    # For tests: everything is there, nothing is large.
    "tiny": UNetConfig(channels=16, channel_mults=(1, 2), attention_levels=(1,), head_channels=16),
    # Chapter 6: 28×28 digits in minutes on a CPU; the stem halves the resolution first.
    "digits": UNetConfig(channels=32, channel_mults=(1, 2), attention_levels=(1,), patch=2),
    # 32×32 colour images on a GPU.
    "small": UNetConfig(image_channels=3, channels=64, channel_mults=(1, 2, 2), blocks=2, attention_levels=(1, 2)),
}


class Stage(nn.Module):
    """A residual block; then, where the level has it, attention to the picture and to the text."""

    def __init__(
        self,
        channels_in: int,
        channels: int,
        embedding: int,
        attend: bool,
        config: UNetConfig,
        attention_norm: bool = True,
    ) -> None:
        super().__init__()
        heads, groups, eps = config.head_channels, config.groups, config.norm_eps
        self.block = ResBlock(channels_in, channels, embedding, groups, config.dropout, eps, config.conditioning)
        self.attention = (
            SelfAttention(channels, heads, groups if attention_norm else None, eps) if attend else nn.Identity()
        )
        self.cross = (
            CrossAttention(channels, config.context_dim, heads, groups, eps) if attend and config.context_dim else None
        )

    def forward(self, x: Tensor, embedding: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        h = self.attention(self.block(x, embedding))
        return h if self.cross is None else self.cross(h, context, mask)


class UNet(nn.Module):
    """x_t, t and what conditions it → a prediction of x_t's shape, or of twice its channels. Chapters 5 and 9.

    Source: Ronneberger et al. 2015, figure 1; Ho et al. 2020, appendix B; Rombach et al. 2022, section 3.3, for text.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        embedding = 4 * config.channels
        levels = range(len(widths))
        self.embed_time = TimeEmbedding(
            config.channels, embedding, config.time_origin, config.frequency_shift, config.sines_first
        )
        self.embed_class = ClassEmbedding(config.classes, embedding, config.no_label) if config.classes else None

        # A stem with patch > 1 sees each patch of pixels once; the head's pixel_shuffle undoes it.
        kernel = 3 if config.patch == 1 else config.patch
        self.stem = nn.Conv2d(config.image_channels, widths[0], kernel, config.patch, padding=int(config.patch == 1))

        channels = widths[0]
        shortcuts = [channels]  # the features that each rung of the way up will find beside it
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        for level in levels:
            stages = nn.ModuleList()
            for _ in range(config.blocks):
                stages.append(Stage(channels, widths[level], embedding, level in config.attention_levels, config))
                channels = widths[level]
                shortcuts.append(channels)
            self.down.append(stages)
            if level < levels[-1]:
                self.downsample.append(_resampler("down", channels, embedding, config))
                shortcuts.append(channels)

        attend = config.attends_in_the_middle
        self.middle = nn.ModuleList(
            [
                Stage(channels, channels, embedding, attend, config, config.middle_attention_norm),
                Stage(channels, channels, embedding, False, config),
            ]
        )

        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level in reversed(levels):
            stages = nn.ModuleList()
            for _ in range(config.blocks + 1):
                width_in = channels + shortcuts.pop()
                stages.append(Stage(width_in, widths[level], embedding, level in config.attention_levels, config))
                channels = widths[level]
            self.up.append(stages)
            if level > 0:
                self.upsample.append(_resampler("up", channels, embedding, config))

        self.norm = nn.GroupNorm(config.groups, channels, config.norm_eps)
        self.head = zero_init(nn.Conv2d(channels, config.out_channels * config.patch**2, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            x: [B, C, H, W], H and W multiples of `config.stride`.
            t: [B] times, integer or real.
            y: [B] labels in 0 … classes; None is no label.
            context: [B, L, context_dim] tokens of a text; None is no text.
            context_mask: [B, L], true where a token counts; an example of which none counts has no text.

        Returns:
            [B, C, H, W]; with `learned_variance` [B, 2C, H, W], the prediction and then v.

        Raises:
            ValueError: an input's shape or type does not fit, or the network has no use for it.
        """
        self._check(x, t, y, context, context_mask)
        embedding = self.embed_time(t)
        if self.embed_class is not None:
            embedding = embedding + self.embed_class(y, len(x))
        embedding = F.silu(embedding)

        h = self.stem(x)
        shortcuts = [h]
        for level, stages in enumerate(cast(list[nn.ModuleList], self.down)):
            for stage in stages:
                h = self._run(stage, h, embedding, context, context_mask)
                shortcuts.append(h)
            if level < len(self.downsample):
                h = _resample(self.downsample[level], h, embedding)
                shortcuts.append(h)
        for stage in self.middle:
            h = self._run(stage, h, embedding, context, context_mask)
        for level, stages in enumerate(cast(list[nn.ModuleList], self.up)):
            for stage in stages:
                h = self._run(stage, torch.cat([h, shortcuts.pop()], dim=1), embedding, context, context_mask)
            if level < len(self.upsample):
                h = _resample(self.upsample[level], h, embedding)
        return F.pixel_shuffle(self.head(silu(self.norm(h))), self.config.patch)

    def _run(self, stage: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self.config.checkpoint and torch.is_grad_enabled():
            return checkpoint(stage, *inputs, use_reentrant=False)
        return stage(*inputs)

    def _check(
        self, x: Tensor, t: Tensor, y: Tensor | None, context: Tensor | None, context_mask: Tensor | None
    ) -> None:
        if x.ndim != 4 or x.shape[1] != self.config.image_channels:
            raise ValueError(f"expected images [B, {self.config.image_channels}, H, W], got shape {tuple(x.shape)}")
        check_floating("images", x)
        if x.shape[2] % self.config.stride or x.shape[3] % self.config.stride:
            raise ValueError(
                f"image sides must be multiples of {self.config.stride} for this U-Net, got {x.shape[2]}×{x.shape[3]}; "
                "pad the images or use fewer levels"
            )
        check_time_of_each("images", x, t)
        if y is not None and self.embed_class is None:
            raise ValueError("this U-Net has no classes (classes=0), so it takes no labels y")
        if context is None:
            if context_mask is not None:
                raise ValueError("context_mask says which tokens of context count, but there is no context")
            return
        dim = self.config.context_dim
        if not dim:
            raise ValueError("this U-Net reads no text (context_dim=0), so it takes no context")
        if context.ndim != 3 or context.shape[0] != len(x) or context.shape[2] != dim:
            raise ValueError(f"expected context [{len(x)}, L, {dim}], got shape {tuple(context.shape)}")
        check_floating("context", context)
        if context_mask is not None and (context_mask.dtype != torch.bool or context_mask.shape != context.shape[:2]):
            raise ValueError(
                f"context_mask must be boolean {tuple(context.shape[:2])}, true where a token counts, "
                f"got {context_mask.dtype} {tuple(context_mask.shape)}"
            )


def _resampler(direction: Literal["down", "up"], channels: int, embedding: int, config: UNetConfig) -> nn.Module:
    """What stands between two levels."""
    if config.resample == "block":
        block = (config.groups, config.dropout, config.norm_eps, config.conditioning)
        return ResBlock(channels, channels, embedding, *block, resample=direction)
    return Downsample(channels, config.pad_end) if direction == "down" else Upsample(channels)


def _resample(layer: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    """Only a residual block is told the time."""
    return layer(h, embedding) if isinstance(layer, ResBlock) else layer(h)
