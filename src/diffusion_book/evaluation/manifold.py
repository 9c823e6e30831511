"""Precision and recall, density and coverage: are samples where data are, and are they everywhere? Chapter 12.

All four put a ball around each example of one set, out to its k-th nearest neighbour in its own set, and ask which
examples of the other lie in it. They depend on both numbers of examples, so compare only at equal N, and beside the
values that held-out real images get.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_book.evaluation.distances import check_pair, rounding, squared_blocks


class Manifold(NamedTuple):
    """Between 0 and 1, but for density, which is 1 on average where both sets are alike and can be more."""

    precision: float
    """Share of samples in the ball of some real image."""
    recall: float
    """Share of real images in the ball of some sample."""
    density: float
    """Real balls that a sample lies in, on average, over k."""
    coverage: float
    """Share of real images whose own ball holds a sample."""


def manifold(real: Tensor, samples: Tensor, k: int = 3, k_density: int = 5) -> Manifold:
    """Precision and recall with k neighbours, density and coverage with k_density.

    Args:
        real, samples: features [N, D] and [M, D]; take N = M.

    Returns:
        All four. Memory stays bounded whatever N is; time grows with its square.

    Raises:
        ValueError: no more examples than neighbours; features that are not finite.

    Source: Kynkäänniemi et al. 2019, section 2; Naeem et al. 2020, section 3.
    """
    check_pair(real, samples)
    for name, count in (("k", k), ("k_density", k_density)):
        if not 1 <= count < min(len(real), len(samples)):
            raise ValueError(
                f"{name} must lie between 1 and the number of other examples, got {count} for {len(real)} real images "
                f"and {len(samples)} samples"
            )
    slack = rounding(real, samples)  # a copy of a real image lies on the edge of balls, and must not fall off it
    narrow, wide = (radius + slack for radius in _squared_radii(real, k, k_density))
    (of_samples,) = (radius + slack for radius in _squared_radii(samples, k))
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    found = torch.zeros_like(covered)
    precise = balls = 0
    for _, squared in squared_blocks(samples, real):
        precise += int((squared <= narrow).any(1).sum())
        inside = squared <= wide
        balls += int(inside.sum())
        covered |= inside.any(0)
    for rows, squared in squared_blocks(real, samples):
        found[rows] = (squared <= of_samples).any(1)
    return Manifold(
        precision=precise / len(samples),
        recall=float(found.double().mean()),
        density=balls / (k_density * len(samples)),
        coverage=float(covered.double().mean()),
    )


def _squared_radii(features: Tensor, *ks: int) -> list[Tensor]:
    """For each k, [N] squared distances to the k-th nearest other example."""
    nearest = [squared.topk(max(ks) + 1, largest=False).values for _, squared in squared_blocks(features, features)]
    sorted_ = torch.cat(nearest)  # the first is the example itself, at distance zero
    return [sorted_[:, k] for k in ks]
