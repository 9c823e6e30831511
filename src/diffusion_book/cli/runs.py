"""A run as the command line starts it: with previews, a picture at the end, and how to go on if it is stopped."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import typer
from torch import nn

from diffusion_book.cli import drawing, pictures
from diffusion_book.data import DATASETS, Images
from diffusion_book.schedules import Discrete
from diffusion_book.training import RunConfig, Trainer, checkpoint
from diffusion_book.training.config import build_schedule
from diffusion_book.zoo import Pretrained

if TYPE_CHECKING:
    from diffusion_book.training.trainer import Preview


def run(config: RunConfig, folder: Path, resume: bool, data: Images | None = None) -> Trainer:
    """Train to the last step, and end with `samples.png` in the folder where the network can draw.

    Raises:
        KeyboardInterrupt: the person did; the message says how to go on.
    """
    preview = preview_of(config) if config.denoises else None
    trainer = Trainer(config, folder, preview, data)
    if trainer.accelerator.is_main_process:
        typer.echo(_summary(trainer))
        if not trainer.accelerator.log_with:
            typer.echo(
                "curves: none, TensorBoard is not installed (pip install 'diffusion-book[train]'); see log.jsonl"
            )
    averaged = None
    with contextlib.suppress(KeyboardInterrupt):
        averaged = trainer.run(resume)
    if averaged is None:
        raise KeyboardInterrupt(_stopped(trainer))
    if preview and trainer.accelerator.is_main_process:
        with trainer.writing():
            preview(averaged, folder / "samples.png")
        typer.echo(f"pictures: {folder / 'samples.png'}; more of them: diffusion-book sample --model {folder}")
    return trainer


def preview_of(config: RunConfig) -> "Preview":
    """A function that draws what the averaged network can do: the same seeds always, so that one sees it learn."""

    def preview(network: nn.Module, path: Path) -> None:
        card = {"recipe": config.to_dict()}
        schedule = build_schedule(config)
        model = Pretrained(network, schedule, config.prediction, card)
        count, y, columns = drawing.preview_labels(int(network.config.classes))  # type: ignore[union-attr, arg-type]
        steps = min(18, schedule.T) if isinstance(schedule, Discrete) else 18
        x = torch.cat(list(drawing.batches(model, range(count), y, steps=steps)))
        pictures.write(x, path, columns, range(count))

    return preview


def side_of(config: RunConfig, data: Images) -> int | None:
    """The side of a folder's images, to be kept with the run: without it nobody knows later what to sample."""
    if config.data in DATASETS or config.size is not None:
        return config.size
    height, width = data.x.shape[2:]
    if height != width:
        raise ValueError(f"the images are {width}×{height} pixels; give size, to crop them to squares of that side")
    return int(height)


def _summary(trainer: Trainer) -> str:
    C, H, W = trainer.data.shape
    network = trainer.accelerator.unwrap_model(trainer.network)
    weights = sum(parameter.numel() for parameter in network.parameters())
    processes = trainer.accelerator.num_processes
    where = trainer.device if processes == 1 else f"{processes} × {trainer.device.type}"
    return (
        f"{trainer.folder}: {len(trainer.data)} images {C}×{H}×{W} of {trainer.config.data}, "
        f"{trainer.config.network['kind']} of {weights / 1e6:.2g} M weights, on {where}"
    )


def _stopped(trainer: Trainer) -> str:
    last = checkpoint.latest(trainer.folder / "checkpoints")
    if last is None:
        return f"stopped at step {trainer.step}, before the first checkpoint; nothing is kept"
    return f"stopped at step {trainer.step}; the same command with --resume goes on from {last}"
