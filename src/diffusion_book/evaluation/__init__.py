"""Evaluation: what samples are worth, and what a number must be accompanied by to be believed. Chapter 12.

    classifier = models.load_classifier("mnist-classifier")
    extractor = from_classifier(classifier.network, "mnist-classifier", classifier.card.accuracy)
    print(evaluate(samples, train, test, extractor, origin).to_markdown())

A distance between sets of images is one between their features, so everything here takes an `Extractor`.
"""

from diffusion_book.evaluation.accuracy import Scores, accuracy, classification_accuracy_score, named_rightly
from diffusion_book.evaluation.features import (
    Extractor,
    edges,
    extract,
    feature_batches,
    from_classifier,
    from_module,
    pixels,
)
from diffusion_book.evaluation.frechet import Moments, frechet_distance, moments
from diffusion_book.evaluation.inception import fid, frechet_inception_distance, inception
from diffusion_book.evaluation.kid import KernelDistance, kid
from diffusion_book.evaluation.likelihood import Bits, bits_by_bound, bits_by_ode
from diffusion_book.evaluation.manifold import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    precision_recall,
)
from diffusion_book.evaluation.measure import evaluate
from diffusion_book.evaluation.naming import called, kernel_called
from diffusion_book.evaluation.neighbours import QUANTILES, Memorisation, Neighbours, memorisation, nearest
from diffusion_book.evaluation.reference import default_folder, reference_features, reference_moments
from diffusion_book.evaluation.report import Measure, Origin, Pictures, Report, Yardstick

__all__ = [
    "QUANTILES",
    "Bits",
    "DensityCoverage",
    "Extractor",
    "KernelDistance",
    "Measure",
    "Memorisation",
    "Moments",
    "Neighbours",
    "Origin",
    "Pictures",
    "PrecisionRecall",
    "Report",
    "Scores",
    "Yardstick",
    "accuracy",
    "bits_by_bound",
    "bits_by_ode",
    "called",
    "classification_accuracy_score",
    "default_folder",
    "density_coverage",
    "edges",
    "evaluate",
    "extract",
    "feature_batches",
    "fid",
    "frechet_distance",
    "frechet_inception_distance",
    "from_classifier",
    "from_module",
    "inception",
    "kernel_called",
    "kid",
    "memorisation",
    "moments",
    "named_rightly",
    "nearest",
    "pixels",
    "precision_recall",
    "reference_features",
    "reference_moments",
]
