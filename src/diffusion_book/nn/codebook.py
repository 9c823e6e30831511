"""A codebook: each vector of a latent becomes the nearest of a few that are learnt. Chapter 13."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusion_book._checks import at_least, check_batch


class Quantised(NamedTuple):
    """What a codebook makes of vectors."""

    z: Tensor
    """[B, …, D], the nearest codes, whose gradient goes to the vectors as if nothing had happened to them."""
    codes: Tensor
    """[B, …], their numbers."""
    loss: Tensor
    """[B, …], what draws codes to vectors and, by `commitment`, vectors to codes."""


class Codebook(nn.Module):
    """Vectors [B, …, D] → `Quantised`. Chapter 13.

    Rounding has no gradient, so the decoder's is handed to the encoder past it (straight through); codes learn from
    ‖sg[z] − e‖² alone, and β ‖z − sg[e]‖² keeps the encoder near the codes it chose.

    Source: van den Oord et al. 2017, equations 1 to 3.

    Args:
        codes: how many. dim: D.
        commitment: β, the share of the last.
    """

    def __init__(self, codes: int, dim: int, commitment: float = 0.25) -> None:
        super().__init__()
        at_least(1, codes=codes, dim=dim)
        self.codes = nn.Parameter(torch.randn(codes, dim))
        self.commitment = commitment

    def forward(self, z: Tensor) -> Quantised:
        """
        Raises:
            ValueError: z is no batch of floating point vectors of D numbers.
        """
        check_batch(z)
        if z.shape[-1] != self.codes.shape[1]:
            raise ValueError(f"vectors must be [B, …, {self.codes.shape[1]}], got shape {tuple(z.shape)}")
        index = torch.cdist(z.detach().flatten(0, -2), self.codes.detach()).argmin(1).view(z.shape[:-1])
        nearest = self.codes[index]
        learns = (nearest - z.detach()).square().sum(-1) + self.commitment * (z - nearest.detach()).square().sum(-1)
        return Quantised(z + (nearest - z).detach(), index, learns)
