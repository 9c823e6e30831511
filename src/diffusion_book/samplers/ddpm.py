"""Ancestral sampling (Ho et al. 2020, algorithm 2). Derived in chapter 3, built in chapter 6."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from diffusion_book._random import Generators, randn_like
from diffusion_book.denoise import WithVariance
from diffusion_book.process import learned_std, step_coefficients
from diffusion_book.samplers.common import (
    Callback,
    Step,
    batch_of_times,
    check_estimate,
    combine,
    posterior_steps,
    steps_of,
)
from diffusion_book.samplers.grids import Times, check_times
from diffusion_book.schedules import Schedule

Variance = Literal["small", "large", "learned"]


def ddpm(
    denoiser: Callable[[Tensor, Tensor], Tensor | WithVariance],
    schedule: Schedule,
    xt: Tensor,
    times: Times,
    generator: Generators,
    variance: Variance = "small",
    callback: Callback | None = None,
) -> Tensor:
    """Walk back from x_t to data, drawing each x_s from q(x_s | x_t, x̂0).

    Args:
        denoiser: (x_t, t) → x̂0; for a learned variance one made by `denoise.from_network_with_variance`.
        xt: [B, …] the start, at times[0]: `start_noise(shape, generator)` when that is T.
        times: falling times that end in 0; `uniform_times(schedule, T)` visits every step, fewer skip.
        generator: the source of every random number of the walk; or one for each example.
        variance: "small" is the posterior's variance (right for data at one point), "large" is that of the forward
            step, β_{t|s} (right for data that is white noise): chapter 3 shows both bounds. "learned" is the
            network's own, between the two (Nichol and Dhariwal 2021, section 3.1).
        callback: told of each step, for pictures of the way.

    Returns:
        x_0 [B, …], without noise: the last step returns x̂0 itself.

    Raises:
        ValueError: variance is another; or it is "learned" and the denoiser says none.
    """
    if variance not in ("small", "large", "learned"):
        raise ValueError(f"variance must be 'small', 'large' or 'learned', got {variance!r}")
    times = check_times(schedule, times)
    posterior = posterior_steps(schedule, times)
    for i, t, s, where in steps_of(times):
        estimate = denoiser(xt, batch_of_times(xt, t))
        x0_hat = check_estimate(estimate, xt, t, where)
        c_0, c_t, std = posterior[i]
        xs = combine(c_t, xt, (c_0, x0_hat))
        if s > 0:
            if variance == "learned" and isinstance(estimate, WithVariance):
                check_estimate(estimate.v, xt, t, where, "v")
            xs = xs + _std(variance, schedule, estimate, std, t, s) * randn_like(xt, generator)
        xt = xs
        if callback is not None:
            callback(Step(t, s, xt, x0_hat))
    return xt


def _std(
    variance: Variance,
    schedule: Schedule,
    estimate: Tensor | WithVariance,
    small: float,
    t: int | float,
    s: int | float,
) -> Tensor | float:
    if variance == "small":
        return small
    if variance == "large":
        return float(step_coefficients(schedule, t, s)[1])
    if not isinstance(estimate, WithVariance):
        raise ValueError(
            "variance='learned' needs a denoiser that returns x̂0 and v: make it with denoise.from_network_with_variance"
        )
    return learned_std(schedule, estimate.v, t, s)
