"""Precision and recall, density and coverage: are samples where data are, and are they everywhere? Chapter 12.

All four put a ball around each example of one set, out to its k-th nearest neighbour in its own set, and ask which
examples of the other lie in it. They depend on both numbers of examples, so compare only at equal N, and beside the
values that held-out real images get. Memory stays bounded whatever N is; time grows with its square.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_book.evaluation.distances import check_pair, rounding, squared_blocks


class PrecisionRecall(NamedTuple):
    """Between 0 and 1."""

    precision: float
    """Share of samples in the ball of some real image."""
    recall: float
    """Share of real images in the ball of some sample."""


class DensityCoverage(NamedTuple):
    """Where both sets are alike density is 1 on average, and coverage 1 − (N−1)…(N−k)/((N+M−1)…(N+M−k))."""

    density: float
    """Real balls that a sample lies in, on average, over k; it can be more than 1."""
    coverage: float
    """Share of real images whose own ball holds a sample."""


def precision_recall(samples: Tensor, real: Tensor, k: int = 3) -> PrecisionRecall:
    """Are samples where data are (precision), and are data where samples are (recall)?

    Args:
        samples, real: features [N, D] and [M, D]; take N = M.
        k: of the neighbour to which a ball reaches.

    Raises:
        ValueError: no more examples than neighbours; features that are not finite.

    Source: Kynkäänniemi et al. 2019, section 2.
    """
    _check(samples, real, k)
    return PrecisionRecall(_share_inside(samples, real, k), _share_inside(real, samples, k))


def density_coverage(samples: Tensor, real: Tensor, k: int = 5) -> DensityCoverage:
    """As precision and recall, but balls are only around real images, and one outlier's large ball counts little.

    Args:
        samples, real: features [N, D] and [M, D]; take N = M.
        k: of the neighbour to which a ball reaches.

    Raises:
        ValueError: no more real images than neighbours; features that are not finite.

    Source: Naeem et al. 2020, section 3.
    """
    _check(samples, real, k)
    radius = _squared_radii(real, k) + rounding(samples, real)
    balls, covered = 0, []
    for rows, squared in squared_blocks(real, samples):
        inside = squared <= radius[rows, None]
        balls += int(inside.sum())
        covered.append(inside.any(1))
    return DensityCoverage(balls / (k * len(samples)), float(torch.cat(covered).double().mean()))


def _share_inside(queries: Tensor, centres: Tensor, k: int) -> float:
    # A copy of another centre lies on the edge of balls, and must not fall off it by rounding.
    radius = _squared_radii(centres, k) + rounding(queries, centres)
    inside = [(squared <= radius).any(1) for _, squared in squared_blocks(queries, centres)]
    return float(torch.cat(inside).double().mean())


def _squared_radii(features: Tensor, k: int) -> Tensor:
    """[N] squared distances to the k-th nearest other example; the nearest of all is the example itself."""
    radii = [squared.topk(k + 1, largest=False).values[:, k] for _, squared in squared_blocks(features, features)]
    return torch.cat(radii)


def _check(samples: Tensor, real: Tensor, k: int) -> None:
    check_pair(samples, real)
    if not 1 <= k < min(len(samples), len(real)):
        raise ValueError(
            f"k must lie between 1 and the number of other examples, got {k} for {len(samples)} and {len(real)} images"
        )
