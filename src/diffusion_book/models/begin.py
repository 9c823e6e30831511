"""A run with all that it needs from here: what draws its previews, and the weights that it begins from. Chapter 11."""

from pathlib import Path
from typing import Any

from diffusion_book.data import Examples
from diffusion_book.models.files import TrainedClassifier, load_any
from diffusion_book.models.model import Model
from diffusion_book.models.preview import preview_of
from diffusion_book.nn import describe
from diffusion_book.training import RunConfig, Trainer, checkpoint


def trainer_of(config: RunConfig, folder: Path | str, data: Examples | None = None) -> Trainer:
    """The `Trainer` of a run, with a preview where it denoises, and with the weights that `config.start_from` names.

    Raises:
        ValueError: there is no such model, it was trained for something else, or it is of another network; and what
            `Trainer` raises.
    """
    goes_on = checkpoint.latest(Path(folder).expanduser() / "checkpoints")
    start = None
    if config.start_from is not None and not goes_on:
        found = load_any(config.start_from)
        _check_objective(config, found)
        start = found.network
    return Trainer(config, folder, preview_of(config) if config.denoises else None, data, start=start)


def like(name: str) -> dict[str, Any]:
    """The network, the objective and the size of pictures of a trained model, as a configuration says them.

    Channels and classes are left to the data.
    """
    found = load_any(name)
    network = {key: value for key, value in describe(found.network).items() if key not in ("image_channels", "classes")}
    known: dict[str, Any] = {"network": network}
    if found.card.recipe is not None:
        known["objective"] = found.card.recipe.objective
    if isinstance(found, Model) and found.shape is not None:
        known["size"] = found.shape[-1]
    return known


def _check_objective(config: RunConfig, found: Model | TrainedClassifier) -> None:
    """A network that has learnt to predict one thing, on one schedule, does not know another."""
    name = config.start_from
    if isinstance(found, Model) != config.denoises:
        does = "draws" if isinstance(found, Model) else "names classes"
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
