"""The commands, gathered."""

import io
import sys
from typing import Annotated, Any

import typer

from diffusion_book.cli import data, zoo
from diffusion_book.cli.card import card
from diffusion_book.cli.errors import Commands
from diffusion_book.cli.evaluate import evaluate
from diffusion_book.cli.export import export
from diffusion_book.cli.sample import sample
from diffusion_book.cli.train import train


class CommandLine(Commands):
    """The commands, on a terminal of any alphabet."""

    def main(self, *words: Any, **options: Any) -> Any:
        """Run a command line; what the terminal cannot show is shown as its number."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # σ is not worth losing a report for
        return super().main(*words, **options)


app = typer.Typer(
    name="diffusion-book",
    cls=CommandLine,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain text: it starts at once, and reads the same in a terminal, a file and the book
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
"""The command line; `diffusion-book` in a shell calls it."""


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"diffusion-book {version('diffusion-book')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Denoising diffusion models: train them on your own pictures, sample, measure, and carry them away.

    Begin with `diffusion-book sample --model mnist-unet --class 7 -o sevens.png`, or with
    `diffusion-book train --data folder:my/pictures`. Each command has its own --help.
    """


app.command("train", short_help="Train a model, on your own pictures if you like.")(train)
app.command("sample")(sample)
app.command("evaluate", short_help="Measure a model beside real pictures.")(evaluate)
app.command("card", short_help="Write a run for others: weights, card, pictures.")(card)
app.command("export", short_help="Write a model for others to read.")(export)
app.add_typer(data.app, name="data")
app.add_typer(zoo.app, name="zoo")
