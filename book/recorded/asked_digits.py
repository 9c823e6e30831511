"""Digits drawn of each class in turn, and how well they are what was asked for: for the records of chapter 8."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from diffusion_book import data, evaluation, models, samplers
from diffusion_book.denoise import Denoiser
from diffusion_book.evaluation.features import extract
from diffusion_book.evaluation.of_model import extractor_of
from diffusion_book.training.precision import Precision, autocast

MODEL, CLASSIFIER = "mnist-unet", "mnist-classifier"
AT_ONCE = 100
ENOUGH = 200  # digits for distances between features, of which there are 128


def table(
    rows: dict[str, Callable[[Tensor], Denoiser]], count: int, steps: int, precision: Precision, seed: int
) -> dict[str, Any]:
    """What `measured` says of digits by each of the denoisers, which are made of the classes that are asked for."""
    found: dict[str, Any] = {"pictures": {}, "N": count, "steps": steps}
    for name, denoiser_of in rows.items():
        row = measured(draw(denoiser_of, count, steps, precision, seed))
        found["pictures"][name] = row.pop("picture")
        found[f"mean pixel, {name}"] = row.pop("mean pixel")
        found[name] = row
    return found | {"real digits": of_real(count)} if count >= ENOUGH else found


def draw(denoiser_of: Callable[[Tensor], Denoiser], count: int, steps: int, precision: Precision, seed: int) -> Tensor:
    """[count, 1, 28, 28], picture i of class i mod 10 and from the seed `seed` + i, by DDIM on even times."""
    schedule, drawn = models.load(MODEL).schedule, []
    times = samplers.uniform_times(schedule, steps)
    for y, seeds in zip(asked(count).split(AT_ONCE), torch.arange(seed, seed + count).split(AT_ONCE)):
        x_T = samplers.start_noise((len(y), 1, 28, 28), samplers.seeded(seeds.tolist()), schedule=schedule)
        with torch.no_grad(), autocast(precision, x_T.device):
            drawn.append(samplers.ddim(denoiser_of(y), schedule, x_T, times))
    return torch.cat(drawn).clamp(-1, 1)


def asked(count: int) -> Tensor:
    return torch.arange(count) % 10


@torch.no_grad()
def measured(x: Tensor) -> dict[str, Any]:
    """The share that a classifier takes for what was asked, how varied the digits are, and how far from real ones."""
    y, features = asked(len(x)), extract(extractor_of(CLASSIFIER, (1, 28, 28)), x)
    said = models.load_classifier(CLASSIFIER).network(x).argmax(1)
    found = {
        "as asked": float((said == y).double().mean()),
        "spread": within_classes(features, y) / within_classes(*real_digits()),
        "mean pixel": float(x.mean()),
        "picture": x[:20].reshape(2, 10, 28, 28).permute(0, 2, 1, 3).reshape(1, 56, 280),
    }
    return found | distances(features) if len(x) >= ENOUGH else found


def within_classes(features: Tensor, y: Tensor) -> float:
    """The median distance of features from the mean of their class, averaged over classes."""
    classes = [features[y == k] for k in range(10)]
    return sum(float((some - some.mean(0)).norm(dim=1).median()) for some in classes) / 10


def distances(features: Tensor) -> dict[str, float]:
    """Precision and recall beside as many real digits; the Fréchet distance to real ones that nothing else uses."""
    extractor, N, real = extractor_of(CLASSIFIER, (1, 28, 28)), len(features), real_digits()[0]
    near = evaluation.precision_recall(features, real[:N])
    ours, theirs = (evaluation.Moments.of(some, extractor) for some in (features, real[2 * N :]))
    return {**near._asdict(), "FCD-MNIST": evaluation.frechet_distance(ours, theirs)}


def of_real(N: int) -> dict[str, float]:
    """The same of N real digits: what a perfect model would be given."""
    return {"spread": 1.0, **distances(real_digits()[0][N : 2 * N])}


@cache
def real_digits() -> tuple[Tensor, Tensor]:
    """Features and classes of `mnist-5k`, shuffled within each class, and the classes in turn, as they are drawn."""
    digits = data.load("mnist-5k")
    shuffled = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    y = digits.conditions["y"][shuffled]
    order = torch.stack([shuffled[y == k] for k in range(10)], dim=1).flatten()  # it has as many of each
    features = extract(extractor_of(CLASSIFIER, digits.shape), digits.x)
    return features[order], digits.conditions["y"][order]
