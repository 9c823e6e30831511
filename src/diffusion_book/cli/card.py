"""`diffusion-book card`: a run as others get it, with all that should be known of it."""

from pathlib import Path
from typing import Annotated

import typer

from diffusion_book.cli import options


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
    from diffusion_book._files import expanded
    from diffusion_book.evaluation.publish import publish

    folder = expanded(out)
    found = publish(expanded(run), folder, name, licence, source, use, size)
    files = (f"{found.name}.safetensors", f"{found.name}.json", "README.md", "samples.png")
    typer.echo(f"published: {', '.join(str(folder / file) for file in files)}")
    for missing in (field for field in ("licence", "source", "use") if not getattr(found, field)):
        typer.echo(f"not said: {missing}; only you know it, give --{missing}", err=True)
