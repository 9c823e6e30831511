"""How a network is told the time."""

import math

import torch
from torch import Tensor, nn


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sines and cosines of t at `dim`/2 frequencies from 1 down to 1/max_period (Vaswani et al. 2017, section 3.5).

    Args:
        t: [B] times, integer or real, of the order of 0 … 1000.
        dim: even number of features.

    Returns:
        [B, dim] float32: cosines first, then sines. Chapter 5 asks why not t itself.
    """
    if dim % 2:
        raise ValueError(f"dim must be even, half for cosines and half for sines, got {dim}")
    frequency = torch.exp(-math.log(max_period) * torch.arange(dim // 2, device=t.device) / (dim // 2))
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Sinusoids of t, then two layers: [B] → [B, out]."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.Sequential(nn.Linear(dim, out), nn.SiLU(), nn.Linear(out, out))

    def forward(self, t: Tensor) -> Tensor:
        return self.layers(timestep_embedding(t, self.dim))
