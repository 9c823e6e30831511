"""Weights that were trained once and come with the package, each with a card that says how it was made.

    seven = zoo.load("mnist-unet")
    denoiser = seven.denoiser(y=torch.full((16,), 7), w=1.5)

Weights are safetensors in half precision; nothing is downloaded, and no file is believed before its SHA-256 is that of
its card. `diffusion-book zoo train NAME` makes them again. Chapter 12 measures them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from diffusion_book._files import write_whole
from diffusion_book._names import unknown
from diffusion_book.denoise import Denoiser, from_network
from diffusion_book.guidance import classifier_free_batched, threshold
from diffusion_book.nn import build, describe
from diffusion_book.predictions import Prediction, check_prediction
from diffusion_book.schedules import Schedule, by_name

__all__ = ["Pretrained", "card", "load", "load_file", "names", "recipe", "recipes", "save"]

HERE = Path(__file__).parent
WEIGHTS = HERE / "weights"
RECIPES = HERE / "recipes"


@dataclass(frozen=True)
class Pretrained:
    """A trained network, and all that is needed to sample from it.

    Attributes:
        network: in float32, for evaluation, its weights frozen.
        schedule, prediction: what it was trained with; None for a classifier.
        card: how it was made; empty for a file without one.
    """

    network: nn.Module
    schedule: Schedule | None
    prediction: Prediction | None
    card: Mapping[str, Any]

    def denoiser(self, y: Tensor | None = None, w: float = 1.0, x0_max: float | None = 1.0) -> Denoiser:
        """x̂0 of x_t and t, for the given classes.

        Args:
            y: [B] labels, or None for any digit. w: guidance; 1 is none (chapter 8).
            x0_max: x̂0 is cut to ±x0_max, which is right where the data lie in [−1, 1].

        Raises:
            ValueError: this is a classifier; or guidance without labels, or for a network that knows no "no label".
        """
        if self.schedule is None or self.prediction is None:
            raise ValueError("a classifier does not denoise; load a model such as 'mnist-unet'")
        schedule, prediction = self.schedule, self.prediction
        if y is None and w != 1:
            raise ValueError(f"guidance needs labels: got w = {w} and no y")
        if y is None:
            return from_network(self.network, schedule, prediction, x0_max=x0_max)
        if w == 1:
            return from_network(self.network, schedule, prediction, {"y": y}, x0_max)
        config: Any = self.network.config
        if not (config.classes and config.no_label):
            raise ValueError("guidance needs a network that was also trained without labels (condition_dropout)")
        no_label = torch.full_like(y, config.classes)
        guided = classifier_free_batched(self.network, schedule, prediction, {"y": y}, {"y": no_label}, w)
        return guided if x0_max is None else threshold(guided, x0_max)


def names() -> list[str]:
    """The models whose weights are here."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def recipes() -> list[str]:
    """The models that `diffusion-book zoo train` can make."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def recipe(name: str) -> Path:
    """The configuration file from which a model was trained.

    Raises:
        ValueError: an unknown name.
    """
    path = RECIPES / f"{name}.toml"
    if not path.exists():
        raise ValueError(unknown("recipe", name, recipes()))
    return path


def card(name: str) -> dict[str, Any]:
    """What is known of a model: command, seed, hardware, images seen, wall time, metrics, SHA-256.

    Raises:
        ValueError: an unknown name.
    """
    path = WEIGHTS / f"{name}.json"
    if not path.exists():
        raise ValueError(unknown("model", name, names()))
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def load(name: str, device: torch.device | str = "cpu") -> Pretrained:
    """A model of the zoo by its name.

    Raises:
        ValueError: an unknown name, or a file whose content is not that of its card.
    """
    card(name)
    return load_file(WEIGHTS / f"{name}.safetensors", device)


def load_file(path: Path | str, device: torch.device | str = "cpu") -> Pretrained:
    """A model from a file that `save` wrote, and its card, if that lies beside it.

    Raises:
        ValueError: the file cannot be read, is no safetensors of ours, or is not what its card says.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    known = _card_beside(path)
    found = hashlib.sha256(content).hexdigest()
    if known and found != known["sha256"]:
        raise ValueError(
            f"{path} is not the file of its card: its SHA-256 is {found[:12]}…, the card says {known['sha256'][:12]}…; "
            "take it from the repository again, or train it again"
        )
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is no safetensors file ({error}); pickled weights are not read, since reading them can run code"
        ) from error
    try:
        description = json.loads(_metadata(content)["diffusion_book"])
        network, prediction = build(description["network"]), description["prediction"]
        name, T = description["schedule"], description["T"]
        schedule = None if name is None else by_name(name, T)
        if schedule is not None:
            check_prediction(prediction)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{path} does not say which network it is of, or not in a way that this version understands ({error!r}); "
            "write it with zoo.save"
        ) from error
    try:
        network.load_state_dict({name: _widen(tensor) for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network that it names: {error}") from error
    network = network.to(device).eval().requires_grad_(False)
    return Pretrained(network, schedule, prediction if schedule else None, known)


def save(
    path: Path | str,
    network: nn.Module,
    schedule: str | None = None,
    T: int | None = None,
    prediction: Prediction | None = None,
) -> str:
    """Write a network in half precision, with what `load_file` must know → the file's SHA-256.

    Args:
        schedule, T: as `schedules.by_name` takes them; None for a classifier. prediction: what the network outputs.

    Raises:
        OSError: the disk is full or the folder read-only; a file that was there before still is.
    """
    description = {"network": describe(network), "schedule": schedule, "T": T, "prediction": prediction}
    tensors = {name: _halve(tensor.detach().cpu()).contiguous() for name, tensor in network.state_dict().items()}
    content = safetensors.torch.save(tensors, metadata={"diffusion_book": json.dumps(description)})
    write_whole(Path(path), content)
    return hashlib.sha256(content).hexdigest()


def _card_beside(path: Path) -> dict[str, Any]:
    """The card of a file of weights, which must say whose it is; empty where there is none."""
    beside = path.with_suffix(".json")
    if not beside.exists():
        return {}
    try:
        known = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{beside}, the card of {path.name}, cannot be read ({error}); mend or remove it") from error
    if not isinstance(known, dict) or not isinstance(known.get("sha256"), str):
        raise ValueError(f"{beside} is no card of {path.name}: it has no sha256; remove it, or take the right one")
    return known


def _halve(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.is_floating_point() else tensor


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _metadata(content: bytes) -> dict[str, str]:
    """What stands beside the tensors: the header is JSON, its length the first eight bytes."""
    length = int.from_bytes(content[:8], "little")
    header: dict[str, dict[str, str]] = json.loads(content[8 : 8 + length])
    return header.get("__metadata__", {})
