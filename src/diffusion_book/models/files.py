"""From what a person names to a model: a name of the zoo, the folder of a run, or a file of weights. Chapter 12.

A file is safetensors in half precision, whose header says which network it is of; nothing pickled is ever read, and no
file is believed whose SHA-256 is not that of the card beside it.
"""

import dataclasses
import difflib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from diffusion_book import zoo
from diffusion_book._files import expanded, write_whole
from diffusion_book.models import runs
from diffusion_book.models.card import Card, versions
from diffusion_book.models.model import Model
from diffusion_book.nn import Classifier, build, describe
from diffusion_book.nn.build import uncompiled
from diffusion_book.predictions import Prediction, check_prediction
from diffusion_book.schedules import Schedule, by_name


@dataclass(frozen=True)
class TrainedClassifier:
    """A network that names what is in a picture, and how it was made. It draws nothing, and so is no `Model`."""

    network: Classifier
    card: Card


def load(name: Path | str, device: torch.device | str = "cpu", size: int | None = None) -> Model:
    """The model that a person names, ready to draw.

    Args:
        name: of the zoo; the folder of a run, for the average at its newest checkpoint; or a .safetensors file.
        size: side of its pictures, for a file that does not say; elsewhere another side than in training.

    Raises:
        ValueError: there is no such model; or it cannot be read, is not what its card says, or is a classifier.
        CheckpointError: a run has no checkpoint yet, or a damaged one.
    """
    found = load_any(name, device, size)
    if isinstance(found, TrainedClassifier):
        raise ValueError(f"{name}: a classifier does not denoise; load a model such as 'mnist-unet'")
    return found


def load_classifier(name: Path | str, device: torch.device | str = "cpu") -> TrainedClassifier:
    """The classifier that a person names, as in `load`.

    Raises:
        ValueError, CheckpointError: as `load`; or it is a model that draws.
    """
    found = load_any(name, device)
    if isinstance(found, Model):
        raise ValueError(f"{str(name)!r} is no classifier, whose features could be compared; give one, or pixels")
    return found


def load_any(
    name: Path | str, device: torch.device | str = "cpu", size: int | None = None
) -> Model | TrainedClassifier:
    """What a person names, whichever it is; see `load`."""
    path = expanded(name)
    if name in zoo.names():
        return _of_file(zoo.weights(str(name)), device, size)
    if (path / "config.json").is_file():
        return _of_run(path, device, size)
    if path.is_file():
        return _of_file(path, device, size)
    near = difflib.get_close_matches(str(name), zoo.names(), n=1)
    raise ValueError(
        f"there is no model {str(name)!r}: it is no run's folder, no file of weights, and no name of the zoo"
        + (f"; did you mean {near[0]!r}?" if near else f", which has {', '.join(zoo.names()) or 'none'}")
    )


def weights_with_card(name: str) -> Path:
    """The file of weights that a person names, where a card lies beside it.

    Raises:
        ValueError: it is a run, or a file without a card.
    """
    path = zoo.weights(name) if name in zoo.names() else expanded(name)
    if path.suffix != ".safetensors" or not path.with_suffix(".json").is_file():
        raise ValueError(f"{name!r} has no card to write into; export it first, with --format safetensors")
    return path


def save(
    path: Path | str,
    network: nn.Module,
    schedule: str | None = None,
    T: int | None = None,
    prediction: Prediction | None = None,
) -> str:
    """Write a network in half precision, with what `load` must know → the file's SHA-256.

    A tensor that float16 cannot hold, since it reaches beyond 65504 or is tiny as a whole, is kept in float32.

    Args:
        network: of a kind that `nn.build` knows, compiled or not.
        schedule, T: as `schedules.by_name` takes them; None for a classifier. prediction: what the network outputs.

    Raises:
        OSError: the disk is full or the folder read-only; a file that was there before still is.
    """
    description = {"network": describe(network), "schedule": schedule, "T": T, "prediction": prediction}
    state = uncompiled(network).state_dict()
    tensors = {name: _halve(tensor.detach().cpu()).contiguous() for name, tensor in state.items()}
    content = safetensors.torch.save(tensors, metadata={"diffusion_book": json.dumps(description)})
    write_whole(Path(path), content)
    return hashlib.sha256(content).hexdigest()


def export(model: Model | TrainedClassifier, path: Path) -> None:
    """Write a model's weights in half precision, and what is known of them as a card beside them.

    Raises:
        ValueError: another ending; or a model that came without a card, and so from such a file, which needs no export.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} must end in .safetensors")
    recipe = model.card.recipe
    if recipe is None:
        raise ValueError("this model already is a .safetensors file, and has no card to take along; copy it")
    if isinstance(model, Model):
        sha256 = save(path, model.network, recipe.denoising.schedule, recipe.denoising.T, model.prediction)
    else:
        sha256 = save(path, model.network)
    dataclasses.replace(model.card, versions=model.card.versions or versions(), sha256=sha256).write(path)


def _of_run(folder: Path, device: torch.device | str, size: int | None) -> Model | TrainedClassifier:
    network, card = runs.newest(folder, device)
    recipe = card.recipe
    assert recipe is not None  # a run has one
    if isinstance(network, Classifier):
        return TrainedClassifier(network, card)
    return Model.of(network, recipe.denoising.build_schedule(), recipe.denoising.prediction, card, size)


def _of_file(path: Path, device: torch.device | str, size: int | None) -> Model | TrainedClassifier:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    card = Card.beside(path)
    found = hashlib.sha256(content).hexdigest()
    if card.sha256 and found != card.sha256:
        raise ValueError(
            f"{path} is not the file of its card: SHA-256 {found[:12]}…, not {card.sha256[:12]}…; fetch or train it"
        )
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error}); pickled weights are not read: unsafe") from error
    network, schedule, prediction = _described(path, content)
    try:
        network.load_state_dict({name: _widen(tensor) for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network that it names: {error}") from error
    network = network.to(device).eval().requires_grad_(False)
    if isinstance(network, Classifier):
        return TrainedClassifier(network, card)
    assert schedule is not None  # or the header would have been refused
    return Model.of(network, schedule, prediction, card, size)


def _described(path: Path, content: bytes) -> tuple[nn.Module, Schedule | None, Prediction]:
    """What the header says: the network, with fresh weights; its schedule, if it denoises; and what it predicts."""
    try:
        description = json.loads(_metadata(content)["diffusion_book"])
        network: nn.Module = build(description["network"])
        prediction: Prediction = description["prediction"]
        name, T = description["schedule"], description["T"]
        if isinstance(network, Classifier):
            return network, None, prediction
        check_prediction(prediction)
        return network, by_name(name, T), prediction
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} does not say which network it is of, or not in a known way ({error!r}); write it with models.save"
        ) from error


def _halve(tensor: Tensor) -> Tensor:
    """In float16, or in float32 where that rounds off more than its 11 bits of the tensor's largest number."""
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor
    half, exact = tensor.half(), tensor.float()
    lost = (half.float() - exact).abs().amax()
    return exact if lost > exact.abs().amax() / 2**11 else half


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _metadata(content: bytes) -> dict[str, Any]:
    """What stands beside the tensors: the header is JSON, its length the first eight bytes."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(content[8 : 8 + length])
    return header.get("__metadata__", {})
