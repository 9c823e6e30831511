"""Ancestral sampling of Gaussian data, solved without drawing a number."""

from itertools import pairwise

import torch
from diffusion_book.schedules import Schedule


def sampled_variance(
    schedule: Schedule, data_var: float, times: list[int], variance: str = "small"
) -> float:
    """Return the variance of ancestral samples for data N(0, data_var), in one dimension.

    times fall from T to 0, x_T is standard normal, variance is "small" or "large",
    and the last step adds no noise.
    """
    # solution
    V = 1.0
    for t, s in pairwise(times):
        (_, a_t, b_t), (_, a_s, b_s) = (map(float, schedule.at(k)) for k in (t, s))
        a_ts = a_t / a_s
        w = (a_ts * b_s / b_t) ** 2
        c_0, c_t = a_s * (1 - w), a_ts * (b_s / b_t) ** 2
        k = a_t * data_var / (a_t**2 * data_var + b_t**2)
        std2 = b_s**2 * (1 - w) if variance == "small" else (1 - a_ts**2) * (s > 0)
        V = (c_0 * k + c_t) ** 2 * V + std2
    return V
    # end solution


def check(sampled_variance):
    from diffusion_book import data, denoise, samplers, schedules

    schedule, n = schedules.cosine(100), 20_000
    ones, zeros = (
        torch.ones(1, dtype=torch.float64),
        torch.zeros(1, 1, dtype=torch.float64),
    )
    generator = torch.Generator().manual_seed(0)
    for data_var, steps, variance in [
        (1.0, 10, "small"),
        (1.0, 10, "large"),
        (0.2, 25, "small"),
        (0.2, 5, "large"),
    ]:
        denoiser = denoise.exact(
            data.GaussianMixture(
                ones, zeros, torch.full((1, 1, 1), data_var).double()
            ),
            schedule,
        )
        times = samplers.uniform_times(schedule, steps)
        start = samplers.start_noise((n, 1), generator, dtype=torch.float64)
        simulated = float(
            samplers.ddpm(
                denoiser,
                schedule,
                start,
                times,
                generator=generator,
                variance=variance,
            ).var()
        )
        found = float(sampled_variance(schedule, data_var, times, variance))
        error = (
            5 * simulated * (2 / n) ** 0.5
        )  # five standard errors of a Gaussian's sample variance
        assert abs(found - simulated) < error, (
            f"data variance {data_var}, {steps} steps, {variance}: "
            f"you say {found:.4f}, simulation {simulated:.4f}"
        )
