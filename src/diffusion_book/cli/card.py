"""`diffusion-book card`: a run as others get it, with all that should be known of it."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffusion_book.cli import options

if TYPE_CHECKING:
    from diffusion_book.models import Card, Model


def card(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to publish; it is made where it is missing.")],
    name: Annotated[str | None, typer.Option(help="Of the model. [default: that of the run's folder]")] = None,
    licence: Annotated[str, typer.Option(help="Of the weights, such as 'CC BY-SA 4.0': who may use them, how.")] = "",
    source: Annotated[
        str, typer.Option(help="Where the pictures that it learnt from come from, and on what terms.")
    ] = "",
    use: Annotated[str, typer.Option(help="What the model is for, and what it should not be used for.")] = "",
    size: options.Size = None,
) -> None:
    """Write a run's weights, its card for machines and in words, and pictures into a folder that can be published.

    The numbers are those that `diffusion-book evaluate --model RUN` has left in the run's folder.

    \b
    A run, measured and ready to be given away:
    `diffusion-book evaluate -m runs/mine`
    `diffusion-book card runs/mine --out published --licence 'CC BY 4.0' --source 'my own photographs'`
    """
    from diffusion_book import models
    from diffusion_book._files import expanded, write_whole
    from diffusion_book.data import pictures
    from diffusion_book.models.readme import check_ours, readme

    run, out = expanded(run), expanded(out)
    pictures.check_writable(out, folder=True)
    check_ours(out)
    if not (run / "config.json").is_file():
        raise ValueError(f"{run} is no folder of a run; give one that diffusion-book train made")
    found = models.load(run, size=size)
    side = found.known_shape[1]
    called = name or found.card.name
    told = _told(found.card, side, licence, source, use)
    path = out / f"{called}.safetensors"
    models.export(dataclasses.replace(found, card=_measured(told, found, run, called)), path)
    published = models.load(path)  # what is shown is what others will draw
    wanted, count, columns = _wanted(published)
    x = models.draw(published, wanted, range(count))
    pictures.write(x, out / "samples.png", columns, range(count))
    write_whole(out / "README.md", readme(published, _command(path.name, wanted, count)).encode())
    typer.echo(f"published: {path}, {path.with_suffix('.json')}, {out / 'README.md'}, {out / 'samples.png'}")
    for missing in (field for field in ("licence", "source", "use") if not getattr(told, field)):
        typer.echo(f"not said: {missing}; only you know it, give --{missing}", err=True)


def _told(card: "Card", side: int, licence: str, source: str, use: str) -> "Card":
    """The card with what a person says, and what is known of a set that has a name, or of a folder of icons."""
    from diffusion_book.data import DATASETS, describe
    from diffusion_book.data.icons import MARK

    assert card.recipe is not None  # a run has one
    data = card.recipe.data
    if not source and data in DATASETS:
        of = describe(data)
        source = f"{of.what}; {of.source}; licence: {of.licence}"
    notice = Path(data.removeprefix("folder:")) / MARK
    if not source and data.startswith("folder:") and notice.is_file():
        source = " ".join(notice.read_text(encoding="utf-8").split())
    recipe = card.recipe if data in DATASETS else dataclasses.replace(card.recipe, size=side)
    return dataclasses.replace(card, recipe=recipe, licence=licence, source=source, use=use)


def _measured(card: "Card", model: "Model", run: Path, name: str) -> "Card":
    """The card with the numbers of the report that `evaluate` left in the run's folder.

    Raises:
        ValueError: the report is of other weights.
    """
    from diffusion_book.evaluation import summary, weights_sha256

    path, sha256 = run / "report.json", weights_sha256(model.network)
    card = dataclasses.replace(card, name=name)
    if not path.is_file():
        return card
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    of = report.get("of", {})
    if of.get("weights_sha256") != sha256:
        raise ValueError(
            f"{path} is of other weights than the run's newest; measure it again, diffusion-book evaluate -m {run}, or "
            "remove the report to publish without numbers"
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


def _wanted(model: "Model") -> tuple[list[int] | None, int, int]:
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
