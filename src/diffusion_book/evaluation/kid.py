"""KID: the kernel distance between two sets of features, unbiased, with a confidence interval. Chapter 12."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_book.evaluation.distances import BLOCK, check_pair


@dataclass(frozen=True)
class KernelDistance:
    """An estimate of MMD², and an interval that holds the true one with about this confidence.

    It is unbiased, and so it is negative about half the time where there is no difference.
    """

    value: float
    low: float
    high: float
    standard_error: float
    confidence: float
    groups: int


def kid(a: Tensor, b: Tensor, generator: torch.Generator, groups: int = 20, confidence: float = 0.95) -> KernelDistance:
    """MMD² with the kernel (x·y/D + 1)³, over all pairs; it is called KID where the features are Inception's.

    The interval is the jackknife's: both sets are shuffled and cut into as many groups, the estimate is made again
    without each group, its spread is the standard error, and Student's t with groups − 1 degrees of freedom gives the
    width. Where the two distributions are one, the jackknife errs on the wide side. (The usual spread over random
    subsets, as in Bińkowski et al. 2018, is that of an estimate from 1,000 examples, not of the mean that is reported.)

    Args:
        a, b: features [N, D] and [M, D]; N and M may differ.
        generator: shuffles, which moves the interval a little and the value not at all.
        groups: at least 2; the rest must hold two examples of both sets.

    Raises:
        ValueError: too few examples for so many groups; features that are not finite.

    Source: Bińkowski et al. 2018, section 4, with the estimator of Gretton et al. 2012; the jackknife of Quenouille
        1956 and Tukey 1958.
    """
    check_pair(a, b)
    if groups < 2 or min(len(a), len(b)) < 2 * groups:
        raise ValueError(
            f"{len(a)} and {len(b)} examples do not give {groups} groups of two or more each, and at least 2 groups "
            "are needed: take fewer groups, or more examples"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    x, y = (z[torch.randperm(len(z), generator=generator).to(z.device)].double().tensor_split(groups) for z in (a, b))
    xx, yy, xy = _sums(x, x, itself=True), _sums(y, y, itself=True), _sums(x, y)
    n, m = (torch.tensor([len(group) for group in z], dtype=torch.float64) for z in (x, y))
    value = _mmd_squared(xx.sum(), yy.sum(), xy.sum(), n.sum(), m.sum())
    rest_xx, rest_yy, rest_xy = (k.sum() - k.sum(0) - k.sum(1) + k.diagonal() for k in (xx, yy, xy))
    without = _mmd_squared(rest_xx, rest_yy, rest_xy, n.sum() - n, m.sum() - m)
    error = math.sqrt((groups - 1) * float(without.var(correction=0)))
    reach = _student_t(confidence, groups - 1) * error
    return KernelDistance(float(value), float(value) - reach, float(value) + reach, error, confidence, groups)


def _mmd_squared(xx: Tensor, yy: Tensor, xy: Tensor, n: Tensor, m: Tensor) -> Tensor:
    """From sums of the kernel over all pairs of different examples (Gretton et al. 2012, lemma 6)."""
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)


def _sums(x: tuple[Tensor, ...], y: tuple[Tensor, ...], itself: bool = False) -> Tensor:
    """[groups, groups]: the kernel summed over the pairs of two groups; of a set with itself nobody meets itself."""
    sums = torch.stack([torch.stack([_sum(p, q) for q in y]) for p in x])
    if itself:
        sums -= torch.diag(torch.stack([_kernel((p**2).sum(1), p.shape[1]).sum() for p in x]))
    return sums.cpu()


def _sum(p: Tensor, q: Tensor) -> Tensor:
    rows = max(1, BLOCK // len(q))
    return torch.stack([_kernel(part @ q.mT, q.shape[1]).sum() for part in p.split(rows)]).sum()


def _kernel(product: Tensor, D: int) -> Tensor:
    return (product / D + 1) ** 3


def _student_t(confidence: float, freedom: int) -> float:
    from scipy.stats import t  # imported where it is used: it is slow to load

    return float(t.ppf(0.5 + confidence / 2, freedom))
