"""What a run leaves in its folder. Chapter 11."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffusion_book.data import DATASETS, describe
from diffusion_book.models.card import Card
from diffusion_book.nn import build
from diffusion_book.training import CheckpointError, RunConfig, checkpoint


def newest(folder: Path, device: torch.device | str) -> tuple[nn.Module, Card]:
    """The averaged network at the newest checkpoint, and what is known of it: a card with the run's recipe.

    Raises:
        CheckpointError: there is no checkpoint yet, or a damaged one.
    """
    config = RunConfig.from_file(folder / "config.json")
    last = checkpoint.latest(folder / "checkpoints")
    if last is None:
        raise CheckpointError(f"{folder} has no checkpoint yet; train on with --resume")
    step, parts = checkpoint.load(last, only=["ema"])
    network = build(_described(config))
    try:
        network.load_state_dict(parts["ema"])
    except RuntimeError as error:
        raise CheckpointError(f"{last} is not of the network in {folder / 'config.json'}: {error}") from error
    card = Card(
        name=folder.resolve().name,
        recipe=config,
        seed=config.seed,
        step=step,
        images_seen=step * config.batch_size,
    )
    return network.to(device).eval().requires_grad_(False), card


def _described(config: RunConfig) -> dict[str, Any]:
    """The network with the channels and classes that `training.config.build_network` takes from the data."""
    if config.data in DATASETS:
        card = describe(config.data)
        return {"image_channels": card.channels, "classes": card.classes, **config.network}
    return {"image_channels": 3, "classes": len(config.class_names), **config.network}
