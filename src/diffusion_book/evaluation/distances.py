"""Euclidean distances between two sets of vectors, in blocks, so that memory stays bounded. Chapter 12."""

from collections.abc import Iterator

import torch
from torch import Tensor

from diffusion_book._checks import check_floating
from diffusion_book._double import in_double

BLOCK = 2**24
"""At most so many distances are in memory at once: 128 MB."""


def check_pair(a: Tensor, b: Tensor) -> None:
    """Raise a ValueError unless both are finite floating-point features of one length."""
    check_features(a)
    check_features(b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features must have one length, got {a.shape[1]} and {b.shape[1]}")


def check_features(features: Tensor) -> None:
    """Raise a ValueError unless they are finite, of floating point and [N, D], one row or more."""
    check_floating("features", features)
    if features.ndim != 2 or not len(features):
        raise ValueError(f"features must be [N, D] with N ≥ 1, got shape {tuple(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError("there are NaN or infinite features; look at the images that they are of")


def squared_blocks(a: Tensor, b: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(rows of a, their squared distances to all of b), for a [N, D] and b [M, D], in float64.

    By ‖x‖² + ‖y‖² − 2 x·y, which is ten times as fast as the difference of each pair, and with it exact only to
    `rounding`: compare with that much slack.
    """
    a, b = in_double(a), in_double(b)
    centre = b.mean(0)
    a, b = a - centre, b - centre
    of_a, of_b = (a**2).sum(1), (b**2).sum(1)
    rows = max(1, BLOCK // len(b))
    for start in range(0, len(a), rows):
        here = slice(start, start + rows)
        yield here, torch.addmm(of_b.expand(len(a[here]), -1), a[here], b.mT, alpha=-2).add_(of_a[here, None]).clamp_(0)


def rounding(a: Tensor, b: Tensor) -> float:
    """What a squared distance of `squared_blocks` may be off by, with a wide margin."""
    a, b = in_double(a), in_double(b)
    centre = b.mean(0)
    largest = max(float(((x - centre) ** 2).sum(1).max()) for x in (a, b))
    return 1e-12 * largest
