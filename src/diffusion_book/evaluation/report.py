"""One report that holds everything a number needs to be believed. Chapter 12.

Every measure stands beside what real images get in the same way, with the same number of them; beside yardsticks that
anybody can picture; and beside the nearest training images, since copies win every comparison of sets.
`viz.show_report` draws it.
"""

import dataclasses
import json
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_book._files import write_whole
from diffusion_book.data import Images, images_sha256
from diffusion_book.data.images import from_uint8, to_uint8
from diffusion_book.evaluation.accuracy import Scores, check_labels, classification_accuracy_score
from diffusion_book.evaluation.features import Extractor, extract
from diffusion_book.evaluation.frechet import Moments, frechet_distance
from diffusion_book.evaluation.kid import kid
from diffusion_book.evaluation.manifold import density_coverage, precision_recall
from diffusion_book.evaluation.naming import called, kernel_called
from diffusion_book.evaluation.neighbours import QUANTILES, Memorisation, memorisation, nearest
from diffusion_book.evaluation.reference import reference_features


@dataclass(frozen=True)
class Origin:
    """How samples were made; whoever draws them knows, and the report cannot.

    Attributes:
        model: its name and hash, or what else finds it again.
        sampler: and its options. nfe: evaluations of the network for one sample, both of guidance counted.
        guidance: w, 1 for none. seed: of the noise.
        notes: precision, hardware, date: what else should be said.
    """

    model: str
    sampler: str
    nfe: int
    guidance: float
    seed: int
    notes: str = ""


@dataclass(frozen=True)
class Measure:
    """A number, and the same for real images.

    Attributes:
        name: what it may be called. value: of the samples.
        real: of real images in the place of samples, for each seed.
        n: how many samples it is of. n_reference: against how many real images.
        n_real_reference: against how many the real images were measured; fewer where there are no more.
        interval: of value, 95 %, where one can be had.
        lower_is_better: for distances; shares are the other way.
    """

    name: str
    value: float
    real: Scores
    n: int
    n_reference: int
    n_real_reference: int
    interval: tuple[float, float] | None = None
    lower_is_better: bool = False


@dataclass(frozen=True)
class Yardstick:
    """The Fréchet distance that held-out images get with Gaussian noise of this standard deviation.

    Attributes:
        noise: on the scale of [−1, 1]; the noisy images are cut to that range, as samples are. 0 for none.
        value: measured against the same reference as the samples. n: how many images.
    """

    noise: float
    value: float
    n: int


@dataclass(frozen=True)
class Pictures:
    """Some samples [M, C, H, W], and the nearest training image of each, by pixels and by features."""

    samples: Tensor
    by_pixels: Tensor
    by_features: Tensor


@dataclass(frozen=True)
class Report:
    """What `evaluate` found; see there.

    Attributes:
        name: of the first measure, the Fréchet distance.
        origin: of the samples. n: how many.
        measures: the first is the Fréchet distance.
        yardsticks: the same distance of images that anybody can picture.
        memorisation: by "features" and by "pixels". memorisation_n: how many samples each is of.
        accuracy_score: of classifiers that were trained on "samples" and on as many "real" images; None without labels.
        extractor, reference, held_out: what identifies them.
        seeds: of the real-against-real splits, and of the classifiers. versions: of the software.
    """

    name: str
    n: int
    origin: Origin
    measures: tuple[Measure, ...]
    yardsticks: tuple[Yardstick, ...]
    memorisation: dict[str, Memorisation]
    memorisation_n: dict[str, int]
    accuracy_score: dict[str, Scores] | None
    extractor: dict[str, Any]
    reference: dict[str, Any]
    held_out: dict[str, Any]
    seeds: tuple[int, ...]
    versions: dict[str, str]
    pictures: Pictures = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """All but the pictures, as names, numbers and lists."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "pictures"}
        plain: dict[str, Any] = _plain(values)
        return plain

    def to_json(self, path: Path | str | None = None) -> str:
        """`to_dict` as JSON; written to a file where a path is given."""
        return _written(json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n", path)

    def to_markdown(self, path: Path | str | None = None) -> str:
        """For people; written to a file where a path is given."""
        return _written(_markdown(self), path)


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
        folder: where the reference's features are kept, see `reference_features`.

    Raises:
        ValueError: fewer than three seeds; too few images; labels, but not of the real images, or not as many as there
            are samples; images of another range or shape.
    """
    if len(set(seeds)) < 3:
        raise ValueError(f"a real-against-real value needs at least three different seeds, got {tuple(seeds)}")
    if labels is not None:
        if train.y is None:
            raise ValueError(f"{train.name} has no labels, so the accuracy score has no ceiling; leave labels out")
        if test.y is None:
            raise ValueError(f"{test.name} has no labels, so no accuracy can be had on it; leave labels out")
        check_labels(labels, len(samples) if isinstance(samples, Tensor) else None)
    first: list[Tensor] = []
    few = max(kept, shown)
    ours = extract(extractor, _remember(samples, first, few if labels is None else sys.maxsize), progress=progress)
    if labels is not None:  # of batches the number is known by now
        check_labels(labels, len(ours))
    early = from_uint8(torch.cat(first)[:few])  # as in a file, where the training images are: a copy is at zero
    learnt = reference_features(extractor, train, folder, progress)
    unseen = extract(extractor, test.x, progress=progress)
    measures = _measures(ours, learnt, unseen, extractor, train.name, seeds, pairs)
    by_features = nearest(ours[:shown], learnt).which[:, 0]
    by_pixels = nearest(early[:shown], train.x).which[:, 0]
    some = {"features": min(pairs, len(ours)), "pixels": min(kept, len(early))}
    copied = {
        "features": memorisation(ours[: some["features"]], unseen[_shuffled(unseen, pairs)], learnt),
        "pixels": memorisation(early[: some["pixels"]], test.x[_shuffled(test.x, kept)], train.x),
    }
    scores = None
    if labels is not None and train.y is not None:
        real = _shuffled(train.x, len(ours))
        drawn = from_uint8(torch.cat(first))
        scores = {
            "samples": classification_accuracy_score(drawn, labels, test, seeds, accuracy_steps),
            "real": classification_accuracy_score(train.x[real], train.y[real], test, seeds, accuracy_steps),
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
        pictures=Pictures(early[:shown], train.x[by_pixels], train.x[by_features]),
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
        frechet_distance(Moments.of(extract(extractor, (x + sigma * eps).clamp(-1, 1)), extractor), reference)
        for sigma in noise
    ]
    return tuple(Yardstick(sigma, distance, len(x)) for sigma, distance in zip(noise, distances))


def _identity(images: Images) -> dict[str, Any]:
    return {"name": images.name, "n": len(images), "sha256": images_sha256(images.x)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _written(text: str, path: Path | str | None) -> str:
    if path is not None:
        write_whole(Path(path), text.encode())
    return text


# Markdown -------------------------------------------------------------------------------------------------------


def _markdown(report: Report) -> str:
    o = report.origin
    made = f"by {o.sampler}, {o.nfe} evaluations each, guidance {o.guidance:g}, seed {o.seed}"
    lines = [
        f"# {report.name} of {o.model}",
        "",
        f"{report.n:,} samples {made}. {o.notes}".strip(),
        "",
        f"| | samples | real against real, mean ± sd of {len(report.seeds)} | N | reference |",
        "|---|---|---|---|---|",
        *map(_measure_row, report.measures),
        "",
        f"| {report.name} of held-out images | | N |",
        "|---|---|---|",
        *map(_yardstick_row, report.yardsticks),
        f"| for comparison: three times real against real | {3 * report.measures[0].real.mean:.4g} | {report.n:,} |",
        "",
        "| distance to the nearest training image | " + " | ".join(f"{q:.0%}" for q in QUANTILES) + " |",
        "|---" * (len(QUANTILES) + 1) + "|",
    ]
    for kind, found in report.memorisation.items():
        lines += [_row(f"samples, by {kind}", found.samples), _row(f"held out, by {kind}", found.held_out)]
    lines += ["", *_sentences(report)]
    return "\n".join(lines) + "\n"


def _measure_row(m: Measure) -> str:
    interval = f" [{m.interval[0]:.3g}, {m.interval[1]:.3g}]" if m.interval else ""
    name = f"{m.name} {'↓' if m.lower_is_better else '↑'}"
    real = f"{m.real.mean:.4g} ± {m.real.sd:.2g}"
    return f"| {name} | {m.value:.4g}{interval} | {real} | {m.n:,} | {m.n_reference:,} |"


def _yardstick_row(y: Yardstick) -> str:
    what = f"with noise of {y.noise:g}, cut to [−1, 1]" if y.noise else "as they are"
    return f"| {what} | {y.value:.4g} | {y.n:,} |"


def _row(name: str, values: Sequence[float]) -> str:
    return f"| {name} | " + " | ".join(f"{value:.3g}" for value in values) + " |"


def _sentences(report: Report) -> Iterator[str]:
    """What is no table: one paragraph each."""
    for kind, found in report.memorisation.items():
        yield (
            f"By {kind}, {found.copies:.2%} of {report.memorisation_n[kind]:,} samples are copies, "
            f"{found.suspicious:.2%} are nearer to the training set than all but 1 % of held-out images, and a sample "
            f"is nearer than a held-out image with probability {found.nearer:.3f}.\n"
        )
    if report.accuracy_score:
        ours, real = (report.accuracy_score[key] for key in ("samples", "real"))
        yield (
            f"Classification accuracy score: {ours.mean:.2%} ± {ours.sd:.2%}; trained on as many real images "
            f"{real.mean:.2%} ± {real.sd:.2%}.\n"
        )
    distance = report.measures[0]
    if distance.n_real_reference < distance.n_reference:
        yield (
            f"{distance.name} of real against real is against {distance.n_real_reference:,} images only, all that are "
            "left, and so a little too large.\n"
        )
    e = report.extractor
    accuracy = "" if e["accuracy"] is None else f", {e['accuracy']:.2%} right on held-out images"
    yield f"Features: {e['name']}, {e['dim']} of them{accuracy}; images {e['preprocessing']}; SHA-256 {e['sha256']}.\n"
    for what, images in (("Reference", report.reference), ("Held out", report.held_out)):
        yield f"{what}: {images['name']}, {images['n']:,} images, SHA-256 {images['sha256']}.\n"
    software = ", ".join(f"{name} {number}" for name, number in report.versions.items())
    yield f"Seeds {', '.join(map(str, report.seeds))}; {software}."
