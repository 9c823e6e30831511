"""A trained CLIP, called with pictures and with sentences. Chapter 9.

clip = models.load_clip("scenes-clip")
clip.images(x) @ clip.texts(["a small red cat", "two keys"]).mT     cosines [B, 2]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_book.models.card import Card
from diffusion_book.models.conditioner import vocabulary_of
from diffusion_book.nn import Clip

TOGETHER = 256
"""Pictures or captions at once, for memory."""


@dataclass(frozen=True)
class TrainedClip:
    """Two towers that say how well pictures and captions fit, and how they were made. It draws nothing."""

    network: Clip
    card: Card

    @torch.no_grad()
    def images(self, x: Tensor) -> Tensor:
        """Pictures [B, C, H, W] in [−1, 1] → vectors of length one [B, D].

        Raises:
            ValueError: pictures of another number of channels, or not of floating point.
        """
        device = self._device
        return torch.cat([F.normalize(self.network.image(part.to(device)), dim=1) for part in x.split(TOGETHER)])

    @torch.no_grad()
    def texts(self, said: Sequence[str]) -> Tensor:
        """Captions → vectors of length one [B, D].

        Raises:
            ValueError: a word is unknown, or there are too many.
        """
        tokens = vocabulary_of(self.network.config).encode(said).to(self._device)
        return torch.cat([F.normalize(self.network.text(part).pooled, dim=1) for part in tokens.split(TOGETHER)])

    @property
    def _device(self) -> torch.device:
        return self.network.logit_scale.device
