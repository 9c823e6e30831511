"""`diffusion-book data`: the sets of images that can be trained on."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Sets of images, and folders of your own.")


@app.command("list")
def list_sets() -> None:
    """List the named sets: what they are, how many images, and what they cost to download."""
    from diffusion_book.data import DATASETS, describe

    for name in DATASETS:
        card = describe(name)
        cost = f"{card.download} MB to download" if card.download else "no network needed"
        what = card.what.partition(",")[0]
        typer.echo(f"{name:15}{card.train + card.test:>7,} × {card.channels}×{card.size}×{card.size}  {what}; {cost}")
    typer.echo(f"{'folder:PATH':15}your own images, of any sizes, subfolders included")


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="One of `data list`, or folder:PATH.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A picture of some of its images.")] = None,
    split: Annotated[str, typer.Option(help="train or test.")] = "train",
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Images in the picture, evenly spaced.")] = 40,
    size: Annotated[int | None, typer.Option(min=1, help="Side in pixels, for a folder. [default: 32]")] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out a folder's files that cannot be read.")
    ] = False,
) -> None:
    """Say what a set is, where it is from and on what terms; look at it with -o. A folder is read to the last file."""
    from diffusion_book.data import DATASETS, describe

    if name in DATASETS:
        card = describe(name)
        rows = {
            "what": card.what,
            "images": f"{card.train:,} to train, {card.test:,} to test; {card.channels}×{card.size}×{card.size}",
            "classes": card.classes,
            "download": f"{card.download} MB" if card.download else "none",
            "source": card.source,
            "licence": card.licence,
            "to cite": card.citation,
        }
        typer.echo("\n".join([name, *(f"  {row:10}{text}" for row, text in rows.items())]))
        if out is None:
            return

    from diffusion_book.data import load, pictures

    if out is not None:
        pictures.check_grid(out)
    folder = name.startswith("folder:")
    images = load(name, split, size or (32 if folder else None), skip_broken=skip_broken)
    if folder:
        _, C, H, W = images.x.shape
        typer.echo(f"{name}: {len(images):,} images, read as {C}×{H}×{W}")
    if out is not None:
        shown = min(count, len(images))
        index = [i * len(images) // shown for i in range(shown)]
        pictures.write(images.x[index], out, columns=min(10, shown), seeds=index)
        typer.echo(f"{shown} of them: {out}")
