"""To begin a run from weights that were trained on other pictures (chapter 11)."""

from typing import Any

from torch import nn

FREE = ("classes", "no_label", "dropout", "checkpoint", "scale", "shift")
"""Fields of a network in which two may differ, and yet fit but for what they know of classes, or of their latents."""


def start_from(network: nn.Module, other: nn.Module, name: str) -> str:
    """Take another network's weights, as far as they fit → in words, what happened.

    Vectors of classes fit only as many classes; of others they start anew, with what is random in a new network.

    Args:
        name: what the other one is called.

    Raises:
        ValueError: it is another network; the message names the first difference.
    """
    _check_same(network, other, name)
    mine, theirs = network.state_dict(), other.state_dict()
    fits = {key: value for key, value in theirs.items() if key in mine and mine[key].shape == value.shape}
    network.load_state_dict(fits, strict=False)
    anew = [key for key in mine if key not in fits]
    without = [key for key in theirs if key not in mine]
    told = f"begins from the weights of {name}"
    if anew:
        ours, before = _classes(network), _classes(other)
        told += f"; {', '.join(anew)} starts anew, for {ours} classes where it had {before or 'none'}"
    if without:
        told += f"; {', '.join(without)} is left behind, since nothing is told of classes"
    return told


def check_start(name: str | None, began: str | None) -> None:
    """A ValueError where a run names weights, and began from none."""
    if name is not None and began is None:
        raise ValueError(
            f"start_from = {name!r} is found by models.trainer_of(config, folder); a Trainer that you make yourself "
            "needs its network, start=models.load_any(…).network"
        )


def _check_same(network: nn.Module, other: nn.Module, name: str) -> None:
    if type(network) is not type(other):
        raise ValueError(
            f"{name} is a {type(other).__name__}, and this run trains a {type(network).__name__}; start from one of "
            "the same kind, or leave start_from out"
        )
    ours, theirs = _fields(network), _fields(other)
    for field, value in ours.items():
        if field not in FREE and theirs[field] != value:
            raise ValueError(
                f"{name} has network.{field} = {theirs[field]!r}, and this run {value!r}; its weights only fit the "
                "same network: ask for that, or leave start_from out"
            )


def _fields(network: nn.Module) -> dict[str, Any]:
    config: Any = network.config
    return {name: tuple(value) if isinstance(value, list) else value for name, value in vars(config).items()}


def _classes(network: nn.Module) -> int:
    return int(_fields(network).get("classes", 0))
