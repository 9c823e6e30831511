"""A run with all that it needs from here: what its configuration calls by name, and what previews it. Chapter 11.

Names are those of the weights that it begins from, of the autoencoder whose latents it trains on, and of the classifier
in whose features an autoencoder's pictures are compared (chapter 13).
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from diffusion_book._files import cache_folder
from diffusion_book.data import Examples, encoded
from diffusion_book.models.codec import Autoencoded
from diffusion_book.models.files import Trained, codec_of, load_any, load_classifier
from diffusion_book.models.model import Model
from diffusion_book.models.preview import preview_of
from diffusion_book.nn import describe
from diffusion_book.training import Objective, RunConfig, Trainer, checkpoint
from diffusion_book.training.config import build_data
from diffusion_book.training.objectives import AutoencodingConfig, configure
from diffusion_book.training.validation import MOST, build_held_out

ENCODED = 65_536
"""Pictures of an endless set, or of a very large one, whose latents are trained on."""


def trainer_of(config: RunConfig, folder: Path | str, data: Examples | None = None) -> Trainer:
    """The `Trainer` of a run, with a preview where it draws, and with all that its configuration calls by name.

    Where it names an autoencoder, pictures are encoded first, once: their latents are kept in $DIFFUSION_BOOK_CACHE, by
    default ~/.cache/diffusion-book/latents.

    Args:
        data: pictures, instead of those that the configuration names.

    Raises:
        ValueError: there is no such model, it was trained for something else, or it is of another network; and what
            `Trainer` raises.
    """
    data = build_data(config) if data is None else data
    held_out = None
    draws = config.denoises or config.network["kind"] == "autoencoder"
    preview = preview_of(config, data) if draws else None
    codec = codec_of(config.codec)
    if isinstance(codec, Autoencoded):
        unseen = build_held_out(config, data)
        config, data = _of_latents(config, codec), _encoded(data, codec, ENCODED)
        held_out = None if unseen is None else _encoded(unseen, codec, MOST)
    goes_on = checkpoint.latest(Path(folder).expanduser() / "checkpoints")
    start = None
    if config.start_from is not None and not goes_on:
        found = load_any(config.start_from)
        _check_objective(config, found)
        start = found.network
    return Trainer(config, folder, preview, data, held_out, start, _objective(config))


def _of_latents(config: RunConfig, codec: Autoencoded) -> RunConfig:
    """With the channels of the latents, which a run's folder must say: those of its data are the pictures'."""
    channels = {"image_channels": codec.network.config.latent_channels}
    return dataclasses.replace(config, network={**channels, **config.network})


def _encoded(pictures: Examples, codec: Autoencoded, most: int) -> Examples:
    codec.shape((pictures.shape[0], pictures.shape[1], pictures.shape[2]))  # complains, where there is reason to
    try:
        folder = cache_folder("DIFFUSION_BOOK_CACHE", "latents")
    except OSError:  # nowhere to keep them
        folder = None
    return encoded(pictures, codec.encode, codec.sha256, folder, most)


def _objective(config: RunConfig) -> Callable[[nn.Module], Objective] | None:
    """With the features of the classifier that it names; None where the configuration alone says all."""
    wanted = configure(config.objective)
    if not isinstance(wanted, AutoencodingConfig) or wanted.features is None:
        return None
    classifier = load_classifier(wanted.features).network
    return lambda network: wanted.build(network, classifier.maps)


def like(name: str) -> dict[str, Any]:
    """The network, the objective and the size of pictures of a trained model, as a configuration says them.

    Channels and classes are left to the data, and so are the scale and the shift of an autoencoder's latents.
    """
    found = load_any(name)
    of_data = ("image_channels", "classes", "scale", "shift")
    network = {key: value for key, value in describe(found.network).items() if key not in of_data}
    known: dict[str, Any] = {"network": network}
    if found.card.recipe is not None:
        known["objective"] = found.card.recipe.objective
    if isinstance(found, Model) and isinstance(found.codec, Autoencoded):
        known["codec"] = found.codec.name
    if isinstance(found, Model) and found.shape is not None:
        known["size"] = found.shape[-1]
    return known


def _check_objective(config: RunConfig, found: Trained) -> None:
    """A network that has learnt to predict one thing, on one schedule, does not know another."""
    name = config.start_from
    if isinstance(found, Model) != config.denoises:
        does = "draws" if isinstance(found, Model) else f"is a {describe(found.network)['kind']}"
        raise ValueError(f"{name} {does}, and this run trains for {config.objective['kind']}; start from another model")
    if not isinstance(found, Model):
        return
    ours, theirs = config.denoising, found
    if theirs.prediction != ours.prediction:
        raise ValueError(
            f"{name} predicts {theirs.prediction}, and this run {ours.prediction}; set "
            f"objective.prediction = {theirs.prediction!r}, or leave start_from out"
        )
    if repr(theirs.schedule) != repr(ours.build_schedule()):
        raise ValueError(
            f"{name} was trained on the schedule {theirs.schedule!r}, and this run trains on "
            f"{ours.build_schedule()!r}; ask for the same, or leave start_from out"
        )
