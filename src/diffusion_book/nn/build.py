"""A network from its description: names and numbers, as a configuration file or a weights file keeps them."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from diffusion_book.nn.classifier import Classifier, ClassifierConfig
from diffusion_book.nn.dit import DiT, DiTConfig
from diffusion_book.nn.unet import UNet, UNetConfig

KINDS: dict[str, tuple[type[nn.Module], type[Any]]] = {
    "unet": (UNet, UNetConfig),
    "dit": (DiT, DiTConfig),
    "classifier": (Classifier, ClassifierConfig),
}


def build(description: Mapping[str, Any]) -> nn.Module:
    """The network that a description names, with fresh weights.

    Args:
        description: "kind" ("unet", "dit" or "classifier"); "size", where that kind has named sizes; and any fields of
            its configuration: {"kind": "unet", "size": "digits", "channels": 64}.

    Raises:
        ValueError: an unknown kind; or a field that this kind does not have, with the nearest one.
    """
    kind = description.get("kind")
    if kind not in KINDS:
        raise ValueError(f"a network is of a kind, one of {', '.join(KINDS)}, got {kind!r}")
    network, config = KINDS[kind]
    fields = {name: value for name, value in description.items() if name not in ("kind", "size")}
    check_names(fields, [f.name for f in dataclasses.fields(config)], f"network of kind {kind!r}")
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    if "size" not in description:
        return network(config(**fields))
    if not hasattr(config, "named"):
        raise ValueError(f"a network of kind {kind!r} has no named sizes; leave size out")
    return network(config.named(description["size"], **fields))


def describe(network: nn.Module) -> dict[str, Any]:
    """The inverse of `build`, up to the weights: the kind, and every field of the configuration.

    Raises:
        ValueError: the network is of no kind that `build` knows.
    """
    for kind, (of_kind, _) in KINDS.items():
        if isinstance(network, of_kind):
            config: Any = network.config
            return {"kind": kind, **dataclasses.asdict(config)}
    raise ValueError(f"{type(network).__name__} is none of the kinds {', '.join(KINDS)}")


def check_names(names: Iterable[str], known: list[str], where: str) -> None:
    """Raise a ValueError at the first unknown name, and say which known one is nearest."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"{where}: unknown key {name!r}; {advice}")
