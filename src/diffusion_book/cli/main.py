"""The commands, gathered."""

import io
import os.path
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from diffusion_book.cli import data, zoo
from diffusion_book.cli.errors import Commands
from diffusion_book.cli.evaluate import evaluate
from diffusion_book.cli.export import export
from diffusion_book.cli.sample import sample
from diffusion_book.cli.train import train


class CommandLine(Commands):
    """The commands, behind the door through which words come in and go out."""

    def main(self, args: Sequence[str] | None = None, *others: Any, **options: Any) -> Any:
        """Run a command line, with `~` for the home wherever it begins a path, on a terminal of any alphabet."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # σ is not worth losing a report for
        words = sys.argv[1:] if args is None else args
        return super().main([_at_home(word) for word in words], *others, **options)


def _at_home(word: str) -> str:
    """What a shell does for `-o ~/x` alone, also in `--out=~/x` and `folder:~/x`."""
    return re.sub(r"(^|^-\w|=|folder:)(~[^/\\]*)", lambda found: found[1] + os.path.expanduser(found[2]), word)


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
app.command("export", short_help="Write a model for others to read.")(export)
app.add_typer(data.app, name="data")
app.add_typer(zoo.app, name="zoo")
