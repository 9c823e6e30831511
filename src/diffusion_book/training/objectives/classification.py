"""To name the class: cross-entropy. Chapter 12."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_book.conditions import Conditions
from diffusion_book.data.augment import move
from diffusion_book.training.objectives.common import Batch


@dataclass(frozen=True)
class Classification:
    """Cross-entropy of the class, each image shifted, turned and scaled a little.

    Attributes:
        jitter: how much: 1 is up to 2 of 28 pixels, 10 degrees and 10 %; 0 leaves images alone.
        smoothing: the share of certainty given to all classes alike (Szegedy et al. 2016, section 7).
    """

    T: ClassVar[None] = None
    jitter: float = 1.0
    smoothing: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.jitter < math.inf:
            raise ValueError(f"jitter must be at least 0 and finite, got {self.jitter}; 0 leaves images alone")
        if not 0 <= self.smoothing <= 1:
            raise ValueError(f"smoothing is a share in [0, 1], got {self.smoothing}")

    def build(self, network: nn.Module) -> "Classification":
        """Itself: it says all in numbers, and so is what a file describes, too."""
        return self

    def draw(self, x0: Tensor, conditions: Conditions, generator: torch.Generator) -> Batch:
        """x0, moved, and labels."""
        return self.draw_held_out(move(x0, self.jitter, generator) if self.jitter else x0, conditions, generator)

    def draw_held_out(self, x0: Tensor, conditions: Conditions, generator: torch.Generator) -> Batch:
        """x0 as it is, and labels: nothing is left to chance."""
        return labels_of(x0, conditions)

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """[B] nats."""
        return F.cross_entropy(network(batch["x0"]), batch["y"], reduction="none", label_smoothing=self.smoothing)


def labels_of(x0: Tensor, conditions: Conditions) -> Batch:
    """Examples and their labels.

    Raises:
        ValueError: there are no labels.
    """
    if "y" not in conditions:
        raise ValueError("a classifier needs labels, and this data has none")
    return {"x0": x0, "y": conditions["y"]}
