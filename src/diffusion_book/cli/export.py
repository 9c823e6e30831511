"""`diffusion-book export`: a model to take elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffusion_book._names import check_known
from diffusion_book.cli import options

if TYPE_CHECKING:
    from diffusion_book.models.files import Trained


def export(
    model: options.Model,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder (diffusers) or a file (safetensors).")],
    format: Annotated[str, typer.Option("--format", "-f", help="diffusers or safetensors.")] = "diffusers",
    size: options.Size = None,
) -> None:
    """Write a model for `diffusers`, or as one small file of weights in half precision.

    `diffusers` gets a folder for DiffusionPipeline.from_pretrained; the file of weights is what --model takes.
    What a network with patches draws in `diffusers` are unshuffled pictures, which
    torch.nn.functional.pixel_shuffle puts together.
    """
    if format == "onnx":
        raise ValueError("ONNX is not written yet; choose --format diffusers or safetensors")
    check_known("format", format, ("diffusers", "safetensors"))

    from diffusion_book import models
    from diffusion_book.data import pictures

    pictures.check_writable(out, folder=format == "diffusers")
    found = models.load_any(model, size=size)
    patch = 1
    if format == "diffusers":
        patch = _to_diffusers(found, out)
    else:
        models.export(found, out)
    typer.echo(f"{format}: {out}")
    if patch > 1:
        typer.echo(
            "what is drawn with it are unshuffled pictures: of a tensor x of them, "
            f"torch.nn.functional.pixel_shuffle(x, {patch}) makes the pictures"
        )


def _to_diffusers(found: "Trained", folder: Path) -> int:
    """Write a folder that `DiffusionPipeline.from_pretrained` loads → p, with which `pixel_shuffle(x, p)` makes
    pictures of what is drawn there."""
    from diffusion_book.interop import save_pipeline
    from diffusion_book.models import Model, Pixels
    from diffusion_book.nn import UNet

    network, kind = found.network, type(found.network).__name__
    if not isinstance(found, Model) or not isinstance(network, UNet):
        raise ValueError(f"diffusers has no counterpart of a {kind}, only of a UNet; take --format safetensors")
    if found.codec != Pixels():
        raise ValueError("a pipeline of diffusers for latents is not written yet; take --format safetensors")
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give a folder")
    save_pipeline(folder, network, found.schedule, found.prediction, found.known_shape[1])
    return network.config.patch
