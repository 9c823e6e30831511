"""Heun's method with EDM's churn (Karras et al. 2022, algorithm 2). Chapter 7."""

import math

import torch
from torch import Tensor

from diffusion_book.denoise import Denoiser
from diffusion_book.process import Generators, randn_like
from diffusion_book.samplers.common import Callback, Step, coefficients, denoise_at, steps_of
from diffusion_book.samplers.grids import Times, check_times
from diffusion_book.schedules import Discrete, Schedule


def heun(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    times: Times,
    churn: float = 0.0,
    churn_from: float = 0.0,
    churn_to: float = math.inf,
    churn_noise: float = 1.0,
    generator: Generators | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Two evaluations a step, for d(x/a)/dσ = ε̂: Euler to s, then again with the mean of the slopes at both ends.

    The last step, to σ = 0, is Euler's alone, since there is no slope to take there; so is a first step from a(T) = 0,
    where σ is infinite. N steps cost 2N − 1 evaluations.

    Args:
        denoiser: (x_t, t) → x̂0.
        xt: [B, …] the start, at times[0]. times: falling times that end in 0.
        churn: S_churn: each step first raises σ by the factor 1 + min(churn/N, √2 − 1) with fresh noise, and so
            forgets a little of its errors. It visits times between those of the grid, which a discrete schedule does
            not have: use `schedule.continuous()`.
        churn_from, churn_to: the range of σ where it does so (S_min, S_max), as far as the schedule reaches.
        churn_noise: the standard deviation of that noise, S_noise.
        generator: needed where churn > 0.
        callback: told of each step.
    """
    if churn < 0:
        raise ValueError(f"churn must not be negative, got {churn}")
    if churn > 0 and generator is None:
        raise ValueError("churn > 0 draws noise, so pass a torch.Generator; churn = 0 needs none")
    if churn > 0 and isinstance(schedule, Discrete):
        raise ValueError("churn visits times between the integers: sample on schedule.continuous()")
    times = check_times(schedule, times)
    a, b, sigmas = coefficients(schedule, times)
    gamma = min(churn / (len(times) - 1), math.sqrt(2) - 1)
    for i, t, s, where in steps_of(times):
        a_t, b_t, sigma_t = a[i], b[i], sigmas[i]
        if generator is not None and gamma > 0 and churn_from <= sigma_t <= min(churn_to, _largest(schedule, gamma)):
            sigma_hat = (1 + gamma) * sigma_t
            t, a_hat, b_hat = _at_sigma(schedule, sigma_hat)
            added = a_hat * churn_noise * math.sqrt(sigma_hat**2 - sigma_t**2)
            xt = (a_hat / a_t) * xt + added * randn_like(xt, generator)
            a_t, b_t, sigma_t = a_hat, b_hat, sigma_hat
        a_s, b_s, sigma_s = a[i + 1], b[i + 1], sigmas[i + 1]
        x0_hat = denoise_at(denoiser, xt, t, where)
        eps_hat = (xt - a_t * x0_hat) / b_t
        xs = a_s * x0_hat + b_s * eps_hat
        if s > 0 and a_t > 0:
            x0_hat = denoise_at(denoiser, xs, s, where)
            slope = 0.5 * (eps_hat + (xs - a_s * x0_hat) / b_s)
            xs = (a_s / a_t) * xt + a_s * (sigma_s - sigma_t) * slope
        xt = xs
        if callback is not None:
            callback(Step(t, s, xt, x0_hat))
    return xt


def _at_sigma(schedule: Schedule, sigma: float) -> tuple[float, float, float]:
    """The time with this σ, and a and b such that b/a is σ to the last digit."""
    t = float(schedule.time_at(torch.tensor(-2 * math.log(sigma), dtype=torch.float64)))
    a = float(schedule.a(t))
    return t, a, a * sigma


def _largest(schedule: Schedule, gamma: float) -> float:
    """Above this σ there is no room to churn: the schedule ends."""
    return float(schedule.sigma(schedule.T)) / (1 + gamma)
