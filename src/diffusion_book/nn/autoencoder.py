"""An autoencoder: pictures to a few numbers for each patch, and back (Kingma and Welling 2014; Rombach et al. 2022).

Chapter 13 trains a small one; the other end of its configuration is Stable Diffusion's, whose weights fit. Shapes:
images [B, C, H, W], latents [B, L, H/f, W/f], where f is `AutoencoderConfig.stride`.
"""

from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_book._checks import at_least, positive
from diffusion_book.nn.attention import SelfAttention
from diffusion_book.nn.blocks import Downsample, ResBlock, Upsample, silu
from diffusion_book.nn.inputs import check_dtype, check_images, check_sides

LOG_VAR_MIN, LOG_VAR_MAX = -30.0, 20.0
"""Between these a log-variance is kept, so that no exponential of it overflows (Rombach et al.'s code)."""


@dataclass(frozen=True)
class AutoencoderConfig:
    """What an autoencoder is made of. Chapter 13.

    Attributes:
        image_channels: 1 for digits, 3 for colour.
        latent_channels: numbers for each position of a latent.
        channels: features at the highest resolution.
        channel_mults: features of each level, as multiples of `channels`; each level halves the resolution of the last.
        blocks: residual blocks at each level on the way down; the way up has one more.
        attention: whether the positions of the lowest level look at each other.
        patch: the stem turns patch × patch pixels into one position; 2 is four times cheaper than 1.
        groups, norm_eps: of each GroupNorm; groups must divide every level's features.
        pad_end: of the strided convolutions; see `Downsample`.
        quant_conv: whether 1×1 convolutions stand on both sides of the latent.
        scale, shift: of its latents z, which a diffusion model sees as (z − shift) · scale; measured after training.
    """

    image_channels: int = 3
    latent_channels: int = 4
    channels: int = 32
    channel_mults: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: bool = False
    patch: int = 1
    groups: int = 8
    norm_eps: float = 1e-6
    pad_end: bool = True
    quant_conv: bool = False
    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        at_least(1, image_channels=self.image_channels, latent_channels=self.latent_channels, channels=self.channels)
        at_least(1, blocks=self.blocks, patch=self.patch, groups=self.groups)
        if not self.channel_mults:
            raise ValueError("channel_mults needs at least one level, such as (1, 2), got none")
        for mult in self.channel_mults:
            at_least(1, channel_mults=mult)
        for width in self.widths:
            if width % self.groups:
                raise ValueError(f"groups = {self.groups} must divide the features of every level, got {width}")
        positive("norm_eps", self.norm_eps, "1e-6 is usual")
        positive("scale", self.scale, "it is 1 over the standard deviation of the latents")

    @property
    def widths(self) -> tuple[int, ...]:
        """Features of each level."""
        return tuple(self.channels * mult for mult in self.channel_mults)

    @property
    def stride(self) -> int:
        """f: image sides must be multiples of this, and those of a latent are so many times smaller."""
        return self.patch * 2 ** (len(self.channel_mults) - 1)

    def latent_shape(self, pictures: tuple[int, ...]) -> tuple[int, ...]:
        """(L, H/f, W/f), of pictures (C, H, W)."""
        return (self.latent_channels, *(side // self.stride for side in pictures[1:]))


STABLE_DIFFUSION = AutoencoderConfig(
    channels=128, channel_mults=(1, 2, 4, 4), blocks=2, attention=True, groups=32, quant_conv=True, scale=0.18215
)
"""Of Stable Diffusion 1 and 2."""


class LatentGaussian(NamedTuple):
    """What an encoder says of pictures: each number of a latent has a mean and a log-variance, [B, L, h, w]."""

    mean: Tensor
    log_var: Tensor

    def sample(self, eps: Tensor) -> Tensor:
        """A latent z [B, L, h, w] from standard normal eps (Kingma and Welling 2014, section 2.4)."""
        return self.mean + torch.exp(0.5 * self.log_var) * eps


class Autoencoder(nn.Module):
    """Pictures → `LatentGaussian` → pictures. Chapter 13.

    Source: Rombach et al. 2022, section 3.1 and appendix G; the patch of the stem is ours.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        L = config.latent_channels
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = nn.Conv2d(2 * L, 2 * L, 1) if config.quant_conv else nn.Identity()
        self.post_quant_conv = nn.Conv2d(L, L, 1) if config.quant_conv else nn.Identity()

    def encode(self, x: Tensor) -> LatentGaussian:
        """
        Args:
            x: [B, C, H, W], H and W multiples of f = `config.stride`.

        Returns:
            The mean and log-variance of z, [B, L, H/f, W/f] each, neither shifted nor scaled.

        Raises:
            ValueError: an image's shape or type does not fit.
        """
        check_images(x, self.config.image_channels, self.encoder)
        check_sides(x, self.config.stride, f"{self.config.stride} for this autoencoder", "use fewer levels")
        mean, log_var = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return LatentGaussian(mean, log_var.clamp(LOG_VAR_MIN, LOG_VAR_MAX))

    def decode(self, z: Tensor) -> Tensor:
        """
        Args:
            z: [B, L, h, w], neither shifted nor scaled.

        Returns:
            Pictures [B, C, f·h, f·w], about in [−1, 1].

        Raises:
            ValueError: a latent's shape or type does not fit.
        """
        _check_latents(z, self.config, self.decoder)
        pictures: Tensor = self.decoder(self.post_quant_conv(z))
        return pictures

    def forward(self, x: Tensor, eps: Tensor | None = None) -> tuple[Tensor, LatentGaussian]:
        """Pictures there and back.

        Args:
            x: [B, C, H, W]. eps: standard normal noise [B, L, H/f, W/f]; None decodes the mean.

        Returns:
            x̂ [B, C, H, W], and what it was decoded from.
        """
        latent = self.encode(x)
        return self.decode(latent.mean if eps is None else latent.sample(eps)), latent


class Encoder(nn.Module):
    """[B, C, H, W] → [B, 2L, H/f, W/f]: half of a U-Net, without shortcuts and without a time."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.widths
        kernel = 3 if config.patch == 1 else config.patch
        self.stem = nn.Conv2d(config.image_channels, widths[0], kernel, config.patch, padding=int(config.patch == 1))
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        channels = widths[0]
        for level, width in enumerate(widths):
            self.down.append(nn.Sequential(*_blocks(channels, width, config.blocks, config)))
            channels = width
            if level < len(widths) - 1:
                self.downsample.append(Downsample(channels, config.pad_end))
        self.middle = _middle(channels, config)
        self.norm = nn.GroupNorm(config.groups, channels, config.norm_eps)
        self.head = nn.Conv2d(channels, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for blocks, downsample in zip_longest(self.down, self.downsample):
            h = blocks(h)
            if downsample is not None:
                h = downsample(h)
        moments: Tensor = self.head(silu(self.norm(self.middle(h))))
        return moments


class Decoder(nn.Module):
    """[B, L, h, w] → [B, C, f·h, f·w]: the other half."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.patch = config.patch
        channels = config.widths[-1]
        self.stem = nn.Conv2d(config.latent_channels, channels, 3, padding=1)
        self.middle = _middle(channels, config)
        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        for level, width in reversed(list(enumerate(config.widths))):
            self.up.append(nn.Sequential(*_blocks(channels, width, config.blocks + 1, config)))
            channels = width
            if level > 0:
                self.upsample.append(Upsample(channels))
        self.norm = nn.GroupNorm(config.groups, channels, config.norm_eps)
        self.head = nn.Conv2d(channels, config.image_channels * config.patch**2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.middle(self.stem(z))
        for blocks, upsample in zip_longest(self.up, self.upsample):
            h = blocks(h)
            if upsample is not None:
                h = upsample(h)
        return F.pixel_shuffle(self.head(silu(self.norm(h))), self.patch)


def _blocks(channels_in: int, channels: int, count: int, config: AutoencoderConfig) -> list[nn.Module]:
    """Residual blocks that are told nothing, the first of which changes the number of features."""
    ins = [channels_in, *[channels] * (count - 1)]
    return [ResBlock(before, channels, 0, config.groups, 0.0, config.norm_eps) for before in ins]


def _middle(channels: int, config: AutoencoderConfig) -> nn.Sequential:
    """A block, attention where there is any, and a block."""
    first, last = _blocks(channels, channels, 2, config)
    looks = [SelfAttention(channels, None, config.groups, config.norm_eps)] if config.attention else []
    return nn.Sequential(first, *looks, last)


def _check_latents(z: Tensor, config: AutoencoderConfig, entered: nn.Module) -> None:
    if isinstance(z, Tensor) and (z.ndim != 4 or z.shape[1] != config.latent_channels):
        raise ValueError(f"expected latents [B, {config.latent_channels}, h, w], got shape {tuple(z.shape)}")
    check_dtype("latents", z, entered)
