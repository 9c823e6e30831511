"""KID: the kernel distance between two sets of features, unbiased, with a confidence interval. Chapter 12."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_book.evaluation.distances import check_pair


@dataclass(frozen=True)
class KernelDistance:
    """An estimate of MMD², and the interval that holds the true one with probability `confidence`.

    It is unbiased, and so it is negative about half the time where there is no difference.
    """

    value: float
    low: float
    high: float
    standard_error: float
    confidence: float
    blocks: int


def kernel_distance(
    a: Tensor, b: Tensor, generator: torch.Generator, blocks: int = 20, confidence: float = 0.95
) -> KernelDistance:
    """MMD² with the kernel (x·y/D + 1)³, which is KID where the features are Inception's.

    Both sets are shuffled and cut into as many blocks; within each the estimate is the unbiased one, over all pairs
    of different examples. The blocks share no example, so they are independent, their mean is unbiased as well, and
    Student's t with blocks − 1 degrees of freedom gives the interval. (The usual subsets overlap, so their spread says
    little about the error; Bińkowski et al. 2018 draw them so.) More blocks cost less and make the estimate rougher.

    Args:
        a, b: features [N, D] and [M, D]; N and M may differ.
        generator: shuffles.
        blocks: at least 2, each with at least two examples of both sets.

    Raises:
        ValueError: too few examples for so many blocks; features that are not finite.

    Source: Bińkowski et al. 2018, section 4, with the estimator of Gretton et al. 2012; blocks as in Zaremba et al.
        2013.
    """
    check_pair(a, b)
    if blocks < 2 or min(len(a), len(b)) < 2 * blocks:
        raise ValueError(
            f"{len(a)} and {len(b)} examples do not give {blocks} blocks of two or more each; at least 2 blocks are "
            "needed: take fewer blocks, or more examples"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    shuffled = [x[torch.randperm(len(x), generator=generator).to(x.device)].double() for x in (a, b)]
    pairs = zip(*(x.tensor_split(blocks) for x in shuffled))
    found = torch.stack([mmd_squared(x, y) for x, y in pairs])
    value, error = float(found.mean()), float(found.std()) / math.sqrt(blocks)
    reach = _student_t(confidence, blocks - 1) * error
    return KernelDistance(value, value - reach, value + reach, error, confidence, blocks)


def mmd_squared(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate of MMD² from all pairs of x [N, D] and y [M, D], with the kernel (x·y/D + 1)³.

    Source: Gretton et al. 2012, equation 3; the kernel of Bińkowski et al. 2018, section 4.
    """
    within = [_kernel(z, z) for z in (x, y)]
    same = sum((k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in within)
    return same - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.mT / x.shape[1] + 1) ** 3


def _student_t(confidence: float, freedom: int) -> float:
    from scipy.stats import t  # imported where it is used: it is slow to load

    return float(t.ppf(0.5 + confidence / 2, freedom))
