"""To name the class of a picture that is partly or wholly noise: cross-entropy at random times. Chapter 8.

What guides a denoiser is the gradient of log p(y|x_t), and so the probabilities must be honest: no label is smoothed,
and no picture moved.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_book._names import check_known
from diffusion_book.conditions import Conditions
from diffusion_book.losses import draw_times
from diffusion_book.process import add_noise
from diffusion_book.schedules import Schedule, by_name
from diffusion_book.training.objectives.classification import labels_of
from diffusion_book.training.objectives.common import Batch
from diffusion_book.training.objectives.denoising import TIMES, DrawTimes, spread_times


@dataclass(frozen=True)
class NoisyClassification:
    """Cross-entropy of the class y, given x_t and t (Dhariwal and Nichol 2021, section 4).

    Attributes:
        schedule: of the noise. draw_times: see `Denoising`.
    """

    schedule: Schedule
    draw_times: DrawTimes = draw_times

    @property
    def T(self) -> float:
        """That of the schedule."""
        return self.schedule.T

    def draw(self, x0: Tensor, conditions: Conditions, generator: torch.Generator) -> Batch:
        """x0, labels, noisy times and noise."""
        t = self.draw_times(self.schedule, len(x0), generator)
        return {**labels_of(x0, conditions), "t": t, "eps": torch.randn(x0.shape, generator=generator)}

    def draw_held_out(self, x0: Tensor, conditions: Conditions, generator: torch.Generator) -> Batch:
        """As `draw`, with one time in each of B equally likely ranges."""
        t = spread_times(self.draw_times, self.schedule, len(x0), generator)
        return {**self.draw(x0, conditions, generator), "t": t}

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """[B] nats."""
        x0, t = batch["x0"], batch["t"]
        xt = add_noise(self.schedule, x0, t, batch["eps"])
        return F.cross_entropy(network(xt, self.schedule.clock(t).to(x0)), batch["y"], reduction="none")


@dataclass(frozen=True)
class NoisyClassificationConfig:
    """`NoisyClassification` as a file describes it.

    Attributes:
        schedule: a name that `schedules.by_name` knows. T: its steps, where it has steps.
        times: which times are trained more; see `DenoisingConfig`.
    """

    schedule: str = "cosine"
    T: int | None = None
    times: str = "uniform"

    def __post_init__(self) -> None:
        check_known("times", self.times, TIMES)
        by_name(self.schedule, self.T)

    def build(self, network: nn.Module) -> NoisyClassification:
        """The objective."""
        return NoisyClassification(by_name(self.schedule, self.T), TIMES[self.times])
