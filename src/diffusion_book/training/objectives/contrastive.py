"""To tell which caption is whose picture's, among those of a batch. Chapter 9."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from diffusion_book.conditions import Conditions
from diffusion_book.losses import contrastive_loss
from diffusion_book.training.objectives.common import Batch


@dataclass(frozen=True)
class Contrastive:
    """The loss of CLIP: of the captions of a batch the picture's own, and of the pictures the caption's own.

    The other examples of a batch are what it is told apart from, so a larger batch asks more; a batch that is cut,
    between processes or by `accumulate`, asks what its parts do.

    Source: Radford et al. 2021, section 2.3.
    """

    T: ClassVar[None] = None

    def build(self, network: nn.Module) -> "Contrastive":
        """Itself."""
        return self

    def draw(self, x0: Tensor, conditions: Conditions, generator: torch.Generator) -> Batch:
        """Pictures and the words of their captions: nothing is left to chance."""
        return self.draw_held_out(x0, conditions, generator)

    def draw_held_out(self, x0: Tensor, conditions: Conditions, generator: torch.Generator) -> Batch:
        """As `draw`."""
        if "tokens" not in conditions:
            raise ValueError("a contrastive loss needs captions, and this data has none; take data = 'scenes'")
        return {"x0": x0, "tokens": conditions["tokens"]}

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """[B] nats."""
        return contrastive_loss(*network(batch["x0"], batch["tokens"]))
