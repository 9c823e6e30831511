"""What a run trains for, by kind: to denoise, to name the class, or to find the caption. Chapter 11."""

from collections.abc import Mapping
from typing import Any

from diffusion_book._names import check_known
from diffusion_book.nn.build import check_fields
from diffusion_book.training.objectives.autoencoding import Autoencoding, AutoencodingConfig
from diffusion_book.training.objectives.classification import Classification
from diffusion_book.training.objectives.common import Batch, Learning, Objective, ObjectiveConfig, learning, to_device
from diffusion_book.training.objectives.contrastive import Contrastive
from diffusion_book.training.objectives.denoising import Denoising, DenoisingConfig
from diffusion_book.training.objectives.noisy_classification import NoisyClassification, NoisyClassificationConfig

__all__ = [
    "OBJECTIVES",
    "Autoencoding",
    "AutoencodingConfig",
    "Batch",
    "Classification",
    "Contrastive",
    "Denoising",
    "DenoisingConfig",
    "Learning",
    "NoisyClassification",
    "NoisyClassificationConfig",
    "Objective",
    "ObjectiveConfig",
    "configure",
    "learning",
    "to_device",
]

OBJECTIVES: dict[str, type[Any]] = {
    "denoising": DenoisingConfig,
    "classification": Classification,
    "noisy-classification": NoisyClassificationConfig,
    "autoencoding": AutoencodingConfig,
    "contrastive": Contrastive,
}
"""What "kind" may be. A new objective is its own file and a line here."""


def configure(description: Mapping[str, Any]) -> ObjectiveConfig:
    """An objective's configuration from the table `[objective]`: its "kind", and any of the fields of that kind.

    Raises:
        ValueError: an unknown kind; a field that this kind does not have, with the nearest one; or a value that does
            not fit.
    """
    fields = dict(description)
    kind = fields.pop("kind", None)
    check_known("kind of objective", kind, OBJECTIVES)
    check_fields(fields, OBJECTIVES[kind], f"objective of kind {kind!r}")
    configured: ObjectiveConfig = OBJECTIVES[kind](**fields)
    return configured
