"""Pictures by which one sees a network learn: always of the same seeds and captions. Chapter 11."""

import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffusion_book.data import Examples, Scenes, pictures
from diffusion_book.models.card import Card
from diffusion_book.models.conditioner import Wanted
from diffusion_book.models.draw import draw
from diffusion_book.models.files import codec_of
from diffusion_book.models.model import Model
from diffusion_book.nn import TextUNetConfig
from diffusion_book.schedules import Discrete
from diffusion_book.training import RunConfig
from diffusion_book.training.config import build_data
from diffusion_book.training.trainer import Preview


def preview_of(config: RunConfig, data: Examples | None = None) -> Preview:
    """A function that draws what a network can do, into a file: each class twice, or sixteen of captions or none.

    Of an autoencoder sixteen of the data's pictures, and below each eight what becomes of them there and back.

    Args:
        data: that it trains on, whose captions are drawn where these are one's own; None for what the configuration
            names.
    """
    if config.network["kind"] == "autoencoder":
        return functools.partial(_there_and_back, data or build_data(config))
    codec, said = codec_of(config.codec), captions_to_draw(data)

    def preview(network: nn.Module, path: Path) -> None:
        schedule = config.denoising.build_schedule()
        model = Model.of(network, schedule, config.denoising.prediction, Card(recipe=config), codec=codec)
        described: Any = network.config
        columns = min(described.classes, 10) or 4
        count, wanted = 2 * columns if described.classes else 16, _wanted(described, columns, said)
        steps = min(18, schedule.T) if isinstance(schedule, Discrete) else 18
        pictures.write(draw(model, wanted, range(count), steps=steps), path, columns, range(count))

    return preview


@torch.no_grad()
def _there_and_back(data: Examples, network: nn.Module, path: Path) -> None:
    x = data.take(torch.arange(min(16, len(data)), device="cpu"))[0]
    device = next(network.parameters()).device
    x_hat = network(x.to(device))[0].cpu().float().clamp(-1, 1)
    rows = torch.cat([part for both in zip(x.split(8), x_hat.split(8)) for part in both])
    pictures.write(rows, path, min(8, len(x)), range(len(rows)))


def captions_to_draw(data: Examples | None) -> list[str]:
    """Sixteen captions: of the test split of `scenes`, or some of those that there are."""
    words = getattr(data, "vocabulary", None)
    if data is None or words is None:
        return Scenes("test").captions(torch.arange(16, device="cpu"))
    _, told = data.take(torch.arange(min(len(data), 256), device="cpu"))
    return list(dict.fromkeys(words.decode(told["tokens"])))[:16]


def _wanted(described: Any, columns: int, said: list[str]) -> Wanted:
    if isinstance(described, TextUNetConfig):
        return said
    return range(columns) if described.classes else None
