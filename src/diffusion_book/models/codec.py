"""Between pictures and what a network denoises: for pixels nothing, for latents an autoencoder. Chapter 13."""

import dataclasses
import functools
import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from diffusion_book.data import Examples
from diffusion_book.nn import Autoencoder
from diffusion_book.nn.build import weights_sha256


class Codec(Protocol):
    """Takes pictures [B, C, H, W] in [−1, 1] to what a network denoises, and back."""

    @property
    def x0_max(self) -> float | None:
        """What is denoised lies in ±x0_max, to which x̂0 may be cut; None where it has no bounds."""
        ...

    def encode(self, pictures: Tensor) -> Tensor:
        """What a network denoises."""
        ...

    def decode(self, x0: Tensor) -> Tensor:
        """Pictures [B, C, H, W] in [−1, 1]."""
        ...

    def shape(self, pictures: tuple[int, int, int]) -> tuple[int, ...]:
        """Of one example of what is denoised, for pictures of the shape (C, H, W)."""
        ...

    def pictures(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The inverse of `shape`."""
        ...


@dataclass(frozen=True)
class Pixels:
    """The pictures themselves are denoised."""

    x0_max: float = 1.0

    def encode(self, pictures: Tensor) -> Tensor:
        """The pictures."""
        return pictures

    def decode(self, x0: Tensor) -> Tensor:
        """The same, cut to [−1, 1]: a last step may leave it by a rounding."""
        return x0.clamp(-1, 1)

    def shape(self, pictures: tuple[int, int, int]) -> tuple[int, ...]:
        """That of the pictures."""
        return pictures

    def pictures(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """The same."""
        return shape


PIXELS = Pixels()


@dataclass(frozen=True)
class Autoencoded:
    """Latents are denoised: the mean that an autoencoder finds, (z − shift) · scale.

    Attributes:
        network: the autoencoder, for evaluation, its weights frozen; it knows its shift and its scale.
        name: by which `models.load_autoencoder` finds it again; "" where nobody has said.
    """

    network: Autoencoder
    name: str = ""
    x0_max: None = None

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents [B, L, H/f, W/f], of about standard deviation 1.

        Raises:
            ValueError: the pictures have other channels, or sides that f does not divide.
        """
        config = self.network.config
        return (self.network.encode(pictures).mean - config.shift) * config.scale

    @torch.no_grad()
    def decode(self, x0: Tensor) -> Tensor:
        """Pictures, cut to [−1, 1].

        Raises:
            ValueError: the latents have other channels.
        """
        config = self.network.config
        return self.network.decode(x0 / config.scale + config.shift).clamp(-1, 1)

    def shape(self, pictures: tuple[int, int, int]) -> tuple[int, ...]:
        """(L, H/f, W/f).

        Raises:
            ValueError: the pictures have other channels, or sides that f does not divide.
        """
        config = self.network.config
        if pictures[0] != config.image_channels:
            raise ValueError(f"this autoencoder is of pictures of {config.image_channels} channels, got {pictures[0]}")
        if pictures[1] % config.stride or pictures[2] % config.stride:
            raise ValueError(
                f"pictures must have sides that are multiples of {config.stride} for this autoencoder, got "
                f"{pictures[1]}×{pictures[2]}"
            )
        return config.latent_shape(pictures)

    def pictures(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, f · h, f · w).

        Raises:
            ValueError: the latents have other channels.
        """
        config = self.network.config
        if shape[0] != config.latent_channels:
            raise ValueError(
                f"the network denoises latents of {shape[0]} channels, and those of {self.name or 'the autoencoder'} "
                f"have {config.latent_channels}; take the autoencoder that it was trained with"
            )
        return (config.image_channels, shape[1] * config.stride, shape[2] * config.stride)

    @functools.cached_property
    def sha256(self) -> str:
        """Of its weights and of its configuration: latents of another one mean other pictures."""
        said = repr(self.network.config) + weights_sha256(self.network)
        return hashlib.sha256(said.encode()).hexdigest()


MEASURED = 1024
"""Pictures whose latents say their scale and shift: a few hundred thousand numbers, whose mean and spread then hold
to three digits."""


@torch.no_grad()
def measure(network: Autoencoder, data: Examples, count: int = MEASURED) -> None:
    """Give an autoencoder the shift and the scale of its latents: their mean, and 1 over their standard deviation.

    Both are one number for all channels, as for all autoencoders that are in use.

    Args:
        data: whose first pictures are encoded, `count` of them or as many as there are.

    Source: Rombach et al. 2022, appendix G, who take one batch.
    """
    device = next(network.parameters()).device
    parts = torch.arange(min(count, len(data)), device="cpu").split(32)
    z = torch.cat([network.encode(data.take(part)[0].to(device)).mean.double().cpu() for part in parts])
    shift, scale = float(f"{z.mean():.4g}"), float(f"{1 / z.std():.4g}")
    network.config = dataclasses.replace(network.config, shift=shift, scale=scale)
