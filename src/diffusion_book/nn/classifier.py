"""A small convolutional classifier: its last features are the yardstick for samples of digits (chapter 12).

One that is told the time also names the class of what is still noise, p(y|x_t), which is what guides (chapter 8).
Shapes: images [B, C, H, W], features [B, D], logits [B, classes].
"""

from dataclasses import dataclass, field

from torch import Tensor, nn

from diffusion_book._checks import at_least
from diffusion_book.nn.embedding import TimeEmbedding
from diffusion_book.nn.inputs import check_images

SINUSOIDS = 64
"""Of the time, for a classifier that is told it."""


@dataclass(frozen=True)
class ClassifierConfig:
    """What a classifier is made of. Chapter 12.

    Attributes:
        image_channels: 1 for digits, 3 for colour.
        channels: features at the highest resolution; each of three levels has half the resolution and more of them.
        features: D, what the last layer sees, and what distances between sets of images are measured in.
        classes: number of classes.
        timed: whether it is told the time t, and so looks at noisy images x_t too.
    """

    image_channels: int = 1
    channels: int = 32
    features: int = 128
    classes: int = 10
    timed: bool = field(default=False, metadata={"later": True})

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if name != "timed"}
        at_least(1, **sizes)


class Classifier(nn.Module):
    """Images → logits; `features` stops one layer earlier. Chapters 8 and 12.

    Source of the one that is told the time: Dhariwal and Nichol 2021, section 4.
    """

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
        if config.timed:
            self.embed_time = TimeEmbedding(SINUSOIDS, C)

    def features(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """[B, C, H, W] → [B, D], none negative.

        Args:
            x: in [−1, 1]; with a time, the noisy x_t.
            t: [B], the time as a denoiser is told it, `schedule.clock(t)`; None is that of images without noise.

        Raises:
            ValueError: the shape does not fit; x is not floating point, as the weights are; or there is a time, and
                this network is told none.
        """
        check_images(x, self.config.image_channels, self.body)
        if not self.config.timed:
            _check_untimed(t)
            return self.body(x)
        h = self.body[:LEVEL](x)
        shift = self.embed_time(x.new_zeros(len(x)) if t is None else t)
        return self.body[LEVEL:](h + shift[:, :, None, None])

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

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """[B, C, H, W] → logits [B, classes]; see `features`."""
        return self.head(self.features(x, t))


LEVEL = 9
"""Layers of the body at and down from the highest resolution; behind them it is told the time."""


def _check_untimed(t: Tensor | None) -> None:
    if t is not None:
        raise ValueError("this classifier looks at images without noise and is told no time; leave t out, or timed on")


MAPPED = (5, 14, 20)
"""Layers of the body that `maps` shows: each is the last at its resolution."""


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
