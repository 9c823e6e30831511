"""From a recipe's finished run to weights of the zoo, with a card that says how they were made. Chapter 11."""

import dataclasses
from pathlib import Path
from typing import Any

from diffusion_book import data
from diffusion_book.evaluation.noisy import noisy_metrics
from diffusion_book.evaluation.of_model import autoencoder_metrics, classifier_metrics
from diffusion_book.evaluation.retrieval import retrieval
from diffusion_book.models import TrainedAutoencoder, TrainedClassifier, TrainedClip, load_any, save
from diffusion_book.models.card import Card, hardware, versions
from diffusion_book.models.codec import measure
from diffusion_book.models.files import Trained, codec_of
from diffusion_book.models.runs import training_loss, wall_time
from diffusion_book.nn import weights_sha256
from diffusion_book.training import Trainer, checkpoint
from diffusion_book.training.config import build_network
from diffusion_book.training.objectives import NoisyClassification


def export(trainer: Trainer, name: str, command: str, folder: Path) -> list[Path]:
    """Write a finished run's averaged weights in half precision, and a card beside them → the files of weights.

    The steps that a recipe keeps become models of their own: one as `NAME-early`, several as `NAME-step-N`.
    """
    config = trainer.config
    early = [step for step in config.keep_steps if step != config.steps]
    steps = {step: f"{name}-early" if len(early) == 1 else f"{name}-step-{step}" for step in early}
    steps = {config.steps: name, **steps}
    return [_export(trainer, step, called, command, folder) for step, called in steps.items()]


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
    found = load_any(path, trainer.device)
    network, metrics = found.network, {**card.metrics, **_measured(found, trainer)}
    dataclasses.replace(card, metrics=metrics, weights_sha256=weights_sha256(network)).write(path)
    return path


def _measured(found: Trained, trainer: Trainer) -> dict[str, Any]:
    """What is soon measured; of a model that draws `diffusion-book evaluate` says more."""
    if isinstance(found, TrainedClip):
        return retrieval(found)
    if isinstance(found, TrainedAutoencoder) and trainer.held_out is not None:
        return autoencoder_metrics(found.network, trainer.held_out.data)
    if not isinstance(found, TrainedClassifier):
        return {}
    unseen = data.load(trainer.config.data, "test")
    if isinstance(trainer.objective, NoisyClassification):
        return noisy_metrics(found.network, trainer.objective.schedule, unseen)
    return classifier_metrics(found.network, unseen)


def _save(trainer: Trainer, step: int, path: Path) -> str:
    config = trainer.config
    _, parts = checkpoint.load(trainer.folder / "checkpoints" / checkpoint.name_of(step), only=["ema"])
    network: Any = build_network(config, trainer.data)
    network.load_state_dict(parts["ema"])
    if config.network["kind"] == "autoencoder":
        measure(network.eval(), trainer.data)
    if not config.denoises:
        return save(path, network)
    how = config.denoising
    return save(path, network, how.schedule, how.T, how.prediction, codec_of(config.codec))
