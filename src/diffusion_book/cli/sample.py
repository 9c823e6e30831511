"""`diffusion-book sample`: pictures from a model."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from diffusion_book.cli import options


def sample(
    model: options.Model,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class", "-c", help="What to draw: 7, or 0,1,2 in turn, or names; may be repeated. [default: anything]"
        ),
    ] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="A caption, for a model that reads; may be repeated, for several in turn."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="An unknown word of a prompt is an error, and not taken for the nearest.")
    ] = False,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Pictures in all. [default: 16, or each class equally]")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A grid (.png, .jpg, .webp), an array (.npz, .npy), or a folder.")
    ] = Path("samples.png"),
    steps: options.Steps = 18,
    sampler: options.Sampler = "dpm_solver",
    guidance: Annotated[
        float | None,
        typer.Option(
            help="1 is none; above, more typical of its class and less varied. [default: what the model's card found "
            "best, where it does, else 1]"
        ),
    ] = None,
    bad_model: Annotated[
        str | None, typer.Option(help="Guide away from this worse model, such as mnist-unet-early.")
    ] = None,
    interval: options.Interval = (0.0, math.inf),
    seed: Annotated[int, typer.Option(help="Of the first picture; the next has the next seed.")] = 0,
    columns: Annotated[int | None, typer.Option(min=1, help="Of the grid.")] = None,
    size: options.Size = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once; changes memory, not pictures.")] = 64,
    device: options.Device = None,
) -> None:
    """Draw pictures from a model.

    The same seed gives the same picture, whatever is drawn beside it.

    \b
    Some sevens, in seconds:
    `diffusion-book sample --model mnist-unet --class 7 --steps 18 -o sevens.png`
    A caption, for a model that was trained with some:
    `diffusion-book sample --model runs/scenes --prompt "a small red cat, on yellow" --guidance 3`
    """
    from diffusion_book.data import pictures

    pictures.check_out(out)
    if classes and prompts:
        raise ValueError("--class is for a model of classes and --prompt for one that reads; leave one out")
    words: list[int | str] = [int(w) if re.fullmatch(r"[+-]?\d+", w) else w for w in _words(classes or [])]
    wanted = words or list(prompts or [])
    count = count or -(-16 // max(1, len(wanted))) * max(1, len(wanted))
    if not -(2**63) <= seed <= 2**63 - count:
        raise ValueError(f"the seeds of {count} pictures must lie between −2^63 and 2^63 − 1, got --seed {seed}")
    labels = [wanted[i % len(wanted)] for i in range(count)] if wanted else None

    from diffusion_book import models

    where = options.pick_device(device)
    found = models.load(model, where, size)
    found = replace(found, conditioner=models.asked_of(found.conditioner, model, classes, prompts, strict))
    by_card = guidance is None and wanted and bad_model is None and interval == (0, math.inf)
    if by_card:
        guided = found.recommended
    else:
        bad = None if bad_model is None else models.load(bad_model, where)
        guided = models.Guidance(1.0 if guidance is None else guidance, interval, bad)
    seeds = range(seed, seed + count)
    x = models.draw(
        *(found, labels, seeds), sampler=sampler, steps=steps, guidance=guided, batch_size=batch_size, progress=True
    )
    if columns is None:
        columns = len(wanted) if 1 < len(wanted) <= 12 else min(count, max(1, round(count**0.5)))
    y = None if labels is None else found.conditioner.conditions(labels, count).get("y")
    pictures.write(x, out, columns, seeds, None if y is None else y.tolist())
    typer.echo(f"{count} pictures: {out}")
    if by_card and guided.w != 1:
        typer.echo(f"guidance: {guided.w:g} {guided.where}, which the model's card found best")


def _words(texts: list[str]) -> list[str]:
    return [part.strip() for text in texts for part in text.split(",")]
