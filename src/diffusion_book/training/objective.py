"""What a run trains for: denoising, or naming the class. Everything random is drawn before the network runs.

An objective's `draw` makes a whole batch, its times, noise and dropped conditions included, from one generator; `loss`
is then free of chance. So a batch can be cut between processes, or taken again after a crash, and stay the same.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_book.conditions import Conditions, drop
from diffusion_book.losses import Weight, draw_times, simple_loss
from diffusion_book.predictions import Prediction
from diffusion_book.schedules import Schedule

Batch = dict[str, Tensor]


class Objective(Protocol):
    """What `Trainer` minimises."""

    def draw(self, x0: Tensor, conditions: Conditions, generator: torch.Generator) -> Batch:
        """All that the loss needs, for each example: tensors [B, …]. Times, if there are any, are named "t"."""
        ...

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """[B] losses."""
        ...


@dataclass(frozen=True)
class Denoising:
    """The weighted error of a prediction at random times (chapters 4 and 6).

    Attributes:
        schedule, prediction, weight: see `losses.simple_loss`.
        draw_times: a function of (schedule, batch size, generator), such as `losses.draw_sigma_times`.
        told: the conditions that the network is told, by name; None for all that the data has.
        nothing: what is told in the place of one that is dropped. dropout: of which share of the examples.
    """

    schedule: Schedule
    prediction: Prediction = "v"
    weight: Weight | None = None
    draw_times: Callable[[Schedule, int, torch.Generator], Tensor] = draw_times
    told: Collection[str] | None = None
    nothing: Conditions = field(default_factory=dict)
    dropout: float = 0.0

    def draw(self, x0: Tensor, conditions: Conditions, generator: torch.Generator) -> Batch:
        """x0, noisy times, noise, and the conditions by their names, of which some are dropped."""
        t = self.draw_times(self.schedule, len(x0), generator)
        batch = {"x0": x0, "t": t, "eps": torch.randn(x0.shape, generator=generator)}
        told = {name: values for name, values in conditions.items() if self.told is None or name in self.told}
        return {**batch, **drop(told, self.nothing, self.dropout, generator)}

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """[B] `simple_loss`."""
        x0, t, eps = batch["x0"], batch["t"], batch["eps"]
        conditions = {name: values for name, values in batch.items() if name not in ("x0", "t", "eps")}
        return simple_loss(network, self.schedule, x0, t, eps, self.prediction, conditions, self.weight)


@dataclass(frozen=True)
class Classification:
    """Cross-entropy of the class, each image shifted, turned and scaled a little.

    Attributes:
        jitter: how much: 1 is up to 2 of 28 pixels, 10 degrees and 10 %; 0 leaves images alone.
        smoothing: the share of certainty given to all classes alike (Szegedy et al. 2016, section 7).
    """

    jitter: float = 1.0
    smoothing: float = 0.05

    def draw(self, x0: Tensor, conditions: Conditions, generator: torch.Generator) -> Batch:
        """x0, moved, and labels."""
        if "y" not in conditions:
            raise ValueError("a classifier needs labels, and this data has none")
        return {"x0": move(x0, self.jitter, generator) if self.jitter else x0, "y": conditions["y"]}

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """[B] nats."""
        return F.cross_entropy(network(batch["x0"]), batch["y"], reduction="none", label_smoothing=self.smoothing)


def flip_half(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image [B, C, H, W] or, with probability one half, its mirror image, left for right."""
    if x.ndim != 4:
        raise ValueError(f"only images [B, C, H, W] can be flipped, got {list(x.shape)}; leave flip out")
    flipped = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None], x.flip(-1), x)


def move(x: Tensor, jitter: float, generator: torch.Generator) -> Tensor:
    """Shift, turn and scale each image [B, C, H, W] by its own random amount; see `Classification`."""
    u = jitter * (2 * torch.rand(4, len(x), generator=generator) - 1)
    return warp(x, angle=u[0] * torch.pi / 18, scale=1 + 0.1 * u[1], right=u[2] / 7, down=u[3] / 7)


def warp(x: Tensor, angle: Tensor, scale: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Look at each image [B, C, H, W] through a window that is turned, scaled and moved; outside, all is black.

    Args:
        angle: [B] radians, clockwise. scale: [B]; above 1 the window is larger, and what it shows smaller.
        right, down: [B] in halves of a side.
    """
    cos, sin = scale * angle.cos(), scale * angle.sin()
    affine = torch.stack([cos, -sin, right, sin, cos, down], dim=1).reshape(-1, 2, 3)
    grid = F.affine_grid(affine, list(x.shape), align_corners=False)
    return F.grid_sample(x + 1, grid, align_corners=False) - 1
