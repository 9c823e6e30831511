"""A model measured: `evaluate` for each seed of its pictures; bits per dimension; a classifier's accuracy. Chapter 12.

What `diffusion-book evaluate` runs. The pictures are those that `models.draw` makes of the same seeds.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from diffusion_book import data, models, zoo
from diffusion_book.conditions import Conditions
from diffusion_book.evaluation.accuracy import named_rightly
from diffusion_book.evaluation.features import Extractor, edges, from_classifier, pixels
from diffusion_book.evaluation.inception import inception
from diffusion_book.evaluation.judge import judge, shares
from diffusion_book.evaluation.likelihood import Bits, bits_by_bound, bits_by_ode
from diffusion_book.evaluation.measure import evaluate
from diffusion_book.evaluation.report import Origin, Report
from diffusion_book.models import Guidance, Labels, Model, TrainedClassifier
from diffusion_book.models.card import Card, hardware, threads_in_words
from diffusion_book.nn import Autoencoder, weights_sha256
from diffusion_book.schedules import Discrete
from diffusion_book.training.precision import Precision, resolve


@dataclass(frozen=True)
class Sampling:
    """How pictures are drawn, `count` for each of `seeds`; see `models.draw`; whether classifiers learn of them."""

    sampler: str
    steps: int
    guidance: Guidance
    count: int
    seeds: int
    precision: Precision = "auto"
    batch_size: int = 250
    accuracy: bool = False


def measure(
    model: Model, how: Sampling, extractor: Extractor, name: str, train: data.Images, unseen: data.Images
) -> Iterator[Report]:
    """One report for each seed, measured as it is asked for; what is wrong is told by the call.

    Pictures have the shape of the training images, and labels are drawn from those of them, so that classes are as
    frequent.

    Raises:
        ValueError: there are too few images; classifiers are to learn, and there are no labels or no two classes; or
            what `models.draw` raises.
    """
    _check_enough(how.count, train, unseen)
    C, H, W = train.shape
    model = replace(model, shape=(C, H, W))
    notes = _notes(model, how)
    labels = [_labels(model, train, how.count, seed) for seed in range(how.seeds)]
    if how.accuracy:
        _check_labels(labels[0], unseen)
    drawn = [
        models.batches(
            model,
            y,
            range(seed * how.count, (seed + 1) * how.count),
            sampler=how.sampler,
            steps=how.steps,
            guidance=how.guidance,
            batch_size=how.batch_size,
            precision=how.precision,
            progress=True,
        )
        for seed, y in enumerate(labels)
    ]

    def reports() -> Iterator[Report]:
        for seed, (x, y) in enumerate(zip(drawn, labels)):
            origin = Origin(name, how.sampler, 0, how.guidance.w, seed, notes)
            # Classifiers are trained for the accuracy score, which takes minutes: once is enough.
            y = y if how.accuracy and seed == 0 else None
            with _counting(model, how.guidance.bad) as rows:
                report = evaluate(
                    x, train, unseen, extractor, origin, y, mirrored=_flips(model), progress=sys.stderr.isatty()
                )
            # How often a sampler asks is known when it has drawn, which it does while it is measured.
            yield replace(report, origin=replace(origin, nfe=round(sum(rows) / how.count)))

    return reports()


def measure_classifier(classifier: TrainedClassifier, name: str, unseen: data.Images) -> dict[str, Any]:
    """What `classifier_metrics` finds on held-out images, and which classifier it is of.

    Raises:
        ValueError: they have no labels.
    """
    of = {"name": name, "sha256": classifier.card.sha256 or None, "weights_sha256": weights_sha256(classifier.network)}
    return {
        **classifier_metrics(classifier.network, unseen),
        "measured by": {"classifier": of, "notes": f"In float32 on {_where(classifier.network)}."},
    }


def classifier_metrics(network: nn.Module, images: data.Images) -> dict[str, Any]:
    """The share of images that a classifier names rightly, in all and of each class; how many they are, and which.

    Raises:
        ValueError: the images have no labels.
    """
    right, N = named_rightly(network, images), len(images)
    y = images.conditions["y"]
    share = int(right.sum()) / N
    return {
        "accuracy": share,
        "standard error": math.sqrt(share * (1 - share) / N),
        "N": N,
        "split": images.name,
        "accuracy by class": {str(label): float(right[y == label].double().mean()) for label in y.unique().tolist()},
        "training runs": 1,
        "notes": "Of a single training run; the standard error is binomial, that of measuring it on N images.",
    }


THERE_AND_BACK = 512
"""Held-out pictures on which an autoencoder is measured."""


@torch.no_grad()
def autoencoder_metrics(network: Autoencoder, pictures: data.Examples) -> dict[str, Any]:
    """How well an autoencoder finds held-out pictures again, decoding the mean of their latents, cut to [−1, 1].

    Of captioned scenes also how many are still read rightly, all that the caption says; see `judge`.
    """
    device, index = next(network.parameters()).device, torch.arange(min(THERE_AND_BACK, len(pictures)))
    x = pictures.take(index)[0]
    x_hat = torch.cat([network(part.to(device))[0].cpu().clamp(-1, 1) for part in x.split(32)])
    off = (x_hat - x).abs().flatten(1).mean(1).double()
    N = len(x)
    found: dict[str, Any] = {
        "mean absolute error": float(off.mean()),
        "standard error": float(off.std() / math.sqrt(N)),
        "PSNR": 10 * math.log10(4 / max(float((x_hat - x).square().mean()), 1e-12)),
    }
    if isinstance(pictures, data.Scenes):
        said = pictures.captions(index)
        found["read rightly"] = {
            "decoded": shares(judge(x_hat, said))["all"],
            "originals": shares(judge(x, said))["all"],
        }
    notes = "Of a single training run; the standard error is that of measuring it on N pictures."
    return {**found, "N": N, "split": getattr(pictures, "name", "held out"), "training runs": 1, "notes": notes}


DRAWS = 4
"""Of the bound's terms, for each image: enough that the images, and not the draws, are most of the standard error."""
ODE_TOLERANCE = 1e-4
BITS_AT_ONCE = 50
"""Images, or fewer where memory is short. One generator draws batch after batch, so another number gives other draws
than those in the cards of the zoo."""


def bits(
    model: Model, by_bound: int, by_ode: int, unseen: data.Images, batch_size: int = BITS_AT_ONCE
) -> dict[str, Any]:
    """Bits per dimension of so many held-out images by `bits_by_bound`, and of so many by `bits_by_ode`.

    The images are the first of one random order. x̂0 is cut to [−1, 1] in the bound alone: the density of an ODE
    suffers where x̂0 does not move. A network that always needs a label gets the image's own.

    Raises:
        ValueError: there are fewer held-out images; the schedule is continuous, which has no bound.
    """
    if model.codec.x0_max is None:
        raise ValueError("bits per dimension are of pictures, and this model denoises latents; leave --bits out")
    for count in (by_bound, by_ode):
        if count == 1 or count > len(unseen):
            raise ValueError(f"bits can be had of 0 or of 2 … {len(unseen):,} images of {unseen.name}, got {count}")
    if by_bound and not isinstance(model.schedule, Discrete):
        raise ValueError(f"a bound needs a chain of steps, and {model.schedule!r} has none: give --bits 0 {by_ode}")
    labelled = _takes_labels(model) and not model.conditioner.nothing
    device = next(model.network.parameters()).device
    order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(0))
    at_once = min(batch_size, BITS_AT_ONCE)
    found: dict[str, Any] = {}
    for name, count, by in (("bound", by_bound, _bound), ("ODE", by_ode, _ode)):
        generator, parts = torch.Generator().manual_seed(0), []
        # One call for each batch, since a denoiser holds the labels of the images that it is asked about.
        for index in tqdm(order[:count].split(at_once), desc=f"bits, {name}", disable=None) if count else ():
            x, conditions = unseen.take(index)
            told = {name: values.to(device) for name, values in conditions.items() if labelled and name == "y"}
            parts.append(by(model, told, x.to(device), generator))
        if parts:
            of_all = Bits.of(torch.cat([part.each.cpu() for part in parts]), parts[0].how)
            found[name] = {"mean": of_all.mean, "standard error": of_all.standard_error, "N": count, "how": of_all.how}
    given = "each image's own label" if labelled else "no labels"
    notes = f"The first of a random order, with {given}, in float32 on {_where(model.network)}."
    return {**found, "measured by": {"held out": unseen.name, "seed": 0, "notes": notes}}


def _bound(model: Model, told: Conditions, x: Tensor, generator: torch.Generator) -> Bits:
    assert isinstance(model.schedule, Discrete)
    return bits_by_bound(model.denoiser(told), model.schedule, x, generator, len(x), DRAWS)


def _ode(model: Model, told: Conditions, x: Tensor, generator: torch.Generator) -> Bits:
    schedule = model.schedule.continuous() if isinstance(model.schedule, Discrete) else model.schedule
    denoiser = replace(model, schedule=schedule).denoiser(told, clip=False)
    tolerance: Any = {"rtol": ODE_TOLERANCE, "atol": ODE_TOLERANCE}
    return bits_by_ode(denoiser, schedule, x, generator, batch_size=len(x), **tolerance)


def extractor_of(name: str, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Extractor:
    """What looks at images (C, H, W): "edges", "pixels", "inception", or a classifier for `models.load_classifier`.

    Raises:
        ValueError: it is no classifier, or does not fit the images. ConnectionError: Inception cannot be downloaded.
    """
    if name == "edges":
        return edges(shape[0])
    if name == "pixels":
        return pixels((shape[0], shape[1], shape[2]))
    if name == "inception":
        if shape[0] != 3:
            raise ValueError("Inception looks at images in colour, the model draws none; give a classifier, or pixels")
        return inception(device=device)
    found = models.load_classifier(name, device)
    described: Any = found.network.config
    if described.image_channels != shape[0]:
        raise ValueError(
            f"{name!r} looks at images of {described.image_channels} channels, the model draws {shape[0]}; "
            "train a classifier on the same data (--set network={kind='classifier'}), or give --extractor pixels"
        )
    return from_classifier(found.network, name, found.card.accuracy)


MOST = 10_000
"""Pictures of a model, where nobody says how many."""
DIGITS = ("mnist", "mnist-5k")
"""Of which the zoo's classifier knows what it sees."""


def usual_count(train: data.Images, unseen: data.Images) -> int:
    """Half as many pictures as there are real images: then the floor compares two halves of these, and no fewer."""
    return min(MOST, max(50, (len(train) + len(unseen)) // 2))


def usual_extractor(train: data.Images) -> str:
    """What looks at pictures if nobody says: a classifier where it was trained on such, else what needs no training."""
    return "mnist-classifier" if train.name.partition("/")[0] in DIGITS else "edges"


def real_images(card: Card, unseen: str | None, labelled: bool = False) -> tuple[data.Images, data.Images]:
    """What a model was trained on, and held-out images: the named ones, or its run's, or those of its data set.

    Files of a folder that cannot be read are left out where they were in training. The held-out ones of a folder have
    labels where they are asked for and training had some.

    Raises:
        ValueError: they cannot be had; or held-out images are of another shape, or among those trained on.
    """
    if card.recipe is None:
        raise ValueError(
            "the model was trained on data that its file does not name, so there are no held-out images of it and "
            f"nothing to compare with; evaluate a run, a file with its card, or one of {', '.join(zoo.names())}"
        )
    name, skip_broken = card.recipe.data, card.recipe.skip_broken
    unseen = unseen or card.recipe.held_out
    if unseen is None and name not in data.DATASETS:
        raise ValueError(
            f"the model was trained on {name}, of which there are no held-out images and so no floor to compare with; "
            "give pictures of the same kind that it has not seen, by --held-out folder:PATH"
        )
    try:
        train = _load(name, "train", card.recipe.size, skip_broken, card.recipe.labels)
    except ValueError as error:
        raise ValueError(f"what the model was trained on is the reference, and cannot be had: {error}") from error
    height, width = train.x.shape[2:]
    if height != width:
        raise ValueError(f"squares are drawn, so none can be compared with {train.name} of {width}×{height} pixels")
    held_out = _load(unseen or name, "test", height, skip_broken, card.recipe.labels if labelled else None)
    if train.x.shape[1:] != held_out.x.shape[1:]:
        raise ValueError(f"held-out images must be as those trained on, {_spoken(train)}, got {_spoken(held_out)}")
    _check_classes(train, held_out)
    own = unseen in (None, name) and name in data.DATASETS
    seen = 0 if own else len(data.duplicates(held_out.x, train.x)[:, 0].unique())
    if seen:
        raise ValueError(
            f"{seen:,} of the {len(held_out):,} images of {held_out.name} are among those that the model was trained "
            f"on, {train.name}; hold out others"
        )
    return train, held_out


def _check_labels(y: Tensor | None, unseen: data.Images) -> None:
    """Before anything is drawn: what classifiers are to learn from, and to be tested on."""
    if y is None or len(y.unique()) < 2:
        raise ValueError("classifiers learn from pictures of two classes or more; leave --accuracy out")
    if "y" not in unseen.conditions:
        raise ValueError(f"{unseen.name} has no labels to test classifiers on; leave --accuracy out")


def _spoken(images: data.Images) -> str:
    return f"{list(images.x.shape)} of {images.name}"


def _check_classes(train: data.Images, held_out: data.Images) -> None:
    """Labels are numbers, which mean the same only where both folders have the same classes."""
    if "y" in held_out.conditions and held_out.class_names != train.class_names:
        raise ValueError(
            f"the classes of {held_out.name}, {', '.join(held_out.class_names)}, are not those of {train.name}, "
            f"{', '.join(train.class_names)}; hold out some of each, or leave --accuracy out"
        )


def _load(
    name: str, split: str, size: int | None, skip_broken: bool, labels: Literal["folders", "captions"] | None = None
) -> data.Images:
    if name == "scenes":
        raise ValueError("scenes are endless, so no distance to all; evaluation.judge compares pictures with captions")
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


@contextmanager
def _counting(*asked: Model | None) -> Iterator[list[int]]:
    """The numbers of pictures that networks are asked about, call by call: samplers differ in how often they ask."""
    rows: list[int] = []
    hooks = [
        model.network.register_forward_hook(lambda network, inputs, output: rows.append(len(output)))
        for model in asked
        if model is not None
    ]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


def _notes(model: Model, how: Sampling) -> str:
    device = next(model.network.parameters()).device
    computed = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[resolve(how.precision, device)]
    notes = [f"{how.steps} steps in {computed} on {_where(model.network)}."]
    if how.guidance.bad is not None:
        notes.append("Guided away from a worse model.")
    if not how.guidance.everywhere:
        notes.append(f"Guided {how.guidance.where}.")
    if _flips(model):
        notes.append("Copies are looked for among mirrored training images, too.")
    return " ".join(notes)


def _flips(model: Model) -> bool:
    return model.card.recipe is not None and model.card.recipe.flip


def _where(network: nn.Module) -> str:
    found = hardware(next(network.parameters()).device)
    return found.get("gpu") or f"{found['cpu']}, {threads_in_words(found['threads'])}"


def _takes_labels(model: Model) -> bool:
    return isinstance(model.conditioner, Labels) and model.conditioner.classes > 0


def _labels(model: Model, train: data.Images, count: int, seed: int) -> Tensor | None:
    if not _takes_labels(model) or "y" not in train.conditions:
        return None
    generator = torch.Generator().manual_seed(seed)
    return train.conditions["y"][torch.randint(len(train), (count,), generator=generator)]
