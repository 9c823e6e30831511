"""Between pictures and what a network denoises: for pixels nothing, for latents an autoencoder. Chapter 13."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


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
