"""A card in words: the README.md that lies beside published weights. Chapter 12.

It says what a model card should (Mitchell et al. 2019): what the model is and is for, what it learnt from and on what
terms, how it was made, and what was measured. What nobody has told stands there as not said, and does not disappear.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusion_book.models.card import Card
from diffusion_book.models.model import Model

KNOWN = ("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "mit", "apache-2.0", "openrail")
"""Licences by the names that a hub of models has for them."""
MARK = "Written by `diffusion-book card`"
NOT_SAID = "Not said, so nobody else knows"


def readme(model: Model, draw: str) -> str:
    """The card of a model in words, as Markdown; above it the few lines that a hub of models reads.

    Args:
        draw: the command that draws the pictures of `samples.png`.
    """
    card, shape = model.card, model.known_shape
    file = f"{card.name}.safetensors"
    lines = [
        *_front(card),
        f"# {card.name}",
        "",
        f"![Pictures that {card.name} drew](samples.png)",
        "",
        f"A diffusion model of {'grey' if shape[0] == 1 else 'colour'} pictures of {shape[2]}×{shape[1]} pixels"
        f"{_classes(model)}. The pictures above are not chosen: their seeds are 0, 1, 2 and so on. This draws them "
        "again:",
        "",
        f"    {draw}",
        "",
        f'In Python, with the package `diffusion-book`: `models.draw("{file}", seeds=range(16))`.',
        "",
        "**Licence of the weights**: " + (card.licence or f"{NOT_SAID} who may use them, and how. Give --licence."),
        "",
        "## What it is for",
        "",
        card.use or f"{NOT_SAID} what it was made for, and what it should not be used for. Give --use.",
        "",
        "## What it learnt from",
        "",
        *_data(card),
        "",
        "## How it was made",
        "",
        _made(model),
        "",
        "## What was measured",
        "",
        *_measured(card.metrics),
        "",
        f"{MARK}; the same and more, for machines, is in `{card.name}.json`. SHA-256 of `{file}`: {card.sha256}.",
    ]
    return "\n".join(lines) + "\n"


def _front(card: Card) -> list[str]:
    """The licence in the words of a hub of models, where it is known to one."""
    short = card.licence.lower().replace(" ", "-")
    values: dict[str, Any] = {"library_name": "diffusion-book", "pipeline_tag": "unconditional-image-generation"}
    if short in KNOWN:
        values["license"] = short
    elif card.licence:
        values |= {"license": "other", "license_name": card.licence}
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]  # so YAML reads it
    return ["---", *lines, "---", ""]


def _classes(model: Model) -> str:
    config: Any = model.network.config
    names = getattr(model.conditioner, "names", ())
    if not config.classes:
        return ""
    of = f": {', '.join(names)}" if names else ""
    return f", of one of {config.classes} classes{of}"


def _data(card: Card) -> Iterator[str]:
    recipe, by = card.recipe, card.metrics.get("measured by", {})
    assert recipe is not None  # whoever publishes a run has one
    yield f"`{recipe.data}`{_counted(by.get('reference images'))}."
    if by.get("held out"):
        yield f"Kept apart and never learnt from: `{by['held out']}`{_counted(by.get('held-out images'))}."
    yield ""
    yield "**Where the pictures come from, and on what terms**: " + (card.source or f"{NOT_SAID}. Give --source.")


def _counted(images: Mapping[str, Any] | None) -> str:
    return f", {images['n']:,} pictures (SHA-256 of their pixels {images['sha256'][:16]}…)" if images else ""


def _made(model: Model) -> str:
    card, recipe = model.card, model.card.recipe
    assert recipe is not None
    weights = sum(parameter.numel() for parameter in model.network.parameters())
    network = ", ".join(f"{name} {value}" for name, value in recipe.network.items() if name != "kind")
    took = f", in {card.wall_time / 60:.0f} minutes" if card.wall_time else ""
    flip = ", each flipped half of the time" if recipe.flip else ""
    latents = f", of the latents of {recipe.codec}" if recipe.codec else ""
    return (
        f"A {recipe.network['kind']} ({network}) of {weights:,} weights learnt to predict "
        f"{recipe.denoising.prediction} on the schedule {recipe.denoising.schedule}{latents}. It saw "
        f"{card.images_seen or 0:,} "
        f"pictures in {card.step or 0:,} steps of {recipe.batch_size}{flip}, at a learning rate of "
        f"{recipe.learning_rate:g} with a warm-up of {recipe.warmup} steps and decay {recipe.decay!r}, from seed "
        f"{card.seed}{took}. The weights are their average with decay {recipe.ema_decay:g}, in half precision. The "
        f'whole configuration is "recipe" in `{card.name}.json`.'
    )


def _measured(metrics: Mapping[str, Any]) -> Iterator[str]:
    by = metrics.get("measured by")
    if not by:
        yield "Nothing yet, but for the loss of training. `diffusion-book evaluate` measures a run; then publish again."
        return
    yield "| measure | pictures drawn | real pictures | N |"
    yield "|---|---|---|---|"
    for name, found in metrics.items():
        if isinstance(found, Mapping) and "real against real" in found:
            yield f"| {name} | {_mean(found)} | {_mean(found['real against real'])} | {found['N']:,} |"
    yield ""
    seeds = by["seeds of sampling"]
    yield (
        f"Mean ± standard deviation, of {seeds} {'set' if seeds == 1 else 'sets'} of drawn pictures and of several of "
        f"real ones in their place. Drawn by {by['sampler']}, {by['evaluations']} evaluations each, guidance "
        f"{by['guidance']:g}. {by['notes']} Features: {by['extractor']}. `{by['command']}` measures it again."
    )
    for kind, near in metrics.get("memorisation", {}).items():
        yield ""
        yield (
            f"Copies, by {kind}: {near['copies']:.1%} of {near['N']:,} pictures are exactly one that it learnt from, "
            f"and {near['suspicious']:.1%} are nearer to one than all but 1 % of held-out pictures are. A drawn one "
            f"is nearer than a held-out one with probability {near['nearer']:.2f}; ½ would be no difference."
        )


def _mean(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:.4g}" + ("" if found["sd"] is None else f" ± {found['sd']:.2g}")


def check_ours(folder: Path) -> None:
    """A ValueError where there is a README.md that somebody wrote by hand."""
    path = folder / "README.md"
    if path.is_file() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise ValueError(f"{path} is there and was not written by this command; give another --out")
