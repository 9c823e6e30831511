"""CLIP in small: a picture and its caption become two vectors that point the same way. Chapter 9.

    images, texts, scale = clip(x, tokens)      [B, D], [B, D], a number

Of the pictures looks the classifier of chapter 12, whose last layer has D features in the place of classes; the
captions are read by `TextEncoder`, as the numbers of the grammar's words: with so few words none need be cut into
pieces, and a token is something one can point at. What both learn from is `losses.contrastive_loss`.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from diffusion_book._checks import at_least
from diffusion_book.nn.classifier import Classifier, ClassifierConfig
from diffusion_book.nn.text import TextConfig, TextEncoder

MOST_SCALE = math.log(100)
"""Beyond it training becomes unstable (Radford et al. 2021, section 2.5)."""


@dataclass(frozen=True)
class ClipConfig:
    """What a small CLIP is made of.

    Attributes:
        vocabulary, length: of the captions; see `TextConfig`. The number 0 is no word.
        image_channels, channels, features: of what looks at pictures; see `ClassifierConfig`.
        width, layers, heads: of what reads; see `TextConfig`.
        dim: D, features that both are mapped to.
        words: by their numbers, where they were learnt from captions; () for those of `scenes`.
    """

    vocabulary: int = 0
    length: int = 0
    image_channels: int = 3
    channels: int = 32
    features: int = 128
    width: int = 128
    layers: int = 2
    heads: int = 4
    dim: int = 64
    words: tuple[str, ...] = field(default=(), metadata={"later": True})

    def __post_init__(self) -> None:
        at_least(1, dim=self.dim)
        if self.words and len(self.words) != self.vocabulary:
            raise ValueError(f"{len(self.words)} words are not the vocabulary of {self.vocabulary}")
        _ = self.image, self.text

    @property
    def image(self) -> ClassifierConfig:
        """Of the tower of pictures."""
        return ClassifierConfig(self.image_channels, self.channels, self.features, self.dim)

    @property
    def text(self) -> TextConfig:
        """Of the tower of captions."""
        return TextConfig(self.vocabulary, self.length, self.width, self.layers, self.heads, projection=self.dim)


class Clip(nn.Module):
    """Pictures and captions → two vectors each, and how much their cosines count. Chapter 9.

    Source: Radford et al. 2021, section 2.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.image, self.text = Classifier(config.image), TextEncoder(config.text)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    @property
    def scale(self) -> Tensor:
        """s, the inverse of the temperature, learnt as its logarithm and at most 100."""
        with torch.no_grad():
            self.logit_scale.clamp_(max=MOST_SCALE)  # not in the graph: there its gradient would be zero for ever
        return self.logit_scale.exp()

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            x: [B, C, H, W] in [−1, 1]. tokens: [B, L], numbers of words; 0 is none.

        Returns:
            Of the pictures [B, D], of the captions [B, D], neither of length one; and s.
        """
        return self.image(x), self.text(tokens).pooled, self.scale
