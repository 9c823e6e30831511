"""What a network is told besides x_t and t: one mapping by name, the same from the data to the denoiser. Chapter 8.

    {"y": torch.tensor([7, 3])}             the classes of two examples

Each value is a tensor with one row an example, [B, …]. The names are those of the network's own arguments, which is
called as network(x_t, t, **conditions): so whatever a network takes, a class, a text or a picture, travels alike.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

Conditions = Mapping[str, Tensor]
"""By name, [B, …] each; empty where there are none."""


def checked(conditions: Conditions | None) -> Conditions:
    """The conditions themselves, {} for None.

    Raises:
        ValueError: they are no tensors by name.
    """
    if conditions is None:
        return {}
    if not isinstance(conditions, Mapping):
        raise ValueError(f'conditions are tensors by name, such as {{"y": y}}, got {type(conditions).__name__}')
    for name, values in conditions.items():
        if not isinstance(values, Tensor):
            raise ValueError(
                f'conditions are tensors, one row an example, such as {{"y": y}}; got {name} = {values!r:.80}'
            )
    return conditions


def take(conditions: Conditions, index: Tensor | slice) -> dict[str, Tensor]:
    """The conditions of some of the examples: rows of every tensor."""
    return {name: values[index] for name, values in conditions.items()}


def drop(conditions: Conditions, nothing: Conditions, share: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Say nothing to a random share of the examples: one network then learns to do with and without. Chapter 8.

    Args:
        conditions: [B, …] each. What `nothing` does not name is never dropped.
        nothing: what stands in the place of one example's condition, […] each: {"y": torch.tensor(10)} for ten classes.
        share: of the examples, in [0, 1]; each loses all that `nothing` names, or none of it.

    Raises:
        ValueError: what says nothing has another shape than the conditions of an example, or is itself a label.

    Source: Ho and Salimans 2022, algorithm 1.
    """
    replaced = [name for name in conditions if name in nothing]
    if not replaced:
        return dict(conditions)
    dropped = torch.rand(len(conditions[replaced[0]]), generator=generator) < share
    return {**conditions, **{name: _replaced(name, conditions[name], nothing[name], dropped) for name in replaced}}


def _replaced(name: str, values: Tensor, nothing: Tensor, rows: Tensor) -> Tensor:
    if not isinstance(nothing, Tensor) or nothing.shape != values.shape[1:]:
        got = tuple(nothing.shape) if isinstance(nothing, Tensor) else repr(nothing)
        raise ValueError(
            f"what says nothing must be a tensor of one example's shape, {tuple(values.shape[1:])} for {name}, such "
            f'as {{"y": torch.tensor(10)}} for ten classes; got {got}'
        )
    label = values.ndim == 1 and not values.is_floating_point()
    if label and bool((values == nothing).any()):
        raise ValueError(
            f"{name} = {int(nothing)} is to say nothing, and is also a label of the data; take one that no example has"
        )
    return torch.where(rows.view(-1, *[1] * (values.ndim - 1)), nothing.to(values), values)
