"""Weights of the zoo and their cards: what a run has to say about how it was made."""

import json
import math
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from diffusion_book import data, evaluation, zoo
from diffusion_book._files import write_whole
from diffusion_book.data import Images
from diffusion_book.training import Trainer, checkpoint
from diffusion_book.training.config import build_network


def export(trainer: Trainer, name: str, command: str, folder: Path) -> list[Path]:
    """Write a finished run's averaged weights in half precision, and a card beside them → the files of weights.

    The steps that a recipe keeps become models of their own: one as `NAME-early`, several as `NAME-step-N`.
    """
    config = trainer.config
    steps = {config.steps: name}
    for step in config.keep_steps:
        steps[step] = f"{name}-early" if len(config.keep_steps) == 1 else f"{name}-step-{step}"
    written = []
    for step, called in steps.items():
        path = folder / f"{called}.safetensors"
        sha256 = _save(trainer, step, path)
        card: dict[str, Any] = {
            "name": called,
            "sha256": sha256,
            "command": command,
            "recipe": config.to_dict(),
            "seed": config.seed,
            "step": step,
            "images_seen": step * config.batch_size,
            "wall_time": wall_time(trainer.folder, step * config.batch_size),
            "hardware": hardware(trainer.device),
            "versions": versions(),
            "metrics": {"training_loss": training_loss(trainer.folder, step)},
        }
        # The card must lie there for the weights to be read, and what is measured are the weights as they are read.
        write_card(path, card)
        model = zoo.load_file(path, trainer.device)
        card["weights_sha256"] = evaluation.weights_sha256(model.network)
        if not config.denoises:
            card["metrics"] |= classifier_metrics(model, data.load(config.data, "test"))
        write_card(path, card)
        written.append(path)
    return written


def write_card(weights: Path, card: dict[str, Any]) -> None:
    """A card beside its weights, whole or as it was."""
    write_whole(weights.with_suffix(".json"), (json.dumps(card, indent=1) + "\n").encode())


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


def classifier_metrics(classifier: zoo.Pretrained, images: Images) -> dict[str, Any]:
    """The share of images that a classifier names rightly, in all and of each class; how many they are, and which.

    Raises:
        ValueError: the images have no labels.
    """
    right, N = evaluation.named_rightly(classifier.network, images), len(images)
    y = images.conditions["y"]
    share = int(right.sum()) / N
    return {
        "accuracy": share,
        "standard error": math.sqrt(share * (1 - share) / N),
        "N": N,
        "split": images.name,
        "accuracy by class": {str(label): float(right[y == label].double().mean()) for label in y.unique().tolist()},
        "training runs": 1,
        "notes": "Of a single training run; the standard error is binomial, that of measuring it on N images.",
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """What computed: the processor, the threads it used, and the GPU where there was one."""
    found = {"cpu": _processor(), "threads": torch.get_num_threads()}
    return found if device.type != "cuda" else {"gpu": torch.cuda.get_device_name(device), **found}


def versions() -> dict[str, str]:
    """Of what decides about the numbers."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusion_book": version("diffusion-book"),
    }


def _save(trainer: Trainer, step: int, path: Path) -> str:
    config = trainer.config
    _, parts = checkpoint.load(trainer.folder / "checkpoints" / checkpoint.name_of(step), only=["ema"])
    network = build_network(config, trainer.data)
    network.load_state_dict(parts["ema"])
    if not config.denoises:
        return zoo.save(path, network)
    return zoo.save(path, network, config.schedule, config.T, config.prediction)


def _log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()
