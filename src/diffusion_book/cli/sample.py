"""`diffusion-book sample`: pictures from a model."""

import math
from pathlib import Path
from typing import Annotated

import typer


def sample(
    model: Annotated[
        str, typer.Option("--model", "-m", help="A name of the zoo, the folder of a run, or a .safetensors file.")
    ],
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", "-c", help="What to draw: 7, or 0,1,2 in turn; may be repeated. [default: anything]"),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="Pictures in all. [default: 16, or each class equally]")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="A grid (.png, .jpg, .webp), an array (.npz, .npy), or a folder.")
    ] = Path("samples.png"),
    steps: Annotated[int, typer.Option(min=1, help="Of the sampler.")] = 18,
    sampler: Annotated[
        str, typer.Option(help="dpm_solver, unipc, heun, euler, euler_ancestral, ddim or ddpm.")
    ] = "dpm_solver",
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
    interval: Annotated[
        tuple[float, float], typer.Option(help="Guide only where the noise σ is above the first, up to the second.")
    ] = (0.0, math.inf),
    seed: Annotated[int, typer.Option(help="Of the first picture; the next has the next seed.")] = 0,
    columns: Annotated[int | None, typer.Option(min=1, help="Of the grid.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Side in pixels, for a file that does not say.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at once; changes memory, not pictures.")] = 64,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, … [default: the GPU if there is one]")] = None,
) -> None:
    """Draw pictures from a model.

    The same seed gives the same picture, whatever is drawn beside it.

    \b
    Some sevens, in seconds:
    `diffusion-book sample --model mnist-unet --class 7 --steps 18 -o sevens.png`
    """
    from diffusion_book.cli import pictures
    from diffusion_book.cli.devices import pick_device

    pictures.check_out(out)
    wanted = _numbers(classes or [])
    count = count or -(-16 // max(1, len(wanted))) * max(1, len(wanted))
    if not -(2**63) <= seed <= 2**63 - count:
        raise ValueError(f"the seeds of {count} pictures must lie between −2^63 and 2^63 − 1, got --seed {seed}")

    import torch

    from diffusion_book.cli import drawing, models

    where = pick_device(device)
    found = models.find(model, where)
    bad = None if bad_model is None else models.find(bad_model, where)
    seeds = range(seed, seed + count)
    y = torch.tensor([wanted[i % len(wanted)] for i in range(count)]) if wanted else None
    guided = drawing.Guidance(1.0 if guidance is None else guidance, bad, *interval)
    by_card = guidance is None and wanted and bad is None and guided.everywhere
    if by_card:
        guided = drawing.recommended(found)
    x = torch.cat(list(drawing.batches(found, seeds, y, sampler, steps, guided, size, batch_size, progress=True)))
    if columns is None:
        columns = len(wanted) if 1 < len(wanted) <= 12 else min(count, max(1, round(count**0.5)))
    pictures.write(x, out, columns, seeds, y)
    typer.echo(f"{count} pictures: {out}")
    if by_card and guided.w != 1:
        typer.echo(f"guidance: {guided.w:g} {guided.where}, which the model's card found best")


def _numbers(texts: list[str]) -> list[int]:
    parts = [part.strip() for text in texts for part in text.split(",")]
    try:
        return [int(part) for part in parts]
    except ValueError:
        raise ValueError(f"a class is a whole number, or several between commas, got {', '.join(texts)!r}") from None
