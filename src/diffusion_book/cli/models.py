"""Which model a person means: a name of the zoo, the folder of a run, or a file of weights."""

import difflib
from pathlib import Path
from typing import Any

import torch

from diffusion_book import zoo
from diffusion_book.data import DATASETS, describe
from diffusion_book.nn import build
from diffusion_book.training import CheckpointError, RunConfig, checkpoint
from diffusion_book.training.config import build_schedule


def find(model: str, device: torch.device | str = "cpu") -> zoo.Pretrained:
    """The model, ready to evaluate; its card has a "recipe" wherever one is known.

    Args:
        model: a name of the zoo; the folder of a run, for the average at its newest checkpoint; or a .safetensors file.

    Raises:
        ValueError: there is no such model. CheckpointError: a run has no checkpoint yet, or a damaged one.
    """
    path = Path(model)
    if model in zoo.names():
        return zoo.load(model, device)
    if (path / "config.json").is_file():
        return _of_run(path, device)
    if path.is_file():
        return zoo.load_file(path, device)
    near = difflib.get_close_matches(model, zoo.names(), n=1)
    raise ValueError(
        f"there is no model {model!r}: it is no run's folder, no file of weights, and no name of the zoo"
        + (f"; did you mean {near[0]!r}?" if near else f", which has {', '.join(zoo.names()) or 'none'}")
    )


def image_shape(model: zoo.Pretrained, size: int | None = None) -> tuple[int, int, int]:
    """(C, H, W) of the images that a model was trained on; `size` is for a file that does not say."""
    config: Any = model.network.config
    recipe = model.card.get("recipe", {})
    named = recipe.get("data") in DATASETS
    known = size or recipe.get("size") or (describe(recipe["data"]).size if named else None)
    if known is None:
        raise ValueError(
            "this file does not say how large its images are; give their side in pixels, such as --size 32"
        )
    stride = getattr(config, "stride", 1)
    if known % stride:
        raise ValueError(f"size = {known} does not fit this network, which needs a multiple of {stride}")
    return config.image_channels, known, known


def classes_of(model: zoo.Pretrained) -> int:
    """How many classes the model was trained with; 0 is none."""
    config: Any = model.network.config
    return int(config.classes)


def weights_with_card(model: str) -> Path:
    """The file of weights that a model is, where a card lies beside it.

    Raises:
        ValueError: it is a run, or a file without a card.
    """
    path = zoo.WEIGHTS / f"{model}.safetensors" if model in zoo.names() else Path(model)
    if path.suffix != ".safetensors" or not path.with_suffix(".json").is_file():
        raise ValueError(f"{model!r} has no card to write into; export it first, with --format safetensors")
    return path


def _of_run(folder: Path, device: torch.device | str) -> zoo.Pretrained:
    config = RunConfig.from_file(folder / "config.json")
    newest = checkpoint.latest(folder / "checkpoints")
    if newest is None:
        raise CheckpointError(f"{folder} has no checkpoint yet; train on with --resume")
    step, parts = checkpoint.load(newest, only=["ema"])
    network = build(_described(config))
    try:
        network.load_state_dict(parts["ema"])
    except RuntimeError as error:
        raise CheckpointError(f"{newest} is not of the network in {folder / 'config.json'}: {error}") from error
    network = network.to(device).eval().requires_grad_(False)
    card = {
        "name": folder.resolve().name,
        "recipe": config.to_dict(),
        "seed": config.seed,
        "step": step,
        "images_seen": step * config.batch_size,
    }
    if not config.denoises:
        return zoo.Pretrained(network, None, None, card)
    return zoo.Pretrained(network, build_schedule(config), config.prediction, card)


def _described(config: RunConfig) -> dict[str, Any]:
    """The network with the channels and classes that `training.config.build_network` takes from the data."""
    if config.data in DATASETS:
        card = describe(config.data)
        return {"image_channels": card.channels, "classes": card.classes, **config.network}
    return {"image_channels": 3, "classes": len(config.class_names), **config.network}
