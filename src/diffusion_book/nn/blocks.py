"""What a U-Net is built of, attention aside: the residual block, and the ways down and up in resolution. Chapter 5."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Conditioning = Literal["scale_shift", "add"]


class ResBlock(nn.Module):
    """Two convolutions around a shortcut, told the time in between (Ho et al. 2020, appendix B). Chapter 5.

    x [B, channels_in, H, W] and embedding [B, E], after its SiLU → [B, channels, H, W].

    Args:
        channels_in, channels: features in and out.
        embedding: E; 0 for a block that is told nothing, as those of an autoencoder (chapter 13).
        groups: of both GroupNorms, which must divide channels_in and channels.
        dropout: before the second convolution.
        eps: of the GroupNorms.
        conditioning: "scale_shift" lets the embedding scale and shift the second normalisation (AdaGN, Dhariwal and
            Nichol 2021, section 3); "add" adds it before that normalisation, as Ho et al. do.
        resample: "down" halves and "up" doubles the resolution on the way (Brock et al. 2019, figure 15).
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        embedding: int,
        groups: int,
        dropout: float,
        eps: float = 1e-5,
        conditioning: Conditioning = "scale_shift",
        resample: Literal["down", "up"] | None = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1 = nn.GroupNorm(groups, channels_in, eps)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.scale_shift = self.shift = None
        if embedding and conditioning == "scale_shift":
            self.scale_shift = nn.Linear(embedding, 2 * channels)
        elif embedding:
            self.shift = nn.Linear(embedding, channels)
        self.norm2 = nn.GroupNorm(groups, channels, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(channels, channels, 3, padding=1))
        self.shortcut = Shortcut(channels_in, channels, 1) if channels_in != channels else None

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = silu(self.norm1(x))
        if self.resample == "down":
            x, h = F.avg_pool2d(x, 2), F.avg_pool2d(h, 2)
        elif self.resample == "up":
            x, h = repeat_pixels(x), repeat_pixels(h)
        h = self.conv1(h)
        if self.scale_shift is not None:
            scale, shift = self.scale_shift(embedding)[:, :, None, None].chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        elif self.shift is not None:
            h = self.norm2(h.add_(self.shift(embedding)[:, :, None, None]))
        else:
            h = self.norm2(h)
        h = self.conv2(self.dropout(silu(h)))
        return h.add_(x) if self.shortcut is None else self.shortcut(x, h)


class Shortcut(nn.Conv2d):
    """A 1×1 convolution of x [B, channels_in, H, W], added to h [B, channels, H, W]."""

    def forward(self, x: Tensor, h: Tensor) -> Tensor:  # type: ignore[override]  # what it is added to comes along
        # It is one matrix for all pixels, and `baddbmm` adds the product to what is there: with its gradient in six
        # tenths of the time of a convolution and a sum.
        matrix = self.weight.flatten(1).expand(x.shape[0], -1, -1)
        assert self.bias is not None
        return torch.baddbmm(h.flatten(2), matrix, x.flatten(2)).add_(self.bias[:, None]).view_as(h)


class Downsample(nn.Conv2d):
    """Halve the resolution with a strided convolution: [B, C, H, W] → [B, C, H/2, W/2].

    Source: the U-Net of Ho et al. 2020, appendix B.

    Args:
        channels: C.
        pad_end: pad at the bottom and right only, as TensorFlow's "SAME" does and so the networks of Ho et al. 2020;
            otherwise on all sides.
    """

    def __init__(self, channels: int, pad_end: bool = False) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=0 if pad_end else 1)
        self.pad_end = pad_end

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)) if self.pad_end else x)


class Upsample(nn.Module):
    """Double the resolution by repeating pixels, then smooth: [B, C, H, W] → [B, C, 2H, 2W].

    Source: the U-Net of Ho et al. 2020, appendix B.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        # Both are one transposed convolution, whose 4×4 kernel is the 3×3 one smeared by the repetition: the same
        # picture as conv(repeat_pixels(x)) for 4/9 of the multiplications.
        kernel = 4 * F.avg_pool2d(self.conv.weight.transpose(0, 1).flip(2, 3), 2, stride=1, padding=1)
        return F.conv_transpose2d(x, kernel, self.conv.bias, stride=2, padding=1)


def repeat_pixels(x: Tensor) -> Tensor:
    """Each pixel four times: [B, C, H, W] → [B, C, 2H, 2W]."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def zero_init(layer: nn.Conv2d) -> nn.Conv2d:
    """Start a layer at zero, so that its branch adds nothing until it has learned to."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def silu(x: Tensor) -> Tensor:
    """x · sigmoid(x), of an x that nobody else needs: without gradients it is overwritten."""
    return F.silu(x, inplace=not torch.is_grad_enabled())
