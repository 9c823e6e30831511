"""To denoise: the weighted error of a prediction at random times. Chapters 4 and 6."""

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffusion_book._names import check_known
from diffusion_book.conditions import Conditions, drop
from diffusion_book.losses import (
    Weighting,
    draw_logit_normal_times,
    draw_sigma_times,
    draw_times,
    edm,
    min_snr,
    p2,
    simple_loss,
    vdm,
)
from diffusion_book.nn import TextUNetConfig
from diffusion_book.predictions import Prediction, check_prediction
from diffusion_book.schedules import Schedule, by_name
from diffusion_book.training.objectives.common import Batch

DrawTimes = Callable[[Schedule, int, torch.Generator], Tensor]

TIMES: dict[str, DrawTimes] = {
    "uniform": draw_times,
    "logit-normal": draw_logit_normal_times,
    "late": functools.partial(draw_logit_normal_times, mean=0.4),
    "sigma": draw_sigma_times,
}
IN_A_RANGE = 64
"""Times that are drawn to find a range that has its share of them: whatever their distribution, without its formula."""

WEIGHTS: dict[str, Weighting | None] = {"none": None, "min-snr": min_snr(), "p2": p2(), "vdm": vdm(), "edm": edm()}


@dataclass(frozen=True)
class Denoising:
    """The weighted error of a prediction at random times (Ho et al. 2020, algorithm 1; chapters 4 and 6).

    Attributes:
        schedule, prediction, weight: see `losses.simple_loss`.
        draw_times: a function of (schedule, batch size, generator), such as `losses.draw_sigma_times`.
        told: the conditions that the network is told, by name; None for all that the data has.
        nothing: what is told in the place of one that is dropped, by name: {"y": torch.tensor(10)} for ten classes.
        dropout: of which share of the examples, for classifier-free guidance.

    Raises:
        ValueError: the prediction is unknown; dropout is no share; or conditions are to be dropped, and nothing is said
            to stand in their place.
    """

    schedule: Schedule
    prediction: Prediction = "v"
    weight: Weighting | None = None
    draw_times: DrawTimes = draw_times
    told: Collection[str] | None = None
    nothing: Conditions = field(default_factory=dict)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_prediction(self.prediction)
        _check_share("dropout", self.dropout)
        if self.dropout and not self.nothing:
            raise ValueError('dropout needs to know what says nothing, such as nothing={"y": torch.tensor(10)}')

    @property
    def T(self) -> float:
        """That of the schedule."""
        return self.schedule.T

    def draw(self, x0: Tensor, conditions: Conditions, generator: torch.Generator) -> Batch:
        """x0, noisy times, noise, and the conditions by their names, of which some are dropped."""
        t = self.draw_times(self.schedule, len(x0), generator)
        batch = {"x0": x0, "t": t, "eps": torch.randn(x0.shape, generator=generator)}
        told = {name: values for name, values in conditions.items() if self.told is None or name in self.told}
        return {**batch, **drop(told, self.nothing, self.dropout, generator)}

    def draw_held_out(self, x0: Tensor, conditions: Conditions, generator: torch.Generator) -> Batch:
        """As `draw`, with one time in each of B equally likely ranges: no batch has more than its share of noise."""
        t = spread_times(self.draw_times, self.schedule, len(x0), generator)
        return {**self.draw(x0, conditions, generator), "t": t}

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """[B] `simple_loss`."""
        x0, t, eps = batch["x0"], batch["t"], batch["eps"]
        conditions = {name: values for name, values in batch.items() if name not in ("x0", "t", "eps")}
        return simple_loss(network, self.schedule, x0, t, eps, self.prediction, conditions, self.weight)


def spread_times(draw_times: DrawTimes, schedule: Schedule, B: int, generator: torch.Generator) -> Tensor:
    """[B] times, one in each of B ranges that are equally likely by `draw_times`, in a random order."""
    where = generator.device
    many = draw_times(schedule, B * IN_A_RANGE, generator).sort().values.view(B, IN_A_RANGE)
    one = torch.randint(IN_A_RANGE, (B,), generator=generator, device=where)
    return many[torch.randperm(B, generator=generator, device=where), one]


@dataclass(frozen=True)
class DenoisingConfig:
    """`Denoising` as a file describes it.

    Attributes:
        schedule: a name that `schedules.by_name` knows. T: its steps, where it has steps.
        prediction: what the network learns to output.
        times: which times are trained more: "uniform", "logit-normal", "late" (the same with the mean 0.4: more of the
            noisy times, at which it is decided what a picture shows) or "sigma" (for EDM).
        weight: of the loss: "none", "min-snr", "p2", "vdm" or "edm".
        condition_dropout: the share of examples of which the network is told nothing, for classifier-free guidance.
    """

    schedule: str = "cosine"
    T: int | None = None
    prediction: Prediction = "v"
    times: Literal["uniform", "logit-normal", "late", "sigma"] = "uniform"
    weight: Literal["none", "min-snr", "p2", "vdm", "edm"] = "none"
    condition_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_prediction(self.prediction)
        check_known("times", self.times, TIMES)
        check_known("weight", self.weight, WEIGHTS)
        _check_share("condition_dropout", self.condition_dropout)
        self.build_schedule()

    def build_schedule(self) -> Schedule:
        """The schedule that it names."""
        return by_name(self.schedule, self.T)

    def build(self, network: nn.Module) -> Denoising:
        """The objective, for this network: it is told labels where it has classes, captions where it reads, and
        nothing where it can be.
        """
        nothing = _nothing(network.config)
        dropped = nothing and getattr(network.config, "no_label", True)
        return Denoising(
            self.build_schedule(),
            self.prediction,
            WEIGHTS[self.weight],
            TIMES[self.times],
            told=tuple(nothing),
            nothing=nothing if dropped else {},
            dropout=self.condition_dropout if dropped else 0.0,
        )


def _nothing(described: Any) -> dict[str, Tensor]:
    """What stands in the place of all that a network of this configuration can be told."""
    nothing = {"y": torch.tensor(described.classes)} if described.classes else {}
    if isinstance(described, TextUNetConfig):
        nothing["tokens"] = torch.zeros(described.length, dtype=torch.int64)
    return nothing


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is a share in [0, 1], got {value}")
