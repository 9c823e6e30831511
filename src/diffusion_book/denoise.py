"""Denoisers: functions from (x_t, t) to x̂0, the one thing that samplers ask for.

A network, an exact mixture and a guided combination of networks all become the same kind of function here,
so every sampler runs on every one of them. Chapter 3 shows why x̂0 is enough; chapter 6 builds both makers.
"""

from collections.abc import Callable
from functools import cache, wraps
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from diffusion_book._checks import not_a_tensor, positive
from diffusion_book.conditions import Conditions, checked
from diffusion_book.predictions import Prediction, check_prediction, to_x0, weigh, x0_weights
from diffusion_book.schedules import Schedule, expand


class Estimate(NamedTuple):
    """What a denoiser returns that says more than x̂0 [B, …]: v [B, …] in [−1, 1] too, see `process.learned_std`.

    Source: Nichol and Dhariwal 2021, section 3.1.
    """

    x0_hat: Tensor
    v: Tensor | None = None


Answer = Tensor | Estimate
"""What a denoiser returns: x̂0 [B, …], or an `Estimate` with it. `x0_of` and `v_of` read either."""

Denoiser = Callable[[Tensor, Tensor], Answer]
"""Maps x_t [B, …] and noisy times t [B] to x̂0 [B, …], an estimate of E[x_0 | x_t]; with a learned variance, to both."""


class ExactPosteriorMean(Protocol):
    """A data distribution that knows its own optimal denoiser, such as `data.GaussianMixture`."""

    def posterior_mean(self, xt: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """E[x_0 | x_t] for x_t = a x_0 + b ε."""
        ...


def from_network(
    network: Callable[..., Tensor],
    schedule: Schedule,
    prediction: Prediction,
    conditions: Conditions | None = None,
    x0_max: float | None = None,
    learned_variance: bool = False,
) -> Denoiser:
    """The denoiser that a trained network is (chapter 6).

    Args:
        network: called as network(x_t, t, **conditions). One with a learned variance returns [B, 2C, …]: the
            prediction, then v (chapter 4; Nichol and Dhariwal 2021, section 3.1).
        schedule: the schedule it was trained on.
        prediction: what it was trained to output.
        conditions: what it is told besides, by its own names, such as {"y": y} with the classes y [B]; the batch that
            is sampled must then have B examples.
        x0_max: clip x̂0 to ±x0_max; 1.0 for images in [−1, 1], None for data without bounds.
        learned_variance: say v too, as an `Estimate`, for `samplers.ddpm` with variance="learned". Every other sampler
            leaves it aside, and so does this where it is not wanted; guidance keeps it, as `on_x0` says.

    Raises:
        ValueError: the prediction is unknown, conditions are no tensors by name, or x0_max is not positive and finite;
            when it runs, as `predictions.to_x0`, or the network returns no tensor, or no v where that is wanted.

    Source: that of `predictions.to_x0`: Ho et al. 2020, equation 15, for ε; Karras et al. 2022, equation 7, for F.
    """
    check_prediction(prediction)
    told = checked(conditions)
    read = _reader(prediction, schedule, x0_max)

    @_where_asked
    def denoiser(xt: Tensor, t: Tensor) -> Answer:
        output = run_network(network, prediction, schedule, xt, t, told)
        v = None
        if output.shape != xt.shape and xt.ndim > 1 and output.shape == _twice_the_channels(xt):
            output, v = output.chunk(2, dim=1)
        if learned_variance and v is None:
            wanted, got = _twice_the_channels(xt), tuple(output.shape)
            raise ValueError(f"with learned_variance the network must return the prediction and v, {wanted}, got {got}")
        x0_hat = read(output, xt, t)
        return Estimate(x0_hat, v) if learned_variance else x0_hat

    return denoiser


def _reader(
    prediction: Prediction, schedule: Schedule, x0_max: float | None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`to_x0` from (output, x_t, t), which remembers its two numbers for the times that samplers come back to."""

    if x0_max is not None:
        positive("x0_max", x0_max, "1.0 is for images in [−1, 1], None for no limit")

    @cache
    @torch.inference_mode(False)  # a later call may want a gradient, which tensors made in that mode do not give
    def weights(t: int | float, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        c_t, c_output = x0_weights(prediction, schedule, t)
        return c_t.to(device, dtype), c_output.to(device, dtype)

    def read(output: Tensor, xt: Tensor, t: Tensor) -> Tensor:
        if t.stride() != (0,) or not len(t):
            return to_x0(prediction, output, schedule, xt, t, x0_max)
        # One number expanded, as samplers pass it: what `to_x0` would compute for each example is known after one.
        return weigh(output, xt, *weights(t[0].item(), xt.device, xt.dtype), x0_max)

    return read


def _where_asked(denoiser: Denoiser) -> Denoiser:
    """Keep a graph for autograd where x_t requires a gradient, as likelihoods do (chapter 15), and not in sampling."""

    @wraps(denoiser)
    def careful(xt: Tensor, t: Tensor) -> Answer:
        with torch.set_grad_enabled(torch.is_grad_enabled() and xt.requires_grad):
            return denoiser(xt, t)

    return careful


def run_network(
    network: Callable[..., Tensor],
    prediction: Prediction,
    schedule: Schedule,
    xt: Tensor,
    t: Tensor,
    conditions: Conditions | None = None,
) -> Tensor:
    """Ask a network, in training and in sampling alike: network(x_t, t, **conditions), the time as it knows it.

    The time is `schedule.clock(t)`, where x_t is, and where it is real in float32 or x_t's better dtype. For "F" the
    input is scaled to variance one, c_in x_t = x_t / √(a² σ_d² + b²) (Karras et al. 2022, table 1).
    Chapters 4 and 6.

    Raises:
        ValueError: the network returns no tensor, as those of other libraries do; conditions are no tensors by name; or
            t is outside 0 … T.
    """
    told = checked(conditions)
    t = schedule.check_time(t)
    if prediction == "F":
        _, a, b = schedule.at(t)
        xt = expand(1 / torch.hypot(a * schedule.sigma_data, b), xt) * xt
    clock = schedule.clock(t)
    real = torch.promote_types(xt.dtype, torch.float32)
    output = network(xt, clock.to(xt.device, real if clock.is_floating_point() else clock.dtype), **told)
    if not isinstance(output, Tensor):
        raise not_a_tensor("the network", output)
    return output


def exact(data: ExactPosteriorMean, schedule: Schedule) -> Denoiser:
    """The optimal denoiser of a distribution that is known in closed form: nothing to train (chapter 3)."""

    def denoiser(xt: Tensor, t: Tensor) -> Tensor:
        _, a, b = schedule.at(t).like(xt)
        return data.posterior_mean(xt, a, b)

    return denoiser


def x0_of(answer: Answer) -> Tensor:
    """The x̂0 [B, …] in a denoiser's answer. Chapter 6.

    Raises:
        ValueError: there is no tensor in it.
    """
    x0_hat = answer.x0_hat if isinstance(answer, Estimate) else answer
    if not isinstance(x0_hat, Tensor):
        raise not_a_tensor("the denoiser", x0_hat)
    return x0_hat


def v_of(answer: Answer) -> Tensor | None:
    """The learned variance's v [B, …] in a denoiser's answer, where there is one. Chapter 4."""
    return answer.v if isinstance(answer, Estimate) else None


def on_x0(rule: Callable[..., Tensor], first: Answer, *others: Answer) -> Answer:
    """What a rule makes of the x̂0 of denoisers' answers, with the learned variance of the first, if it has one.

    This is how guidance treats a variance: it moves the mean of a reverse step and keeps the conditional denoiser's v.
    Chapter 8.

    Args:
        rule: from as many x̂0 [B, …] as there are answers to one.
        first, others: what denoisers returned; v is taken from `first` alone.
    """
    x0_hat, v = rule(*(x0_of(answer) for answer in (first, *others))), v_of(first)
    return x0_hat if v is None else Estimate(x0_hat, v)


def _twice_the_channels(xt: Tensor) -> tuple[int, ...]:
    return (len(xt), 2 * xt.shape[1], *xt.shape[2:])
