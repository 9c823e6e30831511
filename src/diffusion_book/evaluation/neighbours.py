"""The nearest training images of samples, and whether they are too near: memorisation. Chapter 12.

A metric that compares sets cannot tell a good model from one that prints its training images; this can.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_book.data.images import check_range
from diffusion_book.evaluation.distances import check_pair, squared_blocks


class Neighbours(NamedTuple):
    """For each query its k nearest references, the nearest first."""

    distance: Tensor
    """[N, k] Euclidean, float64."""
    which: Tensor
    """[N, k] into the references."""


def nearest(queries: Tensor, references: Tensor, k: int = 1) -> Neighbours:
    """The k nearest of references [M, D] for each of queries [N, D], by Euclidean distance, exactly.

    Args:
        queries, references: features, or images [N, C, H, W] in [−1, 1], whose pixels are then compared.
        k: at most M.

    Raises:
        ValueError: features that are not finite or of two lengths; images that are not in [−1, 1]; or k above M.
    """
    for images in (x for x in (queries, references) if isinstance(x, Tensor) and x.ndim == 4):
        check_range(images)
    queries, references = queries.flatten(1), references.flatten(1)
    check_pair(queries, references)
    if not 1 <= k <= len(references):
        raise ValueError(f"k must lie between 1 and the {len(references)} references, got {k}")
    indices = [squared.topk(k, largest=False).indices for _, squared in squared_blocks(queries, references)]
    index = torch.cat(indices)
    # Once more from the difference, so that a copy is at distance zero and not at the rounding of a large square.
    columns = [(queries.double() - references[column].double()).norm(dim=1) for column in index.unbind(1)]
    return Neighbours(torch.stack(columns, 1), index)


class Memorisation(NamedTuple):
    """How near samples are to training images, beside how near held-out real images are."""

    samples: list[float]
    """The 1, 5, 25, 50, 75, 95 and 99 % quantiles of the distance from a sample to its nearest training image."""
    held_out: list[float]
    """The same from a held-out real image."""
    nearer: float
    """P(a sample is nearer to the training set than a held-out image), ties half: ½ is right, 1 is copying."""
    suspicious: float
    """Share of samples nearer than all but 1 % of held-out images: about 0.01 is right."""
    copies: float
    """Share of samples at a distance of zero."""


QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""At which `Memorisation` gives the distances."""


def memorisation(samples: Tensor, held_out: Tensor, train: Tensor) -> Memorisation:
    """Compare the distances sample → nearest training image with those held-out real image → nearest training image.

    Args:
        samples, held_out, train: features [N, D], or images [N, C, H, W].

    Source: the share `nearer` is the statistic of Mann and Whitney, which Meehan et al. 2020 test for data-copying.
    """
    ours, theirs = (nearest(x, train).distance[:, 0].sort().values for x in (samples, held_out))
    at = torch.tensor(QUANTILES, dtype=torch.float64, device=ours.device)
    farther = len(theirs) - torch.searchsorted(theirs, ours, right=True)
    ties = torch.searchsorted(theirs, ours, right=True) - torch.searchsorted(theirs, ours)
    return Memorisation(
        samples=torch.quantile(ours, at).tolist(),
        held_out=torch.quantile(theirs, at).tolist(),
        nearer=float((farther + 0.5 * ties).double().mean() / len(theirs)),
        suspicious=float((ours < torch.quantile(theirs, 0.01)).double().mean()),
        copies=float((ours == 0).double().mean()),
    )
