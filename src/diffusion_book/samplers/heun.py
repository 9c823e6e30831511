"""Heun's method with EDM's churn (Karras et al. 2022, algorithm 2). Chapter 7."""

import math

import torch
from torch import Tensor

from diffusion_book._random import Generators, randn_like
from diffusion_book.denoise import Denoiser
from diffusion_book.samplers.common import Callback, Step, check_generator, combine, denoise_at, walk
from diffusion_book.samplers.grids import Times
from diffusion_book.schedules import Discrete, Schedule


def heun(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    times: Times,
    *,
    churn: float = 0.0,
    churn_from: float = 0.0,
    churn_to: float = math.inf,
    churn_noise: float = 1.0,
    max_fall: float = 3.0,
    generator: Generators | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Two evaluations a step, for d(x/a)/dσ = ε̂: Euler to s, then again with the mean of the slopes at both ends.

    The last step, to σ = 0, is Euler's alone, since there is no slope to take there. N steps cost at most 2N − 1
    evaluations.

    With r = σ_t/σ_s a corrected step heads for x̂0 + ½ r (x̂0 at s − x̂0). From r = 2 on that lies beyond the second
    estimate, without limit as r grows, and on a schedule that ends in (almost) pure noise the first step has an r of
    hundreds: it would miss by r − 1 times as much as Euler's (chapter 7). So a step on which σ falls more than
    threefold is Euler's too. This is all that keeps it from algorithm 2, and `max_fall=math.inf` undoes it.

    Args:
        denoiser: (x_t, t) → x̂0.
        xt: [B, …] the start, at times[0]. times: falling times that end in 0; `karras_times` suit it.
        churn: S_churn: each step first raises σ by the factor 1 + min(churn/N, √2 − 1) with fresh noise, and so
            forgets a little of its errors. It visits times between those of the grid, which a discrete schedule does
            not have: use `schedule.continuous()`.
        churn_from, churn_to: the range of σ where it does so (S_min, S_max), as far as the schedule reaches.
        churn_noise: the standard deviation of that noise, S_noise.
        max_fall: the largest r at which a step takes the mean of two slopes; above 1.
        generator: needed where churn > 0.
        callback: told of each step, with its last x̂0.

    Returns:
        x_0 [B, …], without noise.

    Raises:
        ValueError: a number is outside its range; churn > 0 without a generator or on a discrete schedule.

    Source: Karras et al. 2022, algorithm 2.
    """
    _check_churn(schedule, churn, churn_from, churn_to, churn_noise, generator)
    if not max_fall > 1:
        raise ValueError(f"max_fall is a ratio σ_t/σ_s and must be above 1, got {max_fall}; inf corrects every step")
    moves = walk(schedule, times)
    gamma = min(churn / len(moves), math.sqrt(2) - 1)
    churn_to = min(
        churn_to, float(schedule.at(schedule.T).sigma) / (1 + gamma)
    )  # there is no noise to go up to above T
    for m in moves:
        t_hat, a_t, b_t, sigma_t = m.t, m.a_t, m.b_t, m.sigma_t
        if generator is not None and gamma > 0 and churn_from <= sigma_t <= churn_to and a_t > 0:
            sigma_hat = (1 + gamma) * sigma_t
            t_hat, a_hat, b_hat = _at_sigma(schedule, sigma_hat)
            added = a_hat * churn_noise * math.sqrt(sigma_hat**2 - sigma_t**2)
            xt = combine(a_hat / a_t, xt, (added, randn_like(xt, generator)))
            a_t, b_t, sigma_t = a_hat, b_hat, sigma_hat
        x0_hat = denoise_at(denoiser, xt, m, t_hat)
        xs = combine(m.b_s / b_t, xt, (m.a_s - m.b_s * a_t / b_t, x0_hat))  # Euler's a_s x̂0 + b_s ε̂
        if m.s > 0 and a_t > 0 and sigma_t <= max_fall * m.sigma_s:
            x0_at_s = denoise_at(denoiser, xs, m, m.s)
            # From t to Euler's x_s the slope ε̂ = (x/a − x̂0)/σ changes by (x̂0 − x̂0 at s)/σ_s: half of it was missing.
            xs = torch.add(xs, x0_at_s - x0_hat, alpha=0.5 * m.a_s * (sigma_t / m.sigma_s - 1))
            x0_hat = x0_at_s
        xt = xs
        if callback is not None:
            callback(Step(m.t, m.s, xt, x0_hat))
    return xt


def _check_churn(
    schedule: Schedule,
    churn: float,
    churn_from: float,
    churn_to: float,
    churn_noise: float,
    generator: Generators | None,
) -> None:
    if not (0 <= churn < math.inf and 0 <= churn_noise < math.inf):
        raise ValueError(f"churn and churn_noise must be finite and not negative, got {churn} and {churn_noise}")
    if not 0 <= churn_from <= churn_to:
        raise ValueError(f"expected 0 ≤ churn_from ≤ churn_to, which are noises σ, got {churn_from} and {churn_to}")
    check_generator("churn", churn, generator)
    if churn > 0 and isinstance(schedule, Discrete):
        raise ValueError("churn visits times between the integers: sample on schedule.continuous()")


def _at_sigma(schedule: Schedule, sigma: float) -> tuple[float, float, float]:
    """The time with this σ, and a and b such that b/a is σ to the last digit."""
    t = float(schedule.time_at(-2 * math.log(sigma)))
    a = float(schedule.at(t).a)
    return t, a, a * sigma
