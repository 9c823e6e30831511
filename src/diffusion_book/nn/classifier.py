"""A small convolutional classifier: its last features are the yardstick for samples of digits (chapter 12).

Shapes: images [B, C, H, W] in [−1, 1], features [B, D], logits [B, classes].
"""

from dataclasses import dataclass

from torch import Tensor, nn

from diffusion_book._checks import at_least
from diffusion_book.nn.inputs import check_images


@dataclass(frozen=True)
class ClassifierConfig:
    """What a classifier is made of. Chapter 12.

    Attributes:
        image_channels: 1 for digits, 3 for colour.
        channels: features at the highest resolution; each of three levels has half the resolution and more of them.
        features: D, what the last layer sees, and what distances between sets of images are measured in.
        classes: number of classes.
    """

    image_channels: int = 1
    channels: int = 32
    features: int = 128
    classes: int = 10

    def __post_init__(self) -> None:
        at_least(1, **vars(self))


class Classifier(nn.Module):
    """Images → logits; `features` stops one layer earlier. Chapter 12."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        C = config.channels
        self.body = nn.Sequential(
            *_conv(config.image_channels, C, 3),
            *_conv(C, C, 3),
            *_conv(C, C, 3, stride=2),
            *_conv(C, 2 * C, 3),
            *_conv(2 * C, 2 * C, 3),
            *_conv(2 * C, 2 * C, 3, stride=2),
            *_conv(2 * C, 4 * C, 3),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * C, config.features, bias=False),
            nn.BatchNorm1d(config.features),
            nn.ReLU(inplace=True),
        )
        self.head = nn.Linear(config.features, config.classes)

    def features(self, x: Tensor) -> Tensor:
        """[B, C, H, W] in [−1, 1] → [B, D], none negative.

        Raises:
            ValueError: the shape does not fit, or x is not floating point, as the weights are.
        """
        check_images(x, self.config.image_channels, self.body)
        features: Tensor = self.body(x)
        return features

    def maps(self, x: Tensor) -> list[Tensor]:
        """[B, C, H, W] in [−1, 1] → what is seen at each resolution, [B, C_i, H_i, W_i] each. Chapter 13."""
        check_images(x, self.config.image_channels, self.body)
        found = []
        for number, layer in enumerate(self.body.children()):
            x = layer(x)
            if number in MAPPED:
                found.append(x)
            if number == MAPPED[-1]:
                break
        return found

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] in [−1, 1] → logits [B, classes]."""
        logits: Tensor = self.head(self.features(x))
        return logits


MAPPED = (5, 14, 20)
"""Layers of the body that `maps` shows: each is the last at its resolution."""


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
