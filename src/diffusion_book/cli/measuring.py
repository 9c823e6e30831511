"""What `diffusion-book evaluate` measures: `evaluation.evaluate` for each seed, and what the seeds say together."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from diffusion_book import data, evaluation, zoo
from diffusion_book.cli import cards, drawing, models, reading
from diffusion_book.evaluation import Extractor, Origin, Report
from diffusion_book.evaluation.accuracy import Scores
from diffusion_book.training import checkpoint
from diffusion_book.training.loop import Precision, fast_bf16


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn, `count` for each of `seeds`; see `drawing.draw`; whether classifiers learn of them."""

    sampler: str
    steps: int
    guided: drawing.Guidance
    count: int
    seeds: int
    precision: Precision = "auto"
    batch_size: int = 250
    accuracy: bool = True


def measure(model: zoo.Pretrained, how: Sampling, extractor: str, name: str) -> list[Report]:
    """One report for each seed. Labels are drawn from those of the training images, so that classes are as frequent.

    Raises:
        ValueError: the data has no held-out images; or the extractor does not fit the images.
    """
    train, held_out = _data(model)
    compared = _extractor(extractor, model)
    reports = []
    for seed in range(how.seeds):
        y = _labels(model, train, how.count, seed)
        numbers = range(seed * how.count, (seed + 1) * how.count)
        options: Any = {"batch_size": how.batch_size, "precision": how.precision, "progress": True}
        with _counting(model, how.guided.bad) as rows:
            x = drawing.draw(model, numbers, y, how.sampler, how.steps, how.guided, **options)
        origin = Origin(name, how.sampler, round(sum(rows) / how.count), how.guided.w, seed, _notes(model, how))
        # Classifiers are trained for the accuracy score, which takes minutes: once is enough.
        labels = y if how.accuracy and seed == 0 else None
        seen = sys.stderr.isatty()
        reports.append(evaluation.evaluate(x, train, held_out, compared, origin, labels, progress=seen))
    return reports


SHARES = ("nearer", "suspicious", "copies")
"""Of `evaluation.Memorisation`: what goes into a card."""


def together(reports: list[Report]) -> dict[str, Any]:
    """Each measure's mean and standard deviation over the seeds, beside that of real images; and what it is of."""
    first = reports[0]
    found: dict[str, Any] = {}
    for i, measure in enumerate(first.measures):
        scores = Scores.of([report.measures[i].value for report in reports])
        found[measure.name] = {**_summary(scores), "N": measure.n, "real against real": _summary(measure.real)}
    found["held-out images with noise"] = {f"{y.noise:g}": y.value for y in first.yardsticks}
    found["memorisation"] = {
        kind: {**{share: getattr(memory, share) for share in SHARES}, "N": first.memorisation_n[kind]}
        for kind, memory in first.memorisation.items()
    }
    if first.accuracy_score:
        found["classification accuracy score"] = {k: _summary(v) for k, v in first.accuracy_score.items()}
    origin = first.origin
    found["measured by"] = {
        "sampler": origin.sampler,
        "evaluations": origin.nfe,
        "guidance": origin.guidance,
        "notes": origin.notes,
        "seeds": len(reports),
        "reference": first.reference["name"],
        "held out": first.held_out["name"],
        "extractor": f"{first.extractor['name']}, SHA-256 {first.extractor['sha256']}",
    }
    return found


def markdown(reports: list[Report]) -> str:
    """The first seed's report, and the others' numbers below it."""
    lines = [reports[0].to_markdown()]
    if len(reports) > 1:
        lines += [f"| over {len(reports)} seeds | mean ± sd |", "|---|---|"]
        for i, measure in enumerate(reports[0].measures):
            scores = Scores.of([report.measures[i].value for report in reports])
            lines.append(f"| {measure.name} | {scores.mean:.4g} ± {scores.sd:.2g} |")
    return "\n".join(lines)


def write(reports: list[Report], out: Path) -> None:
    """JSON for machines, Markdown for people, and a picture."""
    from diffusion_book import viz

    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"summary": together(reports), "reports": [report.to_dict() for report in reports]}
    checkpoint.write_whole(out, content)
    out.with_suffix(".md").write_text(markdown(reports) + "\n", encoding="utf-8")
    viz.use_style()
    viz.show_report(reports[0]).savefig(out.with_suffix(".png"))


def into_card(reports: list[Report], weights: Path, command: str) -> None:
    """Put what was measured into the card beside the weights, under the names that the numbers have.

    Args:
        command: that measures it again.
    """
    card = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in card.get("metrics", {}).items() if key in ("training_loss", "accuracy")}
    found = together(reports)
    found["measured by"]["command"] = command
    card["metrics"] = {**kept, **found}
    cards.write_card(weights, card)


def _summary(scores: Scores) -> dict[str, Any]:
    return {"mean": scores.mean, "sd": None if math.isnan(scores.sd) else scores.sd, "each": list(scores.each)}


@contextmanager
def _counting(*models: zoo.Pretrained | None) -> Iterator[list[int]]:
    """The numbers of pictures that networks are asked about, call by call: samplers differ in how often they ask."""
    rows: list[int] = []
    hooks = [
        model.network.register_forward_hook(lambda network, inputs, output: rows.append(len(output)))
        for model in models
        if model is not None
    ]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


def precision_of(word: str) -> Precision:
    """The word itself, if it is one of a precision.

    Raises:
        ValueError: it is none.
    """
    if word not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}, got {word!r}")
    found: Precision = word  # type: ignore[assignment]
    return found


def _notes(model: zoo.Pretrained, how: Sampling) -> str:
    device = next(model.network.parameters()).device
    found = cards.hardware(device)
    where = found.get("gpu") or f"{found['cpu']}, {reading.threads(found['threads'])}"
    bf16 = how.precision == "bf16" or (how.precision == "auto" and fast_bf16(device))
    notes = [f"{how.steps} steps in {'bfloat16' if bf16 else 'float32'} on {where}."]
    if how.guided.bad is not None:
        notes.append("Guided away from a worse model.")
    if not how.guided.everywhere:
        notes.append(f"Guided where {how.guided.sigma_low:g} < σ ≤ {how.guided.sigma_high:g}.")
    return " ".join(notes)


def _labels(model: zoo.Pretrained, train: data.Images, count: int, seed: int) -> Tensor | None:
    if not models.classes_of(model) or train.y is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    return train.y[torch.randint(len(train), (count,), generator=generator)]


def _data(model: zoo.Pretrained) -> tuple[data.Images, data.Images]:
    name = model.card.get("recipe", {}).get("data")
    if name not in data.DATASETS:
        raise ValueError(
            f"the model was trained on {name or 'data that its file does not name'}, of which there are no held-out "
            f"images and so no floor to compare with; evaluate one of {', '.join(data.DATASETS)}"
        )
    return data.load(name), data.load(name, "test")


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
