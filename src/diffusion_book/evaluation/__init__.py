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
from diffusion_book.evaluation.kid import KernelDistance, kernel_distance, mmd_squared
from diffusion_book.evaluation.manifold import Manifold, manifold
from diffusion_book.evaluation.neighbours import QUANTILES, Memorisation, Neighbours, memorisation, nearest

__all__ = [
    "QUANTILES",
    "Extractor",
    "KernelDistance",
    "Manifold",
    "Memorisation",
    "Moments",
    "Neighbours",
    "extract",
    "feature_batches",
    "frechet_distance",
    "from_classifier",
    "from_module",
    "kernel_distance",
    "manifold",
    "memorisation",
    "mmd_squared",
    "moments",
    "nearest",
    "pixels",
    "weights_sha256",
]
