"""Denoisers: functions from (x_t, t) to x̂0, the one thing that samplers ask for.

A network, an exact mixture and a guided combination of networks all become the same kind of function here,
so every sampler runs on every one of them. Chapter 3 shows why x̂0 is enough; chapter 6 builds both makers.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from diffusion_book.process import PREDICTIONS, Prediction, to_x0
from diffusion_book.schedules import Schedule

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""Maps x_t [B, …] and t [B] (integers in 1 … T) to x̂0 [B, …], an estimate of E[x_0 | x_t]."""


class ExactPosteriorMean(Protocol):
    """A data distribution that knows its own optimal denoiser, such as `data.GaussianMixture`."""

    def posterior_mean(self, xt: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """E[x_0 | x_t] for x_t = a x_0 + b ε."""
        ...


def from_network(
    network: Callable[..., Tensor],
    schedule: Schedule,
    prediction: Prediction,
    y: Tensor | None = None,
    x0_max: float | None = None,
) -> Denoiser:
    """The denoiser that a trained network is (chapter 6).

    Args:
        network: called as network(x_t, t) or, with labels, network(x_t, t, y).
        schedule: the schedule it was trained on.
        prediction: what it was trained to output.
        y: [B] class labels; the batch that is sampled must then have B examples.
        x0_max: clip x̂0 to ±x0_max; 1.0 for images in [−1, 1], None for data without bounds.
    """
    if prediction not in PREDICTIONS:
        raise ValueError(f"unknown prediction {prediction!r}; choose one of {', '.join(PREDICTIONS)}")

    @torch.no_grad()
    def denoiser(xt: Tensor, t: Tensor) -> Tensor:
        output = network(xt, t) if y is None else network(xt, t, y)
        return to_x0(prediction, output, schedule, xt, t, x0_max)

    return denoiser


def exact(data: ExactPosteriorMean, schedule: Schedule) -> Denoiser:
    """The optimal denoiser of a distribution that is known in closed form: nothing to train (chapter 3)."""

    def denoiser(xt: Tensor, t: Tensor) -> Tensor:
        return data.posterior_mean(xt, schedule.a(t, like=xt), schedule.b(t, like=xt))

    return denoiser
