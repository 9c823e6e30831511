"""Every measure of samples, each beside what real images get in the same way. Chapter 12."""

import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_book.data import Images, images_sha256
from diffusion_book.data.images import from_uint8, to_uint8
from diffusion_book.evaluation.accuracy import Scores, check_labelled, check_labels, classification_accuracy_score
from diffusion_book.evaluation.features import Extractor, extract
from diffusion_book.evaluation.frechet import Moments, check_room, frechet_distance
from diffusion_book.evaluation.kid import kid
from diffusion_book.evaluation.manifold import density_coverage, precision_recall
from diffusion_book.evaluation.naming import called, kernel_called
from diffusion_book.evaluation.neighbours import memorisation, nearest
from diffusion_book.evaluation.reference import reference_features
from diffusion_book.evaluation.report import Measure, Origin, Pictures, Report, Yardstick


def evaluate(
    samples: Tensor | Iterable[Tensor],
    train: Images,
    test: Images,
    extractor: Extractor,
    origin: Origin,
    labels: Tensor | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    noise: Sequence[float] = (0.0, 0.05, 0.1),
    pairs: int = 10_000,
    kept: int = 1000,
    shown: int = 10,
    accuracy_steps: int = 600,
    mirrored: bool = False,
    folder: Path | str | None = None,
    progress: bool = False,
) -> Report:
    """Measure samples in every way of this room, and real images in the same way.

    The real-against-real value of a measure is that of N images drawn at random from training and held-out images
    together, against as many others as the reference has, or what is left; once for each seed. So it is free of what
    the extractor has learnt by heart; the first yardstick, held-out images as they are, is not.

    Args:
        samples: [N, C, H, W] in [−1, 1]; or batches of them, of which only features are kept, and the first `kept`
            images as bytes; with labels all images.
        train: the reference, what the model was trained on. test: held-out real images.
        labels: [N] what was asked for, for the classification accuracy score, which sees images as a file holds them.
        seeds: at least three.
        noise: standard deviations of the yardsticks.
        pairs: kernel distance, precision to coverage and neighbours in features compare at most so many of each set.
        kept: neighbours in pixels are looked for of so many samples. shown: so many are kept for the picture.
        accuracy_steps: of training each classifier of the accuracy score.
        mirrored: look for copies among mirrored training images, too, as whoever trained on them must.
        folder: where the reference's features are kept, see `reference_features`.

    Raises:
        ValueError: fewer than three seeds; too few images; labels, but not of the real images, or not as many as there
            are samples; images of another range or shape; or so many features that their covariances have no room.
    """
    if len(set(seeds)) < 3:
        raise ValueError(f"a real-against-real value needs at least three different seeds, got {tuple(seeds)}")
    if labels is not None:
        check_labelled(train, "leave labels out")  # of which the ceiling is
        check_labelled(test, "leave labels out")
        check_labels(labels, len(samples) if isinstance(samples, Tensor) else None)
    check_room(extractor.dim)
    first: list[Tensor] = []
    few = max(kept, shown)
    bright = float(train.x.min()) >= 0  # where the data have no dark pixel, samples need none
    remembered = _remember(samples, first, few if labels is None else sys.maxsize)
    ours = extract(extractor, remembered, progress=progress, bright=bright)
    if labels is not None:  # of batches the number is known by now
        check_labels(labels, len(ours))
    early = from_uint8(torch.cat(first)[:few])  # as in a file, where the training images are: a copy is at zero
    learnt = reference_features(extractor, train, folder, progress)
    unseen = extract(extractor, test.x, progress=progress, bright=True)
    measures = _measures(ours, learnt, unseen, extractor, train.name, seeds, pairs)
    known, known_features = train.x, learnt
    if mirrored:
        known = torch.cat([known, known.flip(3)])
        known_features = torch.cat([learnt, extract(extractor, train.x.flip(3), progress=progress, bright=True)])
    by_features = nearest(ours[:shown], known_features).which[:, 0]
    by_pixels = nearest(early[:shown], known).which[:, 0]
    some = {"features": min(pairs, len(ours)), "pixels": min(kept, len(early))}
    copied = {
        "features": memorisation(ours[: some["features"]], unseen[_shuffled(unseen, pairs)], known_features),
        "pixels": memorisation(early[: some["pixels"]], test.x[_shuffled(test.x, kept)], known),
    }
    scores = None
    if labels is not None:
        real = _shuffled(train.x, len(ours))
        drawn = from_uint8(torch.cat(first))
        scores = {
            "samples": classification_accuracy_score(drawn, labels, test, seeds, accuracy_steps),
            "real": classification_accuracy_score(
                train.x[real], train.conditions["y"][real], test, seeds, accuracy_steps
            ),
        }
    return Report(
        name=measures[0].name,
        n=len(ours),
        origin=origin,
        measures=measures,
        yardsticks=_yardsticks(extractor, learnt, test.x[_shuffled(test.x, len(ours))], noise),
        memorisation=copied,
        memorisation_n=some,
        accuracy_score=scores,
        extractor={
            "name": extractor.name,
            "kind": extractor.kind,
            "sha256": extractor.sha256,
            "dim": extractor.dim,
            "accuracy": extractor.accuracy,
            "preprocessing": extractor.preprocessing,
        },
        reference=_identity(train),
        held_out=_identity(test),
        seeds=tuple(seeds),
        versions={
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusion_book": version("diffusion-book"),
        },
        pictures=Pictures(early[:shown], known[by_pixels], known[by_features]),
    )


def _remember(samples: Tensor | Iterable[Tensor], first: list[Tensor], count: int) -> Iterator[Tensor]:
    """The batches as they come; the first images of them are left in a list, as bytes."""
    for batch in [samples] if isinstance(samples, Tensor) else samples:
        yield batch
        missing = count - sum(map(len, first))
        if missing > 0:
            first.append(to_uint8(batch[:missing].detach()).cpu())


def _shuffled(x: Tensor, count: int) -> Tensor:
    """Indices of at most so many, always the same: data sets are sorted by class."""
    return torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:count]


def _measures(
    ours: Tensor, learnt: Tensor, unseen: Tensor, extractor: Extractor, data: str, seeds: Sequence[int], pairs: int
) -> tuple[Measure, ...]:
    N, M = len(ours), len(learnt)
    pool = torch.cat([learnt, unseen])
    left = min(M, len(pool) - N)
    if left < 2:
        raise ValueError(
            f"{N:,} samples leave none of the {len(pool):,} real images to compare {N:,} real ones with: a "
            "real-against-real value at this N cannot be had; measure fewer samples, or take a larger data set"
        )
    few = min(N, M, left, pairs)

    def against(a: Tensor, b: Tensor) -> dict[str, tuple[float, tuple[float, float] | None]]:
        """All measures of a beside b; those of pairs are of the first `few` of both, shuffled as they come."""
        kernel = kid(a[:few], b[:few], torch.Generator().manual_seed(0))
        near, thick = precision_recall(a[:few], b[:few]), density_coverage(a[:few], b[:few])
        distance = frechet_distance(Moments.of(a, extractor, "samples"), Moments.of(b, extractor, data))
        return {
            called(extractor, data, N, M): (distance, None),
            kernel_called(extractor, data): (kernel.value, (kernel.low, kernel.high)),
            "precision (k = 3)": (near.precision, None),
            "recall (k = 3)": (near.recall, None),
            "density (k = 5)": (thick.density, None),
            "coverage (k = 5)": (thick.coverage, None),
        }

    found = against(ours[_shuffled(ours, N)], learnt[_shuffled(learnt, M)])
    floors = []
    for seed in seeds:
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
        floors.append(against(pool[order[:N]], pool[order[N : N + left]]))
    return tuple(
        Measure(
            name=name,
            value=value,
            real=Scores.of([floor[name][0] for floor in floors]),
            n=N if i == 0 else few,
            n_reference=M if i == 0 else few,
            n_real_reference=left if i == 0 else few,
            interval=interval,
            lower_is_better=i < 2,
        )
        for i, (name, (value, interval)) in enumerate(found.items())
    )


def _yardsticks(extractor: Extractor, learnt: Tensor, x: Tensor, noise: Sequence[float]) -> tuple[Yardstick, ...]:
    reference = Moments.of(learnt, extractor)
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    distances = [
        frechet_distance(Moments.of(extract(extractor, noisy, bright=True), extractor), reference)
        for noisy in ((x + sigma * eps).clamp(-1, 1) for sigma in noise)
    ]
    return tuple(Yardstick(sigma, distance, len(x)) for sigma, distance in zip(noise, distances))


def _identity(images: Images) -> dict[str, Any]:
    return {"name": images.name, "n": len(images), "sha256": images_sha256(images.x)}
