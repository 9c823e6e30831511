"""What a run leaves in its folder. Chapter 11."""

import json
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
        **_logged(folder, step, config.batch_size),
    )
    return network.to(device).eval().requires_grad_(False), card


def _described(config: RunConfig) -> dict[str, Any]:
    """The network with the channels and classes that `training.config.build_network` takes from the data."""
    if config.data in DATASETS:
        card = describe(config.data)
        return {"image_channels": card.channels, **_classes(config, card.classes), **config.network}
    return {"image_channels": 3, **_classes(config, len(config.class_names)), **config.network}


def _classes(config: RunConfig, count: int) -> dict[str, int]:
    return {"classes": count} if count and config.network["kind"] != "autoencoder" else {}


def _logged(folder: Path, step: int, batch_size: int) -> dict[str, Any]:
    """What the log adds to a card; a run without one, or with an empty one, is a model all the same."""
    if not (folder / "log.jsonl").is_file() or not _log(folder):
        return {}
    return {
        "wall_time": wall_time(folder, step * batch_size),
        "metrics": {"training_loss": training_loss(folder, step)},
    }


def wall_time(run: Path, images: int) -> float:
    """Seconds that a run spent until it had seen so many images, from its log; what a crash threw away is not in it."""
    seconds, before = 0.0, 0
    for line in _log(run):
        seconds += max(0, min(line["images"], images) - before) / line["images_per_second"]
        before = line["images"]
    return round(seconds, 1)


def training_loss(run: Path, step: int) -> float:
    """The last mean that the log has up to that step, of the batches since the line before."""
    lines = [line for line in _log(run) if line["step"] <= step] or _log(run)
    return float(f"{lines[-1]['loss']:.4g}")


def _log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
