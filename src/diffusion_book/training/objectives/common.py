"""What every objective is. Everything random is drawn before the network runs (chapter 11).

An objective's `draw` makes a whole batch, its times, noise and dropped conditions included, from one generator; `loss`
is then free of chance. So a batch can be cut between processes, or taken again after a crash, and stay the same.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from diffusion_book.conditions import Conditions

Batch = dict[str, Tensor]
"""By name, [B, …] each: all that a loss needs. Times are named "t"."""


class Objective(Protocol):
    """What both loops minimise."""

    @property
    def T(self) -> float | None:
        """The last of its times, which lie in (0, T]; None where it has none."""
        ...

    def draw(self, x0: Tensor, conditions: Conditions, generator: torch.Generator) -> Batch:
        """All that the loss needs, for each example: tensors [B, …]. Times, if there are any, are named "t"."""
        ...

    def draw_held_out(self, x0: Tensor, conditions: Conditions, generator: torch.Generator) -> Batch:
        """As `draw`, for a measurement that chance disturbs little: examples stay as they are, and times lie evenly."""
        ...

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """[B] losses."""
        ...


@runtime_checkable
class Learning(Objective, Protocol):
    """An objective that learns something itself, such as a critic. Its gradients come with those of the network."""

    def step(self) -> None:
        """Its own step, after each of the network's."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that it has learnt, which belongs into a checkpoint; {} for nothing."""
        ...

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        ...


def learning(objective: Objective, processes: int) -> Learning | None:
    """The objective, where it learns something; None where it does not.

    Raises:
        ValueError: it does, in several processes, of which each would learn something else.
    """
    if not isinstance(objective, Learning) or not objective.state():
        return None
    if processes > 1:
        raise ValueError("what an objective learns itself, such as a critic, is learnt in one process; start one")
    return objective


class ObjectiveConfig(Protocol):
    """An objective as a file describes it: a dataclass whose fields are those of the table `[objective]`."""

    def build(self, network: nn.Module) -> Objective:
        """The objective, for this network."""
        ...


def to_device(batch: Batch, device: torch.device) -> Batch:
    """A batch where its network is; times stay on the CPU: schedules compute in float64, which not every device has."""
    return {name: values if name == "t" else values.to(device) for name, values in batch.items()}
