"""Feature extractors: plug-ins that turn images into the vectors which are compared. Chapter 12.

A distance between sets of images is one between their features, so it means something only beside the name and the
hash of what made them. Everything here streams: of 50,000 images only their features are ever in memory.
"""

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from diffusion_book._checks import at_least
from diffusion_book.data.images import check_images, from_uint8, seems_in_0_to_1, to_uint8
from diffusion_book.nn import Classifier
from diffusion_book.nn.build import uncompiled, weights_sha256


@dataclass(frozen=True)
class Extractor:
    """Images → features, with all that identifies them.

    Called with [B, C, H, W] in [−1, 1] it returns [B, dim] float32, on the CPU. The images are first rounded to 8
    bits, as they would be in a file: the real ones were, and a metric must not see the difference.

    Attributes:
        name: for people. sha256: of the weights (`weights_sha256`), for machines.
        dim: D, the length of a feature vector.
        function: [B, C, H, W] float32 in [−1, 1] → [B, dim].
        kind: what its distances may be called, see `called`.
        accuracy: of a classifier on held-out real images, where that is known.
        preprocessing: what is done to an image before.
    """

    name: str
    sha256: str
    dim: int
    function: Callable[[Tensor], Tensor] = field(repr=False, compare=False)
    kind: Literal["classifier", "inception", "other"] = "other"
    accuracy: float | None = None
    preprocessing: str = "rounded to 8 bits"

    @property
    def identity(self) -> str:
        """Name, hash and preprocessing in one line: statistics of two extractors are comparable where it is equal."""
        return f"{self.name} (SHA-256 {self.sha256}, images {self.preprocessing})"

    def __call__(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [−1, 1] → [B, dim].

        Raises:
            ValueError: no float32 images in [−1, 1]; or the features have another shape, or are not finite.
        """
        check_images(images, bright=True)  # a batch need not have a dark pixel
        with torch.no_grad():
            found = self.function(from_uint8(to_uint8(images))).float().cpu()
        wanted = (len(images), self.dim)
        if found.shape != wanted:
            raise ValueError(f"{self.name} must return features {list(wanted)}, got shape {tuple(found.shape)}")
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"{self.name} returned NaN or infinity; look at its weights and at the images")
        return found


def from_module(
    network: nn.Module,
    name: str,
    dim: int,
    function: Callable[[nn.Module, Tensor], Tensor] | None = None,
    kind: Literal["classifier", "inception", "other"] = "other",
    accuracy: float | None = None,
) -> Extractor:
    """The extractor that a network is. It keeps a frozen copy, which training goes on without.

    Args:
        network: maps images to [B, dim], on whichever device it is.
        function: (network, images) → [B, dim], where calling the network is not what is wanted.
    """
    frozen = copy.deepcopy(uncompiled(network)).eval().requires_grad_(False)
    device = next((parameter.device for parameter in frozen.parameters()), torch.device("cpu"))

    def run(images: Tensor) -> Tensor:
        images = images.to(device)
        found: Tensor = frozen(images) if function is None else function(frozen, images)
        return found

    return Extractor(name, weights_sha256(frozen), dim, run, kind, accuracy)


def from_classifier(network: Classifier, name: str, accuracy: float | None = None) -> Extractor:
    """The last features of a classifier: what a Fréchet classifier distance (FCD) is measured in.

    Args:
        name: such as "mnist-classifier". accuracy: on held-out real images; a report that cannot say it is worth less.
    """
    return from_module(network, name, network.config.features, _classifier_features, "classifier", accuracy)


def _classifier_features(network: Any, images: Tensor) -> Tensor:
    features: Tensor = network.features(images)
    return features


def pixels(shape: tuple[int, int, int]) -> Extractor:
    """The pixels themselves, [B, C·H·W], for images of shape (C, H, W): the extractor that has learnt nothing."""
    C, H, W = shape
    return Extractor(f"pixels {C}×{H}×{W}", hashlib.sha256(b"pixels").hexdigest(), C * H * W, lambda x: x.flatten(1))


CELLS, DIRECTIONS = 4, 8


def edges(channels: int) -> Extractor:
    """What can be seen without having learnt anything: where there are edges, of which direction, and which colours.

    The image is cut into 4×4 cells. Of each there are the roots of the mean strengths of its edges in eight directions,
    0.1 added so that edges which nobody sees weigh little, and half its mean colour: 128 + 16·C numbers for C channels.

    Source: histograms of oriented gradients are of Dalal and Triggs 2005, who also normalise them; chapter 12.
    """
    dim = CELLS**2 * (DIRECTIONS + channels)
    named = f"edges and colours {CELLS}×{CELLS}"
    return Extractor(named, hashlib.sha256(named.encode()).hexdigest(), dim, _edges)


def _edges(x: Tensor) -> Tensor:
    around = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    dx = around[..., 1:-1, 2:] - around[..., 1:-1, :-2]
    dy = around[..., 2:, 1:-1] - around[..., :-2, 1:-1]
    strength, direction = dx.hypot(dy), torch.atan2(dy, dx) / math.pi * DIRECTIONS
    found = []
    for k in range(DIRECTIONS):  # each edge counts for the two directions next to its own, the more the nearer
        away = (direction - k + DIRECTIONS / 2) % DIRECTIONS - DIRECTIONS / 2
        found.append((strength * (1 - away.abs()).clamp(min=0)).mean(1))
    histogram = functional.adaptive_avg_pool2d(torch.stack(found, 1), CELLS)
    colours = functional.adaptive_avg_pool2d(x, CELLS)
    return torch.cat([(histogram + 0.1).sqrt().flatten(1), 0.5 * colours.flatten(1)], 1)


def extract(
    extractor: Extractor,
    images: Tensor | Iterable[Tensor],
    batch_size: int = 500,
    progress: bool = False,
    bright: bool = False,
) -> Tensor:
    """The features [N, D] of images, batch by batch.

    Args:
        images: [N, C, H, W] in [−1, 1]; or batches of them, such as a generator that samples while it is read.
        batch_size: at most so many go through the network at once.
        progress: show a bar.
        bright: whether the images may have no dark pixel among them, as those of snow; else they are taken for images
            in [0, 1], unless they are bytes that were scaled rightly.

    Raises:
        ValueError: bytes, images outside [−1, 1] or in [0, 1], or none at all.
    """
    return torch.cat(list(feature_batches(extractor, images, batch_size, progress, bright)))


def feature_batches(
    extractor: Extractor,
    images: Tensor | Iterable[Tensor],
    batch_size: int = 500,
    progress: bool = False,
    bright: bool = False,
) -> Iterator[Tensor]:
    """What `extract` puts together, as it comes: [b, D] at a time."""
    at_least(1, batch_size=batch_size)
    total = len(images) if isinstance(images, Tensor) else None
    lowest, suspect, shape = 1.0, False, None
    with tqdm(desc=extractor.name, total=total, unit=" images", disable=not progress) as bar:
        for given in [images] if isinstance(images, Tensor) else images:
            if not isinstance(given, Tensor):
                raise ValueError(f"images must come as tensors [B, C, H, W], got {type(given).__name__}")
            for batch in given.split(batch_size):
                found = extractor(batch)
                if shape is not None and batch.shape[1:] != shape:
                    raise ValueError(f"all images must be {tuple(shape)}, got {tuple(batch.shape[1:])} as well")
                shape, lowest = batch.shape[1:], min(lowest, float(batch.min()))
                suspect = suspect or seems_in_0_to_1(batch)
                bar.update(len(batch))
                yield found
    if shape is None:
        raise ValueError("there are no images: nothing was given")
    if suspect and lowest >= 0 and not bright:  # one photograph may have no dark pixel, all of them together hardly
        raise ValueError(f"images must fill [−1, 1], but none has a pixel below {lowest:.3g}: use 2 * x − 1")
