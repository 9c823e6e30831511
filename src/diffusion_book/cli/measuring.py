"""What `diffusion-book evaluate` measures, and how it says it. Chapter 12."""

import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusion_book import data, evaluation, zoo
from diffusion_book.cli import cards, drawing, models, pictures
from diffusion_book.evaluation import Extractor, Moments
from diffusion_book.training import checkpoint


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn: `count` for each of `seeds`; see `drawing.draw`."""

    sampler: str
    steps: int
    guidance: float
    count: int
    seeds: int
    bad: zoo.Pretrained | None = None
    batch_size: int = 250


def measure(model: zoo.Pretrained, how: Sampling, extractor: str) -> tuple[dict[str, Any], Tensor]:
    """Everything for samples and, as the floor, for as many held-out real images → the report, and some samples.

    Labels are drawn from those of the training images, so that classes are as frequent as there.

    Raises:
        ValueError: the data has no held-out images; there are fewer of them than samples are asked for; or the
            extractor does not fit the images.
    """
    start = time.perf_counter()
    train, held_out = _data(model, how.count)
    compared = _extractor(extractor, model)
    seen = sys.stderr.isatty()
    features = evaluation.extract(compared, train.x, progress=seen)
    reference = Moments.of(features, compared, train.name)
    rest = evaluation.extract(compared, held_out.x, progress=seen)
    ours: list[dict[str, float]] = []
    real: list[dict[str, float]] = []
    shown, copies = torch.empty(0), {}
    for seed in range(how.seeds):
        generator = torch.Generator().manual_seed(seed)
        nearby = features[torch.randperm(len(features), generator=generator)[: how.count]]
        x = _draw(model, how, train, seed, generator)
        sampled = evaluation.extract(compared, x)
        floor = rest[torch.randperm(len(rest), generator=generator)[: how.count]]
        ours.append(_scores(sampled, reference, nearby, compared, generator))
        real.append(_scores(floor, reference, nearby, compared, generator))
        if seed == 0:
            shown = x[:100]
            copies = evaluation.memorisation(sampled, floor, features)._asdict()
    report = {
        "sampling": {
            "sampler": how.sampler,
            "steps": how.steps,
            "guidance": how.guidance,
            "autoguidance": how.bad is not None,
            "N": how.count,
            "seeds": how.seeds,
        },
        "reference": {"name": train.name, "N": len(train)},
        "held_out": {"name": held_out.name, "N": len(held_out)},
        "extractor": {"identity": compared.identity, "D": compared.dim, "accuracy": compared.accuracy},
        "names": {"frechet": _name(compared, train.name), "kernel": _name(compared, train.name).replace("FCD", "KCD")},
        "samples": _summary(ours),
        "floor": _summary(real),
        "memorisation": copies,
        "weights": model.card.get("sha256") or {"step": model.card.get("step")},
        "hardware": cards.hardware(next(model.network.parameters()).device),
        "versions": cards.versions(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    return report, shown


def markdown(report: dict[str, Any]) -> str:
    """The report as a table, with all that its numbers depend on."""
    how, names, extractor = report["sampling"], report["names"], report["extractor"]
    guided = f", guidance {how['guidance']:g}" if how["guidance"] != 1 else ""
    lines = [
        f"## {report['model']}",
        "",
        f"{how['N']:,} samples by {how['sampler']} in {how['steps']} steps{guided}, {how['seeds']} seeds; "
        f"compared with {report['reference']['N']:,} images of {report['reference']['name']}.",
        f"The floor is as many images of {report['held_out']['name']} in the place of the samples.",
        "",
        "| | samples | floor (real images) |",
        "|---|---|---|",
    ]
    for key, ours in report["samples"].items():
        lines.append(f"| {names.get(key, key)} | {_said(ours)} | {_said(report['floor'][key])} |")
    copies = report["memorisation"]
    accuracy = extractor["accuracy"]
    lines += [
        "",
        f"Nearer to a training image than a held-out one is: {copies['nearer']:.1%} of samples (50 % is right); "
        f"copies: {copies['copies']:.2%}.",
        "",
        f"Features: {extractor['identity']}, D = {extractor['D']}"
        + (f", accuracy {accuracy:.2%}." if accuracy is not None else "."),
    ]
    return "\n".join(lines)


def write(report: dict[str, Any], shown: Tensor, out: Path) -> None:
    """JSON for machines, Markdown for people, and a picture of the first samples, none of them picked."""
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_whole(out, report)
    out.with_suffix(".md").write_text(markdown(report) + "\n", encoding="utf-8")
    pictures.write(shown, out.with_suffix(".png"), columns=10, seeds=range(len(shown)))


def into_card(report: dict[str, Any], weights: Path) -> None:
    """Put what was measured into the card beside the weights, under the names that the numbers have."""
    card = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    metrics: dict[str, Any] = {"training_loss": card.get("metrics", {}).get("training_loss")}
    for key, ours in report["samples"].items():
        metrics[report["names"].get(key, key)] = {**ours, "floor": report["floor"][key]}
    metrics["nearer than held-out"] = report["memorisation"]["nearer"]
    metrics["measured by"] = {
        **report["sampling"],
        "reference": report["reference"]["name"],
        "held out": report["held_out"]["name"],
        "extractor": report["extractor"]["identity"],
    }
    card["metrics"] = {name: value for name, value in metrics.items() if value is not None}
    cards.write_card(weights, card)


def _data(model: zoo.Pretrained, count: int) -> tuple[data.Images, data.Images]:
    name = model.card.get("recipe", {}).get("data")
    if name not in data.DATASETS:
        raise ValueError(
            f"the model was trained on {name or 'data that its file does not name'}, of which there are no held-out "
            f"images and so no floor to compare with; evaluate one of {', '.join(data.DATASETS)}"
        )
    train, held_out = data.load(name), data.load(name, "test")
    if count > len(held_out):
        raise ValueError(
            f"the floor needs as many real images as there are samples, and {held_out.name} has {len(held_out)}; "
            f"take --count {len(held_out)} or less"
        )
    return train, held_out


def _extractor(name: str, model: zoo.Pretrained) -> Extractor:
    shape = models.image_shape(model)
    if name == "pixels":
        return evaluation.pixels(shape)
    device = next(model.network.parameters()).device
    found = models.find(name, device)
    network: Any = found.network
    if found.schedule is not None:
        raise ValueError(f"{name!r} is no classifier, whose features could be compared; give one, or pixels")
    if network.config.image_channels != shape[0]:
        raise ValueError(
            f"{name!r} looks at images of {network.config.image_channels} channels, the model draws {shape[0]}; "
            "train a classifier on the same data (--set network={kind='classifier'}), or give --extractor pixels"
        )
    return evaluation.from_classifier(network, name, found.card.get("metrics", {}).get("accuracy"))


def _draw(model: zoo.Pretrained, how: Sampling, train: data.Images, seed: int, generator: torch.Generator) -> Tensor:
    y = None
    if models.classes_of(model) and train.y is not None:
        y = train.y[torch.randint(len(train), (how.count,), generator=generator)]
    numbers = range(seed * how.count, (seed + 1) * how.count)
    return drawing.draw(
        model, numbers, y, how.sampler, how.steps, how.guidance, how.bad, batch_size=how.batch_size, progress=True
    )


def _scores(
    features: Tensor, reference: Moments, real: Tensor, extractor: Extractor, generator: torch.Generator
) -> dict[str, float]:
    return {
        "frechet": evaluation.frechet_distance(Moments.of(features, extractor, "the images"), reference),
        "kernel": evaluation.kid(features, real, generator).value,
        **evaluation.precision_recall(features, real)._asdict(),
        **evaluation.density_coverage(features, real)._asdict(),
    }


def _summary(each: list[dict[str, float]]) -> dict[str, dict[str, Any]]:
    return {key: dict(_statistics([scores[key] for scores in each])) for key in each[0]}


def _statistics(values: list[float]) -> Iterator[tuple[str, Any]]:
    yield "mean", statistics.fmean(values)
    yield "sd", statistics.stdev(values) if len(values) > 1 else None
    yield "each", values


def _said(values: dict[str, Any]) -> str:
    spread = f" ± {values['sd']:.2g}" if values["sd"] is not None else ""
    return f"{values['mean']:.4g}{spread}"


def _name(extractor: Extractor, reference: str) -> str:
    """FCD-MNIST and its like: of a classifier's features, and never FID."""
    return f"FCD-{reference.partition('/')[0].upper()}" if extractor.kind == "classifier" else f"FCD ({extractor.name})"
