"""The classification accuracy score: what a classifier learns from samples alone, tested on real images. Chapter 12.

It asks whether samples can replace the data for somebody's purpose. Missing modes, wrong labels and artefacts all
lower it, and a distance between features sees none of the labels.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion_book._checks import at_least
from diffusion_book.data import Images
from diffusion_book.data.images import check_images
from diffusion_book.nn import Classifier, ClassifierConfig


@dataclass(frozen=True)
class Scores:
    """One number for each seed, their mean, and their standard deviation (of one number, not of the mean)."""

    mean: float
    sd: float
    each: tuple[float, ...]

    @staticmethod
    def of(each: Sequence[float]) -> "Scores":
        """Mean and standard deviation of these.

        Raises:
            ValueError: there is none; with only one the standard deviation is NaN.
        """
        if not each:
            raise ValueError("there is no number to take the mean of")
        sd = statistics.stdev(each) if len(each) > 1 else float("nan")
        return Scores(statistics.fmean(each), sd, tuple(each))


def classification_accuracy_score(
    samples: Tensor,
    labels: Tensor,
    test: Images,
    seeds: Sequence[int] = (0, 1, 2),
    steps: int = 600,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    config: ClassifierConfig | None = None,
) -> Scores:
    """Train a fresh classifier on samples and their labels, for each seed → its accuracies on real test images.

    Give it as many real training images, with their labels, for the ceiling.

    Args:
        samples: [N, C, H, W] in [−1, 1]. labels: [N] int64, the classes that were asked for.
        test: real images with labels.
        steps, batch_size, learning_rate: of the training, AdamW with a cosine fall of the rate. A batch has two samples
            or more, whose mean and variance the classifier's normalisation takes.
        config: of the classifier; by default a small one for these images and labels.

    Raises:
        ValueError: a label for each sample is missing, or the test images have none.

    Source: Ravuri and Vinyals 2019.
    """
    at_least(2, batch_size=batch_size)
    check_images(samples, bright=bool(test.x.min() >= 0))  # as the images of the test are, so samples may be
    check_labels(labels, len(samples))
    check_labelled(test)
    if config is None:
        classes = int(torch.cat([labels, test.conditions["y"]]).max()) + 1
        config = ClassifierConfig(samples.shape[1], channels=16, features=64, classes=classes)
    options = (config, steps, batch_size, learning_rate)
    return Scores.of([accuracy(_train(samples, labels, seed, *options), test) for seed in seeds])


def check_labels(labels: Tensor, count: int | None = None) -> None:
    """Raise a ValueError unless there is one int64 label for each of `count` samples, or of any number of them."""
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels must be an int64 tensor [N], got {type(labels).__name__}; use torch.tensor(labels)")
    if labels.dtype != torch.int64 or labels.ndim != 1 or count not in (None, len(labels)):
        each = "each sample" if count is None else f"each of the {count} samples"
        raise ValueError(f"one int64 label for {each} is needed, got {labels.dtype} of shape {tuple(labels.shape)}")


def check_labelled(images: Images, advice: str = "take images that have some") -> None:
    """Raise a ValueError unless these images have labels."""
    if "y" not in images.conditions:
        raise ValueError(f"{images.name} has no labels, so no accuracy can be had on it; {advice}")


def accuracy(classifier: nn.Module, images: Images, batch_size: int = 500) -> float:
    """The share of images that a classifier gives the label they have.

    Raises:
        ValueError: the images have no labels.
    """
    return float(named_rightly(classifier, images, batch_size).double().mean())


@torch.no_grad()
def named_rightly(classifier: nn.Module, images: Images, batch_size: int = 500) -> Tensor:
    """Whether a classifier gives an image the label it has, [N] bool.

    Raises:
        ValueError: the images have no labels.
    """
    check_labelled(images)
    device = next(classifier.parameters()).device
    said = [classifier(x.to(device)).argmax(1).cpu() for x in images.x.split(batch_size)]
    return torch.cat(said) == images.conditions["y"]


def _train(
    x: Tensor, y: Tensor, seed: int, config: ClassifierConfig, steps: int, batch_size: int, learning_rate: float
) -> Classifier:
    with torch.random.fork_rng():  # layers draw their first weights from the global source
        torch.manual_seed(seed)
        network = Classifier(config).to(x.device)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        index = torch.randint(len(x), (batch_size,), generator=generator).to(x.device)
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x[index]), y.to(x.device)[index]).backward()
        optimiser.step()
        schedule.step()
    return network.eval()
