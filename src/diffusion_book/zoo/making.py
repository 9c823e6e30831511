"""From a recipe's finished run to weights of the zoo, with a card that says how they were made. Chapter 11."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from diffusion_book import data
from diffusion_book.evaluation import weights_sha256
from diffusion_book.evaluation.of_model import classifier_metrics
from diffusion_book.models import load_any, save
from diffusion_book.models.card import Card, hardware, versions
from diffusion_book.training import Trainer, checkpoint
from diffusion_book.training.config import build_network


def export(trainer: Trainer, name: str, command: str, folder: Path) -> list[Path]:
    """Write a finished run's averaged weights in half precision, and a card beside them → the files of weights.

    The steps that a recipe keeps become models of their own: one as `NAME-early`, several as `NAME-step-N`.
    """
    config = trainer.config
    one = len(config.keep_steps) == 1
    steps = {step: f"{name}-early" if one else f"{name}-step-{step}" for step in config.keep_steps}
    steps[config.steps] = name
    return [_export(trainer, step, called, command, folder) for step, called in steps.items()]


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


def _export(trainer: Trainer, step: int, called: str, command: str, folder: Path) -> Path:
    config, path = trainer.config, folder / f"{called}.safetensors"
    images = step * config.batch_size
    card = Card(
        name=called,
        sha256=_save(trainer, step, path),
        command=command,
        recipe=config,
        seed=config.seed,
        step=step,
        images_seen=images,
        wall_time=wall_time(trainer.folder, images),
        hardware=hardware(trainer.device),
        versions=versions(),
        metrics={"training_loss": training_loss(trainer.folder, step)},
    )
    # The card must lie there for the weights to be read, and what is measured are the weights as they are read.
    card.write(path)
    network = load_any(path, trainer.device).network
    measured = {} if config.denoises else classifier_metrics(network, data.load(config.data, "test"))
    metrics = {**card.metrics, **measured}
    dataclasses.replace(card, metrics=metrics, weights_sha256=weights_sha256(network)).write(path)
    return path


def _save(trainer: Trainer, step: int, path: Path) -> str:
    config = trainer.config
    _, parts = checkpoint.load(trainer.folder / "checkpoints" / checkpoint.name_of(step), only=["ema"])
    network = build_network(config, trainer.data)
    network.load_state_dict(parts["ema"])
    if not config.denoises:
        return save(path, network)
    return save(path, network, config.denoising.schedule, config.denoising.T, config.denoising.prediction)


def _log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
