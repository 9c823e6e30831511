"""A network from its description, as a configuration or a file of weights keeps it (chapter 11)."""

import dataclasses
import difflib
import hashlib
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from torch import nn

from diffusion_book._names import check_known
from diffusion_book.nn.autoencoder import Autoencoder, AutoencoderConfig
from diffusion_book.nn.classifier import Classifier, ClassifierConfig
from diffusion_book.nn.clip import Clip, ClipConfig
from diffusion_book.nn.dit import DiT, DiTConfig
from diffusion_book.nn.text_unet import TextUNet, TextUNetConfig
from diffusion_book.nn.unet import UNet
from diffusion_book.nn.unet_config import UNetConfig

Network = TypeVar("Network", bound=nn.Module)

KINDS: dict[str, tuple[type[nn.Module], type[Any]]] = {
    "unet": (UNet, UNetConfig),
    "dit": (DiT, DiTConfig),
    "classifier": (Classifier, ClassifierConfig),
    "text-unet": (TextUNet, TextUNetConfig),
    "autoencoder": (Autoencoder, AutoencoderConfig),
    "clip": (Clip, ClipConfig),
}
"""What "kind" may be: a network, made of its configuration alone and keeping it as `config`; and that configuration.

A new network is its own file and a line here. Training fills in `image_channels` and `classes` from the data, and asks
for `no_label`; sizes with names are a class method `named`.
"""


def build(description: Mapping[str, Any]) -> nn.Module:
    """The network that a description names, with fresh weights.

    Args:
        description: "kind" (one of `KINDS`); "size", where that kind has named sizes; and any fields of its
            configuration: {"kind": "unet", "size": "digits", "channels": 64}.

    Raises:
        ValueError: an unknown kind; a field that this kind does not have, with the nearest one; or a value that does
            not fit.
    """
    network, config = configure(description)
    return network(config)


def configure(description: Mapping[str, Any]) -> tuple[type[nn.Module], Any]:
    """What `build` builds, and from which configuration: all that can be wrong with a description is found here."""
    kind = description.get("kind")
    check_known("kind of network", kind, KINDS)
    network, config = KINDS[str(kind)]
    fields = {name: value for name, value in description.items() if name not in ("kind", "size")}
    check_fields(fields, config, f"network of kind {kind!r}")
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    if "size" not in description:
        return network, config(**fields)
    if not hasattr(config, "named"):
        raise ValueError(f"a network of kind {kind!r} has no named sizes; leave size out")
    return network, config.named(str(description["size"]), **fields)


def describe(network: nn.Module) -> dict[str, Any]:
    """The inverse of `build`, up to the weights: the kind, and every field of the configuration.

    Of those that are `unet_config.LATER` only what is not the default: a file that is written again is the same file.

    Args:
        network: compiled or not.

    Raises:
        ValueError: the network is of no kind that `build` knows.
    """
    network = uncompiled(network)
    for kind, (of_kind, _) in KINDS.items():
        if isinstance(network, of_kind):
            config: Any = network.config
            fields = {field.name: field for field in dataclasses.fields(config)}
            said = {
                name: value
                for name, value in dataclasses.asdict(config).items()
                if not fields[name].metadata.get("later") or value != fields[name].default
            }
            return {"kind": kind, **said}
    raise ValueError(f"{type(network).__name__} is none of the kinds {', '.join(KINDS)}")


def uncompiled(network: Network) -> Network:
    """The network inside of what `torch.compile` made of it: there its weights have their own names."""
    inside: Network = getattr(network, "_orig_mod", network)
    return inside


def weights_sha256(network: nn.Module) -> str:
    """SHA-256 over the sorted names, the shapes and the float32 bytes of all parameters and buffers.

    It does not change with the precision a file keeps them in, as long as that holds them exactly.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_fields(values: Mapping[str, Any], of: type[Any], where: str) -> None:
    """Raise a ValueError unless these are fields of that dataclass, of their types; lists may stand for tuples.

    The message says which known name is nearest to an unknown one.
    """
    hints = typing.get_type_hints(of)
    known = [field.name for field in dataclasses.fields(of)]
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            advice = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ValueError(f"{where}: unknown key {name!r}; {advice}")
        if not _fits(value, hints[name]):
            raise ValueError(f"{where}: {name} must be {_spoken(hints[name])}, got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(entry, arguments[0]) for entry in value)
    if hint in (int, float):  # to Python true is a number; to a reader it is a mistake
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return isinstance(value, origin or hint)


def _spoken(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_spoken, arguments))
    if origin is tuple:
        return f"a list, each entry {_spoken(arguments[0])}"
    if origin is Mapping:
        return "a table of names and values"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", types.NoneType: "nothing"}
    return names.get(hint, str(hint))
