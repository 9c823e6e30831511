"""A run as others get it: weights, all that should be known of them, and pictures, in one folder. Chapter 12."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

from diffusion_book import data, models
from diffusion_book._files import write_whole
from diffusion_book.data import pictures
from diffusion_book.data.icons import MARK
from diffusion_book.evaluation import summary
from diffusion_book.models import Card, Model
from diffusion_book.models.readme import check_ours, readme
from diffusion_book.nn import weights_sha256


def publish(
    run: Path,
    out: Path,
    name: str | None = None,
    licence: str = "",
    source: str = "",
    use: str = "",
    size: int | None = None,
) -> Card:
    """Write NAME.safetensors, NAME.json, README.md and samples.png into a folder → the card.

    The numbers are those of the report that `diffusion-book evaluate` has left in the run's folder. The pictures are
    drawn with the weights as they are written.

    Args:
        run: the folder of a run. out: the folder to publish, made where it is missing.
        name: of the model; by default that of the run's folder.
        licence: of the weights. source: where its training data come from, and on what terms. use: what it is for.
        size: side of its pictures, for a run that does not say.

    Raises:
        ValueError: it is no run; the report is of other weights; or there is a README.md that somebody wrote.
    """
    pictures.check_writable(out, folder=True)
    check_ours(out)
    if not (run / "config.json").is_file():
        raise ValueError(f"{run} is no folder of a run; give one that diffusion-book train made")
    found = models.load(run, size=size)
    told = _told(found.card, found.known_shape[1], licence, source, use)
    path = out / f"{name or told.name}.safetensors"
    card = _measured(dataclasses.replace(told, name=path.stem), found, run)
    models.export(dataclasses.replace(found, card=card), path)
    published = models.load(path)  # what is shown is what others will draw
    wanted, count, columns = _wanted(published)
    pictures.write(models.draw(published, wanted, range(count)), out / "samples.png", columns, range(count))
    write_whole(out / "README.md", readme(published, _command(path.name, wanted, count)).encode())
    return published.card


def _told(card: Card, side: int, licence: str, source: str, use: str) -> Card:
    """The card with what a person says, and what is known of a set that has a name, or of a folder of icons."""
    assert card.recipe is not None  # a run has one
    name = card.recipe.data
    if not source and name in data.DATASETS:
        of = data.describe(name)
        source = f"{of.what}; {of.source}; licence: {of.licence}"
    notice = Path(name.removeprefix("folder:")) / MARK
    if not source and name.startswith("folder:") and notice.is_file():
        source = " ".join(notice.read_text(encoding="utf-8").split())
    recipe = card.recipe if name in data.DATASETS else dataclasses.replace(card.recipe, size=side)
    return dataclasses.replace(card, recipe=recipe, licence=licence, source=source, use=use)


def _measured(card: Card, model: Model, run: Path) -> Card:
    """The card with the numbers of the report that `evaluate` left in the run's folder.

    Raises:
        ValueError: the report is of other weights.
    """
    path, sha256 = run / "report.json", weights_sha256(model.network)
    if not path.is_file():
        return card
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    of = report.get("of", {})
    if of.get("weights_sha256") != sha256:
        raise ValueError(
            f"{path} is of other weights than the run's newest; run diffusion-book evaluate -m {run}, or remove it"
        )
    numbers = report["summary"]
    for part in (numbers, numbers.get(summary.BITS, {})):
        if "measured by" in part:
            part["measured by"]["notes"] += " Measured before the weights were rounded to half precision."
    if report["reports"]:
        first = report["reports"][0]
        images = {"reference images": first["reference"], "held-out images": first["held_out"]}
        numbers["measured by"] |= {what: {key: those[key] for key in ("n", "sha256")} for what, those in images.items()}
    return dataclasses.replace(summary.into_card(card, numbers, sha256, of["command"]), weights_sha256="")


def _wanted(model: Model) -> tuple[list[int] | None, int, int]:
    """What is drawn, how many, and in how many columns: each of ten classes twice, or sixteen pictures of no class."""
    config: Any = model.network.config
    if not config.classes:
        return None, 16, 4
    columns = min(10, config.classes)
    return list(range(columns)) * 2, 2 * columns, columns


def _command(file: str, wanted: list[int] | None, count: int) -> str:
    classes = [] if wanted is None else ["--class", ",".join(map(str, sorted(set(wanted))))]
    command = ["diffusion-book", "sample", "--model", file, *classes, "--count", str(count), "-o", "samples.png"]
    return shlex.join(command)
