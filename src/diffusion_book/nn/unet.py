"""The U-Net: a ladder of resolutions with a shortcut on each rung (Ronneberger et al. 2015; Ho et al. 2020, app. B).

Chapter 5 derives each part; chapter 6 uses the small one. Shapes: images [B, C, H, W], times [B], labels [B].
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_book.nn.embedding import TimeEmbedding


@dataclass(frozen=True)
class UNetConfig:
    """What a U-Net is made of.

    Attributes:
        image_channels: 1 for digits, 3 for colour.
        channels: features at the highest resolution; even, for the sines and cosines of the time.
        channel_mults: features of each level, as multiples of `channels`; each level halves the resolution of the last.
        blocks: residual blocks at each level on the way down; the way up has one more.
        attention_levels: levels (0 is the highest resolution) that end their blocks with self-attention; where there
            are any, the middle has it too.
        head_channels: features of one attention head.
        patch: the stem turns patch × patch pixels into one position; 2 is four times cheaper than 1.
        groups: groups of each GroupNorm; must divide every level's features.
        classes: number of classes, or 0 for none; label `classes` means "no label".
        dropout: inside the residual blocks, in [0, 1).
    """

    image_channels: int = 1
    channels: int = 32
    channel_mults: tuple[int, ...] = (1, 2, 2)
    blocks: int = 1
    attention_levels: tuple[int, ...] = (2,)
    head_channels: int = 32
    patch: int = 1
    groups: int = 8
    classes: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.channel_mults:
            raise ValueError("channel_mults needs at least one level, such as (1, 2, 2)")
        if self.channels % 2:
            raise ValueError(f"channels must be even, got {self.channels}")
        for mult in self.channel_mults:
            if self.channels * mult % self.groups:
                raise ValueError(
                    f"groups = {self.groups} must divide the features of every level, got {self.channels * mult}"
                )
        last = len(self.channel_mults) - 1
        for level in self.attention_levels:
            if not 0 <= level <= last:
                raise ValueError(f"attention_levels must lie in 0 … {last}, got {level}")
        for level in {*self.attention_levels, last} if self.attention_levels else ():
            if self.channels * self.channel_mults[level] % self.head_channels:
                raise ValueError(
                    f"head_channels = {self.head_channels} must divide the features of attention level {level} "
                    f"(the middle is level {last}), got {self.channels * self.channel_mults[level]}"
                )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")

    @property
    def stride(self) -> int:
        """Image sides must be multiples of this."""
        return self.patch * 2 ** (len(self.channel_mults) - 1)

    @classmethod
    def named(cls, size: str, **changes: Any) -> "UNetConfig":
        """A size by name, with changes: `UNetConfig.named("digits", classes=10)`."""
        if size not in SIZES:
            raise ValueError(f"unknown U-Net size {size!r}; choose one of {', '.join(SIZES)}")
        return replace(SIZES[size], **changes)


SIZES: dict[str, UNetConfig] = {
    # For tests: everything is there, nothing is large.
    "tiny": UNetConfig(channels=16, channel_mults=(1, 2), attention_levels=(1,), head_channels=16),
    # Chapter 6: 28×28 digits in minutes on a CPU; the stem halves the resolution first.
    "digits": UNetConfig(channels=32, channel_mults=(1, 2), attention_levels=(1,), patch=2),
    # 32×32 colour images on a GPU.
    "small": UNetConfig(image_channels=3, channels=64, channel_mults=(1, 2, 2), blocks=2, attention_levels=(1, 2)),
}


class ResBlock(nn.Module):
    """Two convolutions around a shortcut; the embedding scales and shifts the second normalisation (AdaGN)."""

    def __init__(self, channels_in: int, channels: int, embedding: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.scale_shift = nn.Linear(embedding, 2 * channels)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(channels, channels, 3, padding=1))
        self.shortcut = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.scale_shift(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))


class SelfAttention(nn.Module):
    """Every position looks at every other (Vaswani et al. 2017), around a shortcut."""

    def __init__(self, channels: int, head_channels: int, groups: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        qkv = self.qkv(self.norm(x)).reshape(B, 3, self.heads, C // self.heads, H * W)
        q, k, v = qkv.transpose(-1, -2).unbind(1)  # each [B, heads, H·W, C/heads]
        h = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(h.transpose(-1, -2).reshape(B, C, H, W))


class Stage(nn.Module):
    """A residual block, then attention where the level has it."""

    def __init__(self, channels_in: int, channels: int, embedding: int, attend: bool, config: UNetConfig) -> None:
        super().__init__()
        self.block = ResBlock(channels_in, channels, embedding, config.groups, config.dropout)
        self.attention = SelfAttention(channels, config.head_channels, config.groups) if attend else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.block(x, embedding))


class Upsample(nn.Module):
    """Double the resolution by repeating pixels, then smooth."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class UNet(nn.Module):
    """x_t [B, C, H, W], t [B] and labels y [B] → a prediction of x_t's shape."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * mult for mult in config.channel_mults]
        embedding = 4 * config.channels
        levels = range(len(widths))
        self.embed_time = TimeEmbedding(config.channels, embedding)
        self.embed_class = nn.Embedding(config.classes + 1, embedding) if config.classes else None

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
                self.downsample.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                shortcuts.append(channels)

        attend = bool(config.attention_levels)
        self.middle = nn.ModuleList(
            [
                Stage(channels, channels, embedding, attend, config),
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
                self.upsample.append(Upsample(channels))

        self.norm = nn.GroupNorm(config.groups, channels)
        self.head = zero_init(nn.Conv2d(channels, config.image_channels * config.patch**2, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self._check(x, t, y)
        embedding = self.embed_time(t)
        if self.embed_class is not None:
            y = torch.full_like(t, self.config.classes, dtype=torch.long) if y is None else y
            embedding = embedding + self.embed_class(y)
        embedding = F.silu(embedding)

        h = self.stem(x)
        shortcuts = [h]
        for level, stages in enumerate(cast(list[nn.ModuleList], self.down)):
            for stage in stages:
                h = stage(h, embedding)
                shortcuts.append(h)
            if level < len(self.downsample):
                h = self.downsample[level](h)
                shortcuts.append(h)
        for stage in self.middle:
            h = stage(h, embedding)
        for level, stages in enumerate(cast(list[nn.ModuleList], self.up)):
            for stage in stages:
                h = stage(torch.cat([h, shortcuts.pop()], dim=1), embedding)
            if level < len(self.upsample):
                h = self.upsample[level](h)
        return F.pixel_shuffle(self.head(F.silu(self.norm(h))), self.config.patch)

    def _check(self, x: Tensor, t: Tensor, y: Tensor | None) -> None:
        if x.ndim != 4 or x.shape[1] != self.config.image_channels:
            raise ValueError(f"expected images [B, {self.config.image_channels}, H, W], got shape {tuple(x.shape)}")
        if x.shape[2] % self.config.stride or x.shape[3] % self.config.stride:
            raise ValueError(
                f"image sides must be multiples of {self.config.stride} for this U-Net, got {x.shape[2]}×{x.shape[3]}; "
                "pad the images or use fewer levels"
            )
        if t.shape != (len(x),):
            raise ValueError(f"t must hold one time for each of the {len(x)} images, got shape {tuple(t.shape)}")
        if y is not None and self.embed_class is None:
            raise ValueError("this U-Net has no classes (classes=0), so it takes no labels y")
        if y is not None and y.shape != (len(x),):
            raise ValueError(f"y must hold one label for each of the {len(x)} images, got shape {tuple(y.shape)}")


def zero_init(layer: nn.Conv2d) -> nn.Conv2d:
    """Start a layer at zero, so that its branch adds nothing until it has learned to."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
