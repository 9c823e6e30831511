"""`diffusion-book zoo`: the models that come with the package, and how they were made."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from diffusion_book.models import Card
    from diffusion_book.training import RunConfig

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Models that come with the package.")


@app.command("list")
def list_models() -> None:
    """List the models whose weights are here, and the recipes for which there are none yet."""
    from diffusion_book import zoo
    from diffusion_book.models import Card

    for name in zoo.names():
        typer.echo(_line(Card.beside(zoo.weights(name)), zoo.weights(name)))
    for name in sorted(set(zoo.recipes()) - set(zoo.names())):
        typer.echo(f"{name:24}a recipe without weights: diffusion-book zoo train {name}")


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="A model of the zoo, such as mnist-unet.")]) -> None:
    """Print a model's card: how it was made, on what, and what was measured; or its recipe, if it has no weights."""
    from diffusion_book import zoo
    from diffusion_book.models import Card

    if name in zoo.recipes() and name not in zoo.names():
        text = zoo.recipe(name).read_text(encoding="utf-8")
        typer.echo(f"{name} has no weights here; diffusion-book zoo train {name} makes them by this recipe:\n\n{text}")
        return
    for line in _lines(Card.beside(zoo.weights(name)), zoo.weights(name)):
        typer.echo(line)


@app.command("train")
def train(
    name: Annotated[str, typer.Argument(help="A recipe of the zoo, such as mnist-unet.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run. [default: runs/NAME]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    export: Annotated[Path | None, typer.Option(help="Folder for weights and card. [default: the zoo's own]")] = None,
) -> None:
    """Train a model of the zoo again from its recipe, and write its weights and its card."""
    from diffusion_book import zoo
    from diffusion_book.cli.train import start
    from diffusion_book.data import pictures
    from diffusion_book.training import RunConfig
    from diffusion_book.zoo import making

    config, folder = RunConfig.from_file(zoo.recipe(name)), export or zoo.WEIGHTS
    pictures.check_writable(folder / f"{name}.safetensors", "give a folder that can be, by --export")
    trainer = start(config, out or Path("runs") / name, resume)
    if trainer.accelerator.is_main_process:
        for path in making.export(trainer, name, f"diffusion-book zoo train {name}", folder):
            typer.echo(f"weights: {path}, card: {path.with_suffix('.json')}")


def _line(card: "Card", weights: Path) -> str:
    """A model in one line: its name, what it is, its size, and the first thing that was measured, or the loss."""
    assert card.recipe is not None  # a model of the zoo has one
    what = f"{card.recipe.network['kind']} on {card.recipe.data}"
    loss_last = sorted(card.metrics.items(), key=lambda metric: metric[0] == "training_loss")
    measured = next(iter(_flat(dict(loss_last))), "")
    return f"{card.name:24}{what:26}{_megabytes(weights):10}{measured}"


def _lines(card: "Card", weights: Path) -> Iterator[str]:
    """A card as lines of a name and what is known."""
    from diffusion_book.models.card import threads_in_words

    recipe, made = card.recipe, card.hardware
    where = f"{made.get('gpu') or made['cpu']}, {threads_in_words(made['threads'])}"
    assert recipe is not None  # a model of the zoo has one
    network = ", ".join(f"{name} {value}" for name, value in recipe.network.items() if name != "kind")
    yield card.name
    rows = {
        "network": f"{recipe.network['kind']}{f' ({network})' if network else ''}, {_megabytes(weights)}",
        "learned": _task(recipe),
        "trained on": f"{recipe.data}, {card.images_seen:,} images in {card.step:,} steps, seed {card.seed}",
        "took": f"{duration(card.wall_time or 0)} on {where}",
        "made by": card.command,
        "versions": ", ".join(f"{name} {value}" for name, value in card.versions.items()),
        "SHA-256": f"{card.sha256}, of the file",
    }
    if card.weights_sha256:
        rows[""] = f"{card.weights_sha256}, of the weights as they are loaded"
    for name, value in rows.items():
        yield f"  {name:12}{value}"
    yield "  measured"
    for text in _flat(card.metrics):
        yield f"    {text}"


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 13 min, 1 h 5 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


WITHOUT_DRAWING = {
    "classification": "to name the class",
    "noisy-classification": "to name the class of a picture with noise",
    "contrastive": "to find the caption of a picture, and the picture of a caption",
    "autoencoding": "to find pictures again from few numbers",
}


def _task(recipe: "RunConfig") -> str:
    return (
        f"to predict {recipe.denoising.prediction} on the schedule {recipe.denoising.schedule}"
        if recipe.denoises
        else WITHOUT_DRAWING[recipe.objective["kind"]]
    )


def _flat(metrics: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Each number with the names that lead to it: `FCD-MNIST mean 1.2`."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name} ")
        else:
            yield f"{above}{name} {f'{value:.4g}' if isinstance(value, float) else value}"


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.2f} MB"
