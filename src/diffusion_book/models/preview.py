"""Pictures by which one sees a network learn: always of the same seeds. Chapter 11."""

from pathlib import Path
from typing import Any

from torch import nn

from diffusion_book.data import pictures
from diffusion_book.models.card import Card
from diffusion_book.models.draw import draw
from diffusion_book.models.model import Model
from diffusion_book.schedules import Discrete
from diffusion_book.training import RunConfig
from diffusion_book.training.trainer import Preview


def preview_of(config: RunConfig) -> Preview:
    """A function that draws what a network can do, into a file: each class twice, or sixteen pictures of no class."""

    def preview(network: nn.Module, path: Path) -> None:
        schedule = config.denoising.build_schedule()
        model = Model.of(network, schedule, config.denoising.prediction, Card(recipe=config))
        described: Any = network.config
        columns = min(described.classes, 10) or 4
        count, wanted = (2 * columns, range(columns)) if described.classes else (16, None)
        steps = min(18, schedule.T) if isinstance(schedule, Discrete) else 18
        pictures.write(draw(model, wanted, range(count), steps=steps), path, columns, range(count))

    return preview
