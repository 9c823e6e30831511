"""`diffusion-book export`: a model to take elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from diffusion_book._names import unknown


def export(
    model: Annotated[
        str, typer.Option("--model", "-m", help="A name of the zoo, the folder of a run, or a .safetensors file.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder (diffusers) or a file (safetensors).")],
    format: Annotated[str, typer.Option("--format", "-f", help="diffusers or safetensors.")] = "diffusers",
    size: Annotated[int | None, typer.Option(min=1, help="Side in pixels, for a file that does not say.")] = None,
) -> None:
    """Write a model for `diffusers`, or as one small file of weights in half precision.

    `diffusers` gets a folder for DiffusionPipeline.from_pretrained; the file of weights is what --model takes.
    What a network with patches draws in `diffusers` are unshuffled pictures, which
    torch.nn.functional.pixel_shuffle puts together.
    """
    if format == "onnx":
        raise ValueError("ONNX is not written yet; choose --format diffusers or safetensors")
    if format not in ("diffusers", "safetensors"):
        raise ValueError(unknown("format", format, ("diffusers", "safetensors")))

    from diffusion_book.cli import carry, models, pictures

    pictures.check_writable(out, folder=format == "diffusers")
    found = models.find(model)
    if format == "diffusers":
        patch = carry.to_diffusers(found, out, size)
    else:
        carry.to_safetensors(found, out)
        patch = 1
    typer.echo(f"{format}: {out}")
    if patch > 1:
        typer.echo(
            "what is drawn with it are unshuffled pictures: of a tensor x of them, "
            f"torch.nn.functional.pixel_shuffle(x, {patch}) makes the pictures"
        )
