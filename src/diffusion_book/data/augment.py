"""Pictures [B, C, H, W] that could as well be in the set: mirrored, or shifted, turned and scaled. Chapter 10."""

import torch
from torch import Tensor
from torch.nn import functional as F


def flip_half(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image [B, C, H, W] or, with probability one half, its mirror image, left for right."""
    if x.ndim != 4:
        raise ValueError(f"only images [B, C, H, W] can be flipped, got {list(x.shape)}; leave flip out")
    flipped = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None], x.flip(-1), x)


def move(x: Tensor, jitter: float, generator: torch.Generator) -> Tensor:
    """Shift, turn and scale each image [B, C, H, W] by its own random amount.

    Args:
        jitter: how much: 1 is up to 2 of 28 pixels, 10 degrees and 10 %.
    """
    u = jitter * (2 * torch.rand(4, len(x), generator=generator) - 1)
    return warp(x, angle=u[0] * torch.pi / 18, scale=1 + 0.1 * u[1], right=u[2] / 7, down=u[3] / 7)


def warp(x: Tensor, angle: Tensor, scale: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Look at each image [B, C, H, W] through a window that is turned, scaled and moved; outside, all is black.

    Args:
        angle: [B] radians, clockwise. scale: [B]; above 1 the window is larger, and what it shows smaller.
        right, down: [B] in halves of a side.
    """
    cos, sin = scale * angle.cos(), scale * angle.sin()
    affine = torch.stack([cos, -sin, right, sin, cos, down], dim=1).reshape(-1, 2, 3)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1
