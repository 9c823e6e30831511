"""What `diffusion-book evaluate` measures: `evaluation.evaluate` for each seed, and what the seeds say together; bits
per dimension; and the accuracy of a classifier."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_book import data, evaluation, zoo
from diffusion_book._files import whole, write_whole
from diffusion_book._names import unknown
from diffusion_book.cli import cards, drawing, models, reading
from diffusion_book.evaluation import Bits, Extractor, Origin, Report
from diffusion_book.evaluation.accuracy import Scores
from diffusion_book.schedules import Discrete
from diffusion_book.training.loop import Precision, resolve


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn, `count` for each of `seeds`; see `drawing.batches`; whether classifiers learn of them."""

    sampler: str
    steps: int
    guided: drawing.Guidance
    count: int
    seeds: int
    precision: Precision = "auto"
    batch_size: int = 250
    accuracy: bool = True


def measure(
    model: zoo.Pretrained, how: Sampling, extractor: str, name: str, train: data.Images, unseen: data.Images
) -> Iterator[Report]:
    """One report for each seed, measured as it is asked for; what is wrong is told by the call.

    Labels are drawn from those of the training images, so that classes are as frequent.

    Raises:
        ValueError: there are too few images; the extractor does not fit them; or what `drawing.batches` raises.
    """
    _check_enough(how.count, train, unseen)
    shape = models.image_shape(model, train.x.shape[2])
    compared = _extractor(extractor, model, shape)
    notes = _notes(model, how)
    labels = [_labels(model, train, how.count, seed) for seed in range(how.seeds)]
    if how.accuracy and labels[0] is not None and "y" not in unseen.conditions:
        raise ValueError(f"{unseen.name} has no labels to test classifiers on; give --no-accuracy")
    drawn = [
        drawing.batches(
            model,
            range(seed * how.count, (seed + 1) * how.count),
            y,
            how.sampler,
            how.steps,
            how.guided,
            shape[1],
            how.batch_size,
            how.precision,
            progress=True,
        )
        for seed, y in enumerate(labels)
    ]

    def reports() -> Iterator[Report]:
        for seed, (x, y) in enumerate(zip(drawn, labels)):
            origin = Origin(name, how.sampler, 0, how.guided.w, seed, notes)
            # Classifiers are trained for the accuracy score, which takes minutes: once is enough.
            y = y if how.accuracy and seed == 0 else None
            with _counting(model, how.guided.bad) as rows:
                report = evaluation.evaluate(x, train, unseen, compared, origin, y, progress=sys.stderr.isatty())
            # How often a sampler asks is known when it has drawn, which it does while it is measured.
            yield replace(report, origin=replace(origin, nfe=round(sum(rows) / how.count)))

    return reports()


def measure_classifier(classifier: zoo.Pretrained, name: str, unseen: data.Images) -> dict[str, Any]:
    """What `cards.classifier_metrics` finds on held-out images, and which classifier it is of.

    Raises:
        ValueError: they have no labels.
    """
    of = {"name": name, "sha256": classifier.card.get("sha256"), "weights_sha256": _hash(classifier)}
    return {
        **cards.classifier_metrics(classifier, unseen),
        "measured by": {"classifier": of, "notes": f"In float32 on {_where(classifier)}."},
    }


DRAWS = 4
"""Of the bound's terms, for each image: enough that the images, and not the draws, are most of the standard error."""
ODE_TOLERANCE = 1e-4
BITS = "bits per dimension"
BITS_AT_ONCE = 50
"""Images, or fewer where memory is short. One generator draws batch after batch, so another number gives other draws
than those in the cards of the zoo."""


def bits(
    model: zoo.Pretrained, by_bound: int, by_ode: int, unseen: data.Images, batch_size: int = BITS_AT_ONCE
) -> dict[str, Any]:
    """Bits per dimension of so many held-out images by `evaluation.bits_by_bound`, and of so many by `bits_by_ode`.

    The images are the first of one random order. x̂0 is cut to [−1, 1] in the bound alone: the density of an ODE
    suffers where x̂0 does not move. A network that always needs a label gets the image's own.

    Raises:
        ValueError: there are fewer held-out images; the schedule is continuous, which has no bound.
    """
    for count in (by_bound, by_ode):
        if count == 1 or count > len(unseen):
            raise ValueError(f"bits can be had of 0 or of 2 … {len(unseen):,} images of {unseen.name}, got {count}")
    if by_bound and not isinstance(model.schedule, Discrete):
        raise ValueError(f"a bound needs a chain of steps, and {model.schedule!r} has none: give --bits 0 {by_ode}")
    config: Any = model.network.config
    labelled = config.classes and not config.no_label
    device = next(model.network.parameters()).device
    order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(0))
    at_once = min(batch_size, BITS_AT_ONCE)
    found: dict[str, Any] = {}
    for name, count, measure in (("bound", by_bound, _bound), ("ODE", by_ode, _ode)):
        generator, parts = torch.Generator().manual_seed(0), []
        # One call for each batch, since a denoiser holds the labels of the images that it is asked about.
        for index in tqdm(order[:count].split(at_once), desc=f"bits, {name}", disable=None) if count else ():
            y = unseen.conditions["y"][index].to(device) if labelled and "y" in unseen.conditions else None
            parts.append(measure(model, y, unseen.x[index].to(device), generator))
        if parts:
            of_all = Bits.of(torch.cat([part.each.cpu() for part in parts]), parts[0].how)
            found[name] = {"mean": of_all.mean, "standard error": of_all.standard_error, "N": count, "how": of_all.how}
    given = "each image's own label" if labelled else "no labels"
    notes = f"The first of a random order, with {given}, in float32 on {_where(model)}."
    return {**found, "measured by": {"held out": unseen.name, "seed": 0, "notes": notes}}


def _bound(model: zoo.Pretrained, y: Tensor | None, x: Tensor, generator: torch.Generator) -> Bits:
    assert isinstance(model.schedule, Discrete)
    return evaluation.bits_by_bound(model.denoiser(y), model.schedule, x, generator, len(x), DRAWS)


def _ode(model: zoo.Pretrained, y: Tensor | None, x: Tensor, generator: torch.Generator) -> Bits:
    schedule = model.schedule.continuous() if isinstance(model.schedule, Discrete) else model.schedule
    assert schedule is not None
    denoiser = replace(model, schedule=schedule).denoiser(y, x0_max=None)
    tolerance: Any = {"rtol": ODE_TOLERANCE, "atol": ODE_TOLERANCE}
    return evaluation.bits_by_ode(denoiser, schedule, x, generator, batch_size=len(x), **tolerance)


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
        "seeds of sampling": len(reports),
        "training runs": 1,
        "reference": first.reference["name"],
        "held out": first.held_out["name"],
        "extractor": f"{first.extractor['name']}, SHA-256 {first.extractor['sha256']}",
    }
    return found


def markdown(found: dict[str, Any], reports: list[Report]) -> str:
    """The first seed's report, and below it the others' numbers and what else was found."""
    lines = [reports[0].to_markdown()] if reports else []
    if len(reports) > 1:
        lines += [f"| over {len(reports)} seeds of sampling | mean ± sd |", "|---|---|"]
        for i, measure in enumerate(reports[0].measures):
            scores = Scores.of([report.measures[i].value for report in reports])
            lines.append(f"| {measure.name} | {scores.mean:.4g} ± {scores.sd:.2g} |")
    return "\n".join([*lines, *_bits_rows(found.get(BITS, {})), *_accuracy_rows(found)])


def _bits_rows(found: dict[str, Any]) -> Iterator[str]:
    if not found:
        return
    yield f"\n| {BITS} ↓ | mean ± standard error | N | |\n|---|---|---|---|"
    for name in ("bound", "ODE"):
        if name in found:
            at = found[name]
            yield f"| {name} | {at['mean']:.4g} ± {at['standard error']:.2g} | {at['N']:,} | {at['how']} |"
    yield f"\nHeld out: {found['measured by']['held out']}. {found['measured by']['notes']}"


def _accuracy_rows(found: dict[str, Any]) -> Iterator[str]:
    if "accuracy by class" not in found:
        return
    of = found["measured by"]["classifier"]
    right = f"{found['accuracy']:.2%} ± {found['standard error']:.2%}"
    yield f"# {of['name']}: {right} right of {found['N']:,} images of {found['split']}\n"
    yield "| class | right |\n|---|---|"
    yield from (f"| {label} | {share:.2%} |" for label, share in found["accuracy by class"].items())
    yield f"\n{found['notes']} {found['measured by']['notes']}"
    yield f"\nSHA-256 of the file: {of['sha256'] or 'none'}; of the weights: {of['weights_sha256']}."


def write(found: dict[str, Any], reports: list[Report], out: Path) -> list[Path]:
    """JSON for machines, Markdown for people, and a picture where pictures were drawn → the files."""
    from diffusion_book import viz

    write_whole(out, {"summary": found, "reports": [report.to_dict() for report in reports]})
    write_whole(out.with_suffix(".md"), (markdown(found, reports) + "\n").encode())
    if not reports:
        return [out, out.with_suffix(".md")]
    viz.use_style()
    with whole(out.with_suffix(".png")) as unfinished:
        viz.show_report(reports[0]).savefig(unfinished)
    return [out, out.with_suffix(".md"), out.with_suffix(".png")]


def into_card(found: dict[str, Any], model: zoo.Pretrained, weights: Path, command: str) -> None:
    """Put what was found into the card beside the weights, under the names that the numbers have.

    What was found earlier in samples goes when something new was; bits per dimension stay until they are measured
    again.

    Args:
        command: that measures it again.
    """
    card = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    metrics = card.get("metrics", {})
    if "measured by" in found:
        metrics = {key: value for key, value in metrics.items() if key in ("training_loss", "accuracy", BITS)}
    metrics |= found
    for new in (found, found.get(BITS, {})):
        if "measured by" in new:
            new["measured by"]["command"] = command
    if BITS in metrics:
        metrics[BITS] = metrics.pop(BITS)  # after what was measured in samples, whichever came first
    card["metrics"] = metrics
    card["weights_sha256"] = _hash(model)
    cards.write_card(weights, card)


def _hash(model: zoo.Pretrained) -> str:
    return evaluation.weights_sha256(model.network)


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
        raise ValueError(unknown("precision", word, get_args(Precision)))
    found: Precision = word  # type: ignore[assignment]
    return found


def _notes(model: zoo.Pretrained, how: Sampling) -> str:
    device = next(model.network.parameters()).device
    computed = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[resolve(how.precision, device)]
    notes = [f"{how.steps} steps in {computed} on {_where(model)}."]
    if how.guided.bad is not None:
        notes.append("Guided away from a worse model.")
    if not how.guided.everywhere:
        notes.append(f"Guided {how.guided.where}.")
    return " ".join(notes)


def _where(model: zoo.Pretrained) -> str:
    found = cards.hardware(next(model.network.parameters()).device)
    return found.get("gpu") or f"{found['cpu']}, {reading.threads(found['threads'])}"


def _labels(model: zoo.Pretrained, train: data.Images, count: int, seed: int) -> Tensor | None:
    if not models.classes_of(model) or "y" not in train.conditions:
        return None
    generator = torch.Generator().manual_seed(seed)
    return train.conditions["y"][torch.randint(len(train), (count,), generator=generator)]


def real_images(model: zoo.Pretrained, unseen: str | None) -> tuple[data.Images, data.Images]:
    """What the model was trained on, and held-out images: the named ones, or those of the same data set.

    Files of a folder that cannot be read are left out where they were in training.

    Raises:
        ValueError: they cannot be had; or held-out images are of another shape, or among those trained on.
    """
    recipe = model.card.get("recipe", {})
    name = recipe.get("data")
    if name is None:
        raise ValueError(
            "the model was trained on data that its file does not name, so there are no held-out images of it and "
            f"nothing to compare with; evaluate a run, a file with its card, or one of {', '.join(zoo.names())}"
        )
    if unseen is None and name not in data.DATASETS:
        raise ValueError(
            f"the model was trained on {name}, of which there are no held-out images and so no floor to compare with; "
            "give pictures of the same kind that it has not seen, by --held-out folder:PATH"
        )
    skip_broken = recipe.get("skip_broken", False)
    try:
        train = _load(name, "train", recipe.get("size"), skip_broken, recipe.get("labels"))
    except ValueError as error:
        raise ValueError(f"what the model was trained on is the reference, and cannot be had: {error}") from error
    height, width = train.x.shape[2:]
    if height != width:
        raise ValueError(f"squares are drawn, so none can be compared with {train.name} of {width}×{height} pixels")
    held_out = _load(unseen or name, "test", height, skip_broken)
    if train.x.shape[1:] != held_out.x.shape[1:]:
        raise ValueError(
            f"held-out images must be as those that the model was trained on, [N, C, H, W] = {list(train.x.shape)} of "
            f"{train.name}, got {list(held_out.x.shape)} of {held_out.name}"
        )
    own = unseen in (None, name) and name in data.DATASETS
    seen = 0 if own else len(data.duplicates(held_out.x, train.x)[:, 0].unique())
    if seen:
        raise ValueError(
            f"{seen:,} of the {len(held_out):,} images of {held_out.name} are among those that the model was trained "
            f"on, {train.name}; hold out others"
        )
    return train, held_out


def _load(
    name: str, split: str, size: int | None, skip_broken: bool, labels: Literal["folders"] | None = None
) -> data.Images:
    if not name.startswith("folder:"):
        return data.load(name, split)
    try:
        return data.load(name, size=size, skip_broken=skip_broken, labels=labels)  # a folder is one split
    except ValueError as error:  # its last advice is an option that `evaluate` does not have
        raise ValueError(str(error).partition(", or leave out all such files")[0]) from error


LEAST = 40
"""Images of a set that is compared: the kernel distance cuts it into twenty groups of two or more."""


def _check_enough(count: int, train: data.Images, held_out: data.Images) -> None:
    """Before anything is drawn: for the floor, as many real images are compared with what is left of them."""
    real = len(train) + len(held_out)
    if real < count + LEAST or len(train) < LEAST or len(held_out) < 2:
        raise ValueError(
            f"{count:,} pictures and their floor need {count + LEAST:,} real images, {LEAST} or more of them trained "
            f"on and 2 or more held out, got {len(train):,} of {train.name} and {len(held_out):,} of {held_out.name}; "
            "take more images, or a smaller --count, which must be 50 or more"
        )


def _extractor(name: str, model: zoo.Pretrained, shape: tuple[int, int, int]) -> Extractor:
    if name == "pixels":
        return evaluation.pixels(shape)
    device = next(model.network.parameters()).device
    if name == "inception":
        if shape[0] != 3:
            raise ValueError("Inception looks at images in colour, the model draws none; give a classifier, or pixels")
        return evaluation.inception(device=device)
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
