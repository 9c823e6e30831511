"""Evaluation: what samples are worth, and what a number must be accompanied by to be believed. Chapter 12.

    extractor = from_classifier(zoo.load("mnist-classifier").network, "mnist-classifier", accuracy=0.99)
    print(evaluate(samples, train, test, extractor, generator, origin).to_markdown())

A distance between sets of images is one between their features, so everything here takes an `Extractor`.
"""

from diffusion_book.evaluation.features import (
    Extractor,
    extract,
    feature_batches,
    from_classifier,
    from_module,
    pixels,
    weights_sha256,
)
from diffusion_book.evaluation.frechet import Moments, frechet_distance, moments
from diffusion_book.evaluation.kid import KernelDistance, kid
from diffusion_book.evaluation.manifold import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    precision_recall,
)
from diffusion_book.evaluation.neighbours import QUANTILES, Memorisation, Neighbours, memorisation, nearest

__all__ = [
    "QUANTILES",
    "DensityCoverage",
    "Extractor",
    "KernelDistance",
    "Memorisation",
    "Moments",
    "Neighbours",
    "PrecisionRecall",
    "density_coverage",
    "extract",
    "feature_batches",
    "frechet_distance",
    "from_classifier",
    "from_module",
    "kid",
    "memorisation",
    "moments",
    "nearest",
    "pixels",
    "precision_recall",
    "weights_sha256",
]
