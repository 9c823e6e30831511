"""`diffusion-book data`: the sets of images that can be trained on, and a folder made ready for it."""

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
    size: Annotated[
        int | None, typer.Option(min=1, help="Side in pixels, for a folder or scenes. [default: 32]")
    ] = None,
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

    import torch

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
        pictures.write(images.take(torch.tensor(index))[0], out, columns=min(10, shown), seeds=index)
        typer.echo(f"{shown} of them: {out}")


@app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures; it is never written to.")],
    clean: Annotated[Path | None, typer.Option(help="A new folder for a copy without what should not stay.")] = None,
    smallest: Annotated[int, typer.Option(min=1, help="Pixels of the shorter side below which one is tiny.")] = 32,
    near: Annotated[int, typer.Option(min=0, max=64, help="Bits of 64 in which near-copies may differ.")] = 4,
) -> None:
    """Say what is in a folder: broken files, sizes, copies, near-copies, bursts. With --clean, copy what is sound."""
    from diffusion_book import data
    from diffusion_book.data.report import new_folder

    if clean is not None:
        new_folder(clean, folder)
    report = data.check(folder, smallest, near, progress=True)
    typer.echo(str(report))
    if clean is not None:
        typer.echo(f"{data.clean(report, clean):,} pictures copied to {clean}")


@app.command("split")
def split(
    folder: Annotated[Path, typer.Argument(help="A folder of pictures; it is never written to.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder, for train and held-out in it.")],
    share: Annotated[float, typer.Option(help="Of each subfolder, for held-out.")] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the random order.")] = 0,
) -> None:
    """Copy a folder's pictures into two, to train on and to hold out. What is alike stays on one side."""
    from diffusion_book import data

    found = data.split_folder(folder, out, share, seed, progress=True)
    alike = sum(len(group) for group in found.together)
    typer.echo(f"{out / 'train'}: {len(found.train):,} pictures; {out / 'held-out'}: {len(found.held_out):,}")
    typer.echo(f"{alike:,} pictures are alike, in {len(found.together):,} groups; each stays on one side")
