"""`diffusion-book zoo`: the models that come with the package, and how they were made."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Models that come with the package.")


@app.command("list")
def list_models() -> None:
    """List the models whose weights are here, and the recipes for which there are none yet."""
    from diffusion_book import zoo
    from diffusion_book.cli import reading

    for name in zoo.names():
        typer.echo(reading.line(zoo.card(name), zoo.WEIGHTS / f"{name}.safetensors"))
    for name in sorted(set(zoo.recipes()) - set(zoo.names())):
        typer.echo(f"{name:24}a recipe without weights: diffusion-book zoo train {name}")


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="A model of the zoo, such as mnist-unet.")]) -> None:
    """Print a model's card: how it was made, on what, and what was measured; or its recipe, if it has no weights."""
    from diffusion_book import zoo
    from diffusion_book.cli import reading

    if name in zoo.recipes() and name not in zoo.names():
        text = zoo.recipe(name).read_text(encoding="utf-8")
        typer.echo(f"{name} has no weights here; diffusion-book zoo train {name} makes them by this recipe:\n\n{text}")
        return
    for line in reading.card(zoo.card(name), zoo.WEIGHTS / f"{name}.safetensors"):
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
    from diffusion_book.cli import cards, pictures
    from diffusion_book.cli.runs import run
    from diffusion_book.training import RunConfig

    config = RunConfig.from_file(zoo.recipe(name))
    folder = export or zoo.WEIGHTS
    pictures.check_writable(folder / f"{name}.safetensors", "give a folder that can be, by --export")
    trainer = run(config, out or Path("runs") / name, resume)
    if trainer.accelerator.is_main_process:
        for path in cards.export(trainer, name, f"diffusion-book zoo train {name}", folder):
            typer.echo(f"weights: {path}, card: {path.with_suffix('.json')}")
