"""Pictures by which one sees a network learn: always of the same seeds and captions. Chapter 11."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffusion_book.data import Scenes, pictures
from diffusion_book.models.card import Card
from diffusion_book.models.conditioner import Wanted
from diffusion_book.models.draw import draw
from diffusion_book.models.model import Model
from diffusion_book.nn import TextUNetConfig
from diffusion_book.schedules import Discrete
from diffusion_book.training import RunConfig
from diffusion_book.training.trainer import Preview


def preview_of(config: RunConfig) -> Preview:
    """A function that draws what a network can do, into a file: each class twice, or sixteen of captions or none."""

    def preview(network: nn.Module, path: Path) -> None:
        schedule = config.denoising.build_schedule()
        model = Model.of(network, schedule, config.denoising.prediction, Card(recipe=config))
        described: Any = network.config
        columns = min(described.classes, 10) or 4
        count, wanted = 2 * columns if described.classes else 16, _wanted(described, columns)
        steps = min(18, schedule.T) if isinstance(schedule, Discrete) else 18
        pictures.write(draw(model, wanted, range(count), steps=steps), path, columns, range(count))

    return preview


def _wanted(described: Any, columns: int) -> Wanted:
    if isinstance(described, TextUNetConfig):
        return Scenes("test").captions(torch.arange(16, device="cpu"))
    return range(columns) if described.classes else None
