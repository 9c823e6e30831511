"""The Fréchet distance between two sets of features, in float64. Chapter 12.

Two Gaussians with the means and covariances of the features stand for the two sets: d² = ‖μ₁ − μ₂‖² +
tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½) (Dowson and Landau 1982; for generated images Heusel et al. 2017). It falls with the
number of samples, so a number without its N says nothing.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_book._memory import room_for
from diffusion_book.evaluation.distances import check_features
from diffusion_book.evaluation.features import Extractor, feature_batches


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of features, gathered in one pass and in any order; `a + b` are those of both together.

    Attributes:
        n: how many images.
        mean: [D] float64.
        scatter: [D, D] float64, Σ (x − mean)(x − mean)ᵀ.
        extractor: the `Extractor.identity` of the features; only equal ones are compared.
        data: whose features they are, for people.
    """

    n: int
    mean: Tensor
    scatter: Tensor
    extractor: str
    data: str = ""

    @staticmethod
    def of(features: Tensor, extractor: Extractor, data: str = "") -> "Moments":
        """Those of features [N, D] that this extractor made.

        Raises:
            ValueError: another shape, or NaN or infinity among them; or so many features that their covariances have
                no room in memory.
        """
        check_features(features)
        check_room(features.shape[1])
        x = features.double()
        mean = x.mean(0)
        return Moments(len(x), mean, (x - mean).mT @ (x - mean), extractor.identity, data)

    def __add__(self, other: "Moments") -> "Moments":
        """Of the two sets together (Chan, Golub and LeVeque 1983)."""
        _check_comparable(self, other)
        n = self.n + other.n
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.n / n)
        scatter = self.scatter + other.scatter + torch.outer(gap, gap) * (self.n * other.n / n)
        return Moments(n, mean, scatter, self.extractor, self.data)

    @property
    def cov(self) -> Tensor:
        """[D, D], unbiased: divided by n − 1.

        Raises:
            ValueError: there is only one image.
        """
        if self.n < 2:
            raise ValueError(f"a covariance needs at least two images, got {self.n}")
        return self.scatter / (self.n - 1)


def moments(
    extractor: Extractor,
    images: Tensor | Iterable[Tensor],
    data: str = "",
    batch_size: int = 500,
    progress: bool = False,
    bright: bool = False,
) -> Moments:
    """The moments of images [N, C, H, W], or of batches of them; not even the features are kept.

    Args:
        data: what they are, such as "mnist/train" or the name of a model. bright: see `extract`.
    """
    check_room(extractor.dim)
    total = None
    for found in feature_batches(extractor, images, batch_size, progress, bright):
        these = Moments.of(found, extractor, data)
        total = these if total is None else total + these
    assert total is not None  # feature_batches has told that there are no images
    return total


def check_room(D: int) -> None:
    """Raise a ValueError where two covariances and their factors have no room: D² numbers each, whatever N is.

    The room is asked for and not used, which costs nothing, so that it can be known before images are drawn.
    """
    with room_for(
        f"covariances of D = {D:,} features, {4 * 8 * D**2 / 1e9:,.3g} GB at the least",
        "compare images in the features of a classifier, which are few, or take smaller images",
    ):
        torch.empty(4, D, D, dtype=torch.float64, device="cpu")


def frechet_distance(a: Moments, b: Moments) -> float:
    """The squared Fréchet distance, as is usual, between the Gaussians with these moments.

    With Σ = F Fᵀ for both, by `eigh`, tr (Σ₁ Σ₂)^½ is the sum of the singular values of F₁ᵀ F₂: no square root of a
    product that is not symmetric, and nothing complex. Eigenvalues that are rounding are taken for the zeros they are.

    Raises:
        ValueError: the features are of different extractors, or there are fewer than two images.

    Warns:
        UserWarning: there are no more images than features, so the covariance is singular and the bias is large.

    Source: Dowson and Landau 1982; Heusel et al. 2017.
    """
    _check_comparable(a, b)
    factors = [_factor(m.cov) for m in (a, b)]
    for m in (a, b):
        if m.n <= len(m.mean):
            warnings.warn(
                f"{m.n} images of {m.data or 'one set'} for {len(m.mean)} features: the covariance is singular, and "
                "the distance mostly bias; compare it only with the real-against-real floor for the same N",
                stacklevel=2,
            )
    cross = torch.linalg.svdvals(factors[0].mT @ factors[1]).sum()
    gap = a.mean - b.mean
    return max(0.0, float(gap @ gap + a.cov.trace() + b.cov.trace() - 2 * cross))


def _factor(cov: Tensor) -> Tensor:
    """F with F Fᵀ = cov."""
    value, vector = torch.linalg.eigh(cov)
    noise = len(cov) * torch.finfo(cov.dtype).eps * value.abs().max()
    return vector * torch.where(value > noise, value, 0).sqrt()


def _check_comparable(a: Moments, b: Moments) -> None:
    if a.extractor != b.extractor:
        raise ValueError(f"features of different extractors cannot be compared: {a.extractor} and {b.extractor}")
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"features must have one length, got {len(a.mean)} and {len(b.mean)}")
