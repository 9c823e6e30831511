"""The U-Net: a ladder of resolutions with a shortcut on each rung (Ronneberger et al. 2015; Ho et al. 2020, app. B).

Chapter 5 derives each part; chapter 6 uses the small one; chapter 9 gives it a text. Shapes: images [B, C, H, W],
times [B], labels [B], tokens of a text [B, L, D].
"""

from collections.abc import Callable
from itertools import zip_longest
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from diffusion_book._checks import check_time_of_each
from diffusion_book.nn.attention import CrossAttention, SelfAttention
from diffusion_book.nn.blocks import Downsample, ResBlock, Upsample, silu, zero_init
from diffusion_book.nn.embedding import ClassEmbedding, TimeEmbedding
from diffusion_book.nn.inputs import check_dtype, check_images, check_sides
from diffusion_book.nn.transformer import SpatialTransformer
from diffusion_book.nn.unet_config import Mixer, UNetConfig


def attention(level: int, config: UNetConfig, norm: bool) -> dict[str, nn.Module]:
    """Positions look at each other and, where there is one, at the text: what Ho et al. and Rombach et al. mix with.

    Args:
        level: at which they are, 0 for the highest resolution; the middle is at the last.
        norm: whether the first layer begins with a GroupNorm.
    """
    channels, heads = config.widths[level], config.head_widths[level]
    groups, eps = config.groups, config.norm_eps
    layers: dict[str, nn.Module] = {"attention": SelfAttention(channels, heads, groups if norm else None, eps)}
    if config.context_dim:
        layers["cross"] = CrossAttention(channels, config.context_dim, heads, groups, eps)
    return layers


def spatial_transformer(level: int, config: UNetConfig, norm: bool) -> dict[str, nn.Module]:
    """What Stable Diffusion mixes with, which also has two layers at each position; see `SpatialTransformer`."""
    channels, heads = config.widths[level], config.head_widths[level]
    return {"transformer": SpatialTransformer(channels, config.context_dim, heads, config.groups if norm else None)}


MIXERS: dict[Mixer, Callable[[int, UNetConfig, bool], dict[str, nn.Module]]] = {
    "attention": attention,
    "spatial_transformer": spatial_transformer,
}
"""What `UNetConfig.mixer` may be: functions like `attention`, that make the layers which follow a residual block.

They run in their order, each called as layer(h, context, mask), and files of weights know them by their names.
"""


class Stage(nn.ModuleDict):
    """A residual block; then, where the level mixes, its mixer. [B, channels_in, H, W] → [B, widths[level], H, W].

    Args:
        channels_in: features in.
        level: whose width the features out have, and whose heads the mixer has.
        embedding: features of what `UNet.embed` says.
        mixes: whether there is a mixer. norm: whether that begins with a GroupNorm.
    """

    def __init__(
        self, channels_in: int, level: int, embedding: int, config: UNetConfig, mixes: bool, norm: bool = True
    ) -> None:
        options = config.groups, config.dropout, config.norm_eps, config.conditioning
        block = ResBlock(channels_in, config.widths[level], embedding, *options)
        super().__init__({"block": block, **(MIXERS[config.mixer](level, config, norm) if mixes else {})})

    def forward(self, h: Tensor, embedding: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        block, *mixer = self.values()
        h = block(h, embedding)
        for layer in mixer:
            h = layer(h, context, mask)
        return h


class UNet(nn.Module):
    """x_t, t and what conditions it → a prediction of x_t's shape, or of twice its channels. Chapters 5 and 9.

    `embed`, `descend`, `turn` and `ascend` are its four parts. A network that adds to the shortcuts, or keeps some of
    the features from one step to the next, is a function of its own that calls them.

    Source: Ronneberger et al. 2015, figure 1; Ho et al. 2020, appendix B; Rombach et al. 2022, section 3.3, for text.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, mixing = config.widths, config.attention_levels
        E = 4 * config.channels  # features of the embedding
        self.embed_time = TimeEmbedding(
            config.channels, E, config.time_origin, config.frequency_shift, config.sines_first
        )
        self.embed_class = ClassEmbedding(config.classes, E, config.no_label) if config.classes else None
        self.embed_pooled = (
            nn.Sequential(nn.Linear(config.pooled_dim, E), nn.SiLU(), nn.Linear(E, E)) if config.pooled_dim else None
        )

        # A stem with patch > 1 sees each patch of pixels once; the head's pixel_shuffle undoes it.
        kernel = 3 if config.patch == 1 else config.patch
        self.stem = nn.Conv2d(config.image_channels, widths[0], kernel, config.patch, padding=int(config.patch == 1))

        channels = widths[0]
        shortcuts = [channels]  # the features that each rung of the way up will find beside it
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            stages = nn.ModuleList()
            for _ in range(config.blocks):
                stages.append(Stage(channels, level, E, config, level in mixing))
                channels = width
                shortcuts.append(channels)
            self.down.append(stages)
            if level < len(widths) - 1:
                self.downsample.append(_resampler("down", channels, E, config))
                shortcuts.append(channels)

        last = len(widths) - 1
        first = Stage(channels, last, E, config, config.attends_in_the_middle, config.middle_attention_norm)
        self.middle = nn.ModuleList([first, Stage(channels, last, E, config, mixes=False)])

        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            stages = nn.ModuleList()
            for _ in range(config.blocks + 1):
                stages.append(Stage(channels + shortcuts.pop(), level, E, config, level in mixing))
                channels = width
            self.up.append(stages)
            if level > 0:
                self.upsample.append(_resampler("up", channels, E, config))

        self.norm = nn.GroupNorm(config.groups, channels, config.norm_eps)
        self.head = zero_init(nn.Conv2d(channels, config.out_channels * config.patch**2, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        pooled: Tensor | None = None,
    ) -> Tensor:
        """
        Args:
            x: [B, C, H, W], H and W multiples of `config.stride`.
            t: [B] times, integer or real.
            y: [B] labels in 0 … classes; None is no label.
            context: [B, L, context_dim] tokens of a text; None is no text.
            context_mask: [B, L], true where a token counts; an example of which none counts has no text.
            pooled: [B, pooled_dim], the text as a whole; None is a vector of zeros.

        Returns:
            [B, C, H, W]; with `learned_variance` [B, 2C, H, W], the prediction and then v.

        Raises:
            ValueError: an input's shape or type does not fit, or the network has no use for it.
        """
        self.check(x, t, y, context, context_mask, pooled)
        embedding = self.embed(t, y, pooled)
        shortcuts = self.descend(self.stem(x), embedding, context, context_mask)
        h = self.turn(shortcuts[-1], embedding, context, context_mask)
        return self.ascend(h, shortcuts, embedding, context, context_mask)

    def embed(self, t: Tensor, y: Tensor | None = None, pooled: Tensor | None = None) -> Tensor:
        """What every residual block is told: the time, and whatever is one vector an example. [B, 4 · channels]."""
        embedding = self.embed_time(t)
        if self.embed_class is not None:
            embedding = embedding + self.embed_class(y, len(t))
        if self.embed_pooled is not None:
            embedding = embedding + self.embed_pooled(
                embedding.new_zeros(len(t), self.config.pooled_dim) if pooled is None else pooled
            )
        return F.silu(embedding)

    def descend(
        self, h: Tensor, embedding: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> list[Tensor]:
        """The way down, from the stem's features h → the features at every rung; the last are those of the bottom."""
        shortcuts = [h]
        for stages, downsample in zip_longest(cast(list[nn.ModuleList], self.down), self.downsample):
            for stage in stages:
                h = self._run(stage, h, embedding, context, mask)
                shortcuts.append(h)
            if downsample is not None:
                h = _resample(downsample, h, embedding)
                shortcuts.append(h)
        return shortcuts

    def turn(self, h: Tensor, embedding: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The middle: features of the bottom → as many."""
        for stage in self.middle:
            h = self._run(stage, h, embedding, context, mask)
        return h

    def ascend(
        self,
        h: Tensor,
        shortcuts: list[Tensor],
        embedding: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The way up, from the middle's h and with a shortcut beside each rung, and out → the prediction.

        The list of shortcuts is empty afterwards: each is forgotten once it has been used, which saves memory.
        """
        for stages, upsample in zip_longest(cast(list[nn.ModuleList], self.up), self.upsample):
            for stage in stages:
                h = self._run(stage, torch.cat([h, shortcuts.pop()], dim=1), embedding, context, mask)
            if upsample is not None:
                h = _resample(upsample, h, embedding)
        return F.pixel_shuffle(self.head(silu(self.norm(h))), self.config.patch)

    def _run(self, stage: nn.Module, *inputs: Tensor | None) -> Tensor:
        if self.config.checkpoint and torch.is_grad_enabled():
            return checkpoint(stage, *inputs, use_reentrant=False)
        return stage(*inputs)

    def check(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None,
        context: Tensor | None,
        context_mask: Tensor | None,
        pooled: Tensor | None,
    ) -> None:
        """A ValueError unless these inputs fit each other and this network; see `forward`."""
        check_images(x, self.config.image_channels, self.stem)
        check_sides(x, self.config.stride, f"{self.config.stride} for this U-Net", "use fewer levels")
        check_time_of_each("images", x, t)
        if y is not None and self.embed_class is None:
            raise ValueError("this U-Net has no classes (classes=0), so it takes no labels y")
        if pooled is not None:
            if self.embed_pooled is None:
                raise ValueError("this U-Net takes no vector of a text (pooled_dim=0), so it takes no pooled")
            check_dtype("pooled", pooled, self.embed_pooled)
            wanted = (len(x), self.config.pooled_dim)
            if pooled.shape != wanted:
                raise ValueError(f"expected pooled {list(wanted)}, got shape {tuple(pooled.shape)}")
        if context is None:
            if context_mask is not None:
                raise ValueError("context_mask says which tokens of context count, but there is no context")
            return
        dim = self.config.context_dim
        if not dim:
            raise ValueError("this U-Net reads no text (context_dim=0), so it takes no context")
        check_dtype("context", context, self.stem)
        if context.ndim != 3 or context.shape[0] != len(x) or context.shape[2] != dim:
            raise ValueError(f"expected context [{len(x)}, L, {dim}], got shape {tuple(context.shape)}")
        if context_mask is None:
            return
        if not isinstance(context_mask, Tensor):
            raise ValueError(f"context_mask must be a tensor [{len(x)}, L], got {type(context_mask).__name__}")
        if context_mask.dtype != torch.bool or context_mask.shape != context.shape[:2]:
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
