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
from diffusion_book.models.clip import TrainedClip
from diffusion_book.models.codec import PIXELS, Autoencoded, Codec, measure
from diffusion_book.models.model import Model
from diffusion_book.models.pipelines import from_diffusers
from diffusion_book.nn import Autoencoder, Classifier, Clip, build, describe
from diffusion_book.nn.build import uncompiled
from diffusion_book.predictions import Prediction, check_prediction
from diffusion_book.schedules import Schedule, by_name
from diffusion_book.training.config import build_data


@dataclass(frozen=True)
class TrainedAutoencoder:
    """A network that makes latents of pictures, and pictures of latents, and how it was made.

    Attributes:
        codec: it, as a `Model` of its latents knows it.
    """

    codec: Autoencoded
    card: Card

    @property
    def network(self) -> Autoencoder:
        """It itself."""
        return self.codec.network


@dataclass(frozen=True)
class TrainedClassifier:
    """A network that names what is in a picture, and how it was made. It draws nothing, and so is no `Model`."""

    network: Classifier
    card: Card


Trained = Model | TrainedClassifier | TrainedAutoencoder | TrainedClip


def load(name: Path | str, device: torch.device | str = "cpu", size: int | None = None) -> Model:
    """The model that a person names, ready to draw.

    Args:
        name: of the zoo; the folder of a run, for the average at its newest checkpoint; a .safetensors file; or the
            folder of a pipeline of `diffusers`, see `from_diffusers`.
        size: side of its pictures, for a file that does not say; elsewhere another side than in training.

    Raises:
        ValueError: there is no such model; or it cannot be read, is not what its card says, or draws nothing.
        CheckpointError: a run has no checkpoint yet, or a damaged one.
    """
    found = load_any(name, device, size)
    if not isinstance(found, Model):
        does = {TrainedClassifier: "a classifier", TrainedAutoencoder: "an autoencoder"}.get(type(found), "a clip")
        raise ValueError(f"{name}: {does} does not denoise; load a model such as 'mnist-unet'")
    return found


def load_classifier(name: Path | str, device: torch.device | str = "cpu") -> TrainedClassifier:
    """The classifier that a person names, as in `load`.

    Raises:
        ValueError, CheckpointError: as `load`; or it is a model that draws.
    """
    found = load_any(name, device)
    if not isinstance(found, TrainedClassifier):
        raise ValueError(f"{str(name)!r} is no classifier, whose features could be compared; give one, or pixels")
    return found


def load_autoencoder(name: Path | str, device: torch.device | str = "cpu") -> TrainedAutoencoder:
    """The autoencoder that a person names, as in `load`.

    Raises:
        ValueError, CheckpointError: as `load`; or it is no autoencoder.
    """
    found = load_any(name, device)
    if not isinstance(found, TrainedAutoencoder):
        raise ValueError(f"{str(name)!r} is no autoencoder, whose latents could be denoised; give one, or leave it out")
    return found


def load_clip(name: Path | str, device: torch.device | str = "cpu") -> TrainedClip:
    """The towers of pictures and captions that a person names, as in `load`, such as "scenes-clip". Chapter 9.

    Raises:
        ValueError, CheckpointError: as `load`; or it is another kind of model.
    """
    found = load_any(name, device)
    if not isinstance(found, TrainedClip):
        raise ValueError(f"{str(name)!r} is no clip, and compares no pictures with captions; load 'scenes-clip'")
    return found


def load_any(name: Path | str, device: torch.device | str = "cpu", size: int | None = None) -> Trained:
    """What a person names, whichever it is; see `load`."""
    path = expanded(name)
    if name in zoo.names():
        return _of_file(zoo.weights(str(name)), device, size)
    if (path / "config.json").is_file():
        return _of_run(path, device, size)
    if (path / "model_index.json").is_file():
        return from_diffusers(path, device, size)
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
    codec: Codec = PIXELS,
) -> str:
    """Write a network in half precision, with what `load` must know → the file's SHA-256.

    A tensor that float16 cannot hold, since it reaches beyond 65504 or is tiny as a whole, is kept in float32.

    Args:
        network: of a kind that `nn.build` knows, compiled or not.
        schedule, T: as `schedules.by_name` takes them; None for what does not denoise. prediction: what the network
            outputs.
        codec: between pictures and what it denoises; of an autoencoder its name and its SHA-256 are written down.

    Raises:
        OSError: the disk is full or the folder read-only; a file that was there before still is.
    """
    description = {"network": describe(network), "schedule": schedule, "T": T, "prediction": prediction}
    if isinstance(codec, Autoencoded):
        description["codec"] = {"name": codec.name, "sha256": codec.sha256}
    state = uncompiled(network).state_dict()
    tensors = {name: _halve(tensor.detach().cpu()).contiguous() for name, tensor in state.items()}
    content = safetensors.torch.save(tensors, metadata={"diffusion_book": json.dumps(description)})
    write_whole(Path(path), content)
    return hashlib.sha256(content).hexdigest()


def export(model: Trained, path: Path) -> None:
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
        sha256 = save(path, model.network, recipe.denoising.schedule, recipe.denoising.T, model.prediction, model.codec)
    else:
        sha256 = save(path, model.network)
    dataclasses.replace(model.card, versions=model.card.versions or versions(), sha256=sha256).write(path)


def _of_run(folder: Path, device: torch.device | str, size: int | None) -> Trained:
    network, card = runs.newest(folder, device)
    recipe = card.recipe
    assert recipe is not None  # a run has one
    if isinstance(network, Classifier):
        return TrainedClassifier(network, card)
    if isinstance(network, Autoencoder):
        measure(network, build_data(recipe))
        return TrainedAutoencoder(Autoencoded(network, str(folder)), card)
    if isinstance(network, Clip):
        return TrainedClip(network, card)
    schedule, prediction = recipe.denoising.build_schedule(), recipe.denoising.prediction
    return Model.of(network, schedule, prediction, card, size, codec_of(recipe.codec, device))


def codec_of(name: str | None, device: torch.device | str = "cpu", sha256: str | None = None) -> Codec:
    """The codec of a model: pixels where no autoencoder is named.

    Args:
        sha256: of the autoencoder that the model was trained with, where that is known.

    Raises:
        ValueError, CheckpointError: there is no such autoencoder, or it is another than the model was trained with.
    """
    if name is None:
        return PIXELS
    codec = load_autoencoder(name, device).codec
    if sha256 not in (None, codec.sha256):
        raise ValueError(
            f"{name!r} is not the autoencoder whose latents this model was trained on (SHA-256 {codec.sha256[:12]}…, "
            f"not {str(sha256)[:12]}…); its latents mean other pictures: fetch or train the one that it names"
        )
    return codec


def _of_file(path: Path, device: torch.device | str, size: int | None) -> Trained:
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
    network, schedule, prediction, codec = _described(path, content)
    try:
        network.load_state_dict({name: _widen(tensor) for name, tensor in tensors.items()})
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network that it names: {error}") from error
    network = network.to(device).eval().requires_grad_(False)
    if isinstance(network, Classifier):
        return TrainedClassifier(network, card)
    if isinstance(network, Autoencoder):
        name = path.stem if path.parent == zoo.WEIGHTS else str(path)
        return TrainedAutoencoder(Autoencoded(network, name), card)
    if isinstance(network, Clip):
        return TrainedClip(network, card)
    assert schedule is not None  # or the header would have been refused
    return Model.of(network, schedule, prediction, card, size, codec_of(codec.get("name"), device, codec.get("sha256")))


def _described(path: Path, content: bytes) -> tuple[nn.Module, Schedule | None, Prediction, dict[str, str]]:
    """What the header says: the network, with fresh weights; its schedule, if it denoises; what it predicts; and the
    name and the SHA-256 of its autoencoder, if it has one.
    """
    try:
        description = json.loads(_metadata(content)["diffusion_book"])
        network: nn.Module = build(description["network"])
        prediction: Prediction = description["prediction"]
        name, T = description["schedule"], description["T"]
        if isinstance(network, Classifier | Autoencoder | Clip):
            return network, None, prediction, {}
        check_prediction(prediction)
        return network, by_name(name, T), prediction, dict(description.get("codec", {}))
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
