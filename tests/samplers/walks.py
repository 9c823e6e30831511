"""Every sampler under one name with one signature, every grid, and networks that are never wrong."""

import torch

from diffusion_book import denoise, predictions, schedules
from diffusion_book.samplers import (
    ddim,
    ddpm,
    dpm_solver,
    euler,
    euler_ancestral,
    heun,
    karras_times,
    leading_times,
    log_snr_times,
    predictor_corrector,
    quadratic_times,
    uniform_times,
    unipc,
)

SCHEDULE = schedules.linear(100)
GRIDS = [uniform_times, leading_times, quadratic_times, karras_times, log_snr_times]


def learned(denoiser, schedule, x, times, generator, callback=None):
    """`ddpm` with a v that changes from number to number, beside any denoiser."""

    def with_variance(xt: torch.Tensor, t: torch.Tensor) -> denoise.WithVariance:
        x0_hat = denoiser(xt, t)
        return denoise.WithVariance(x0_hat, torch.cos(3 * xt) if x0_hat.shape == xt.shape else x0_hat)

    return ddpm(with_variance, schedule, x, times, generator, "learned", callback)


SAMPLERS = {
    "ddpm": lambda d, s, x, times, g, callback=None: ddpm(d, s, x, times, g, callback=callback),
    "ddpm-large": lambda d, s, x, times, g, callback=None: ddpm(d, s, x, times, g, "large", callback),
    "ddpm-learned": learned,
    "ddim": lambda d, s, x, times, g, callback=None: ddim(d, s, x, times, callback=callback),
    "ddim-half": lambda d, s, x, times, g, callback=None: ddim(d, s, x, times, 0.5, g, callback),
    "ddim-one": lambda d, s, x, times, g, callback=None: ddim(d, s, x, times, 1.0, g, callback),
    "euler": lambda d, s, x, times, g, callback=None: euler(d, s, x, times, callback),
    "euler-ancestral": lambda d, s, x, times, g, callback=None: euler_ancestral(d, s, x, times, g, 1.0, callback),
    "heun": lambda d, s, x, times, g, callback=None: heun(d, s, x, times, callback=callback),
    "heun-churn": lambda d, s, x, times, g, callback=None: heun(d, s, x, times, 5.0, generator=g, callback=callback),
    "dpm-1": lambda d, s, x, times, g, callback=None: dpm_solver(d, s, x, times, 1, callback=callback),
    "dpm-2": lambda d, s, x, times, g, callback=None: dpm_solver(d, s, x, times, 2, callback=callback),
    "dpm-3": lambda d, s, x, times, g, callback=None: dpm_solver(d, s, x, times, 3, callback=callback),
    "dpm-2-sde": lambda d, s, x, times, g, callback=None: dpm_solver(d, s, x, times, 2, 1.0, g, callback),
    "dpm-3-sde": lambda d, s, x, times, g, callback=None: dpm_solver(d, s, x, times, 3, 1.0, g, callback),
    "unipc-1": lambda d, s, x, times, g, callback=None: unipc(d, s, x, times, 1, callback),
    "unipc-2": lambda d, s, x, times, g, callback=None: unipc(d, s, x, times, 2, callback),
    "unipc-3": lambda d, s, x, times, g, callback=None: unipc(d, s, x, times, 3, callback),
    "predictor-corrector": lambda d, s, x, times, g, callback=None: predictor_corrector(
        d, s, x, times, g, callback=callback
    ),
}
DETERMINISTIC = {"ddim", "euler", "heun", "dpm-1", "dpm-2", "dpm-3", "unipc-1", "unipc-2", "unipc-3"}
TWO_EVALUATIONS = {"heun", "heun-churn", "predictor-corrector"}  # a step, the second of them at s
CONTINUOUS_ONLY = {"heun-churn"}


def on(name: str, schedule: schedules.Discrete = SCHEDULE) -> schedules.Schedule:
    """The schedule, or its continuous self for a sampler that visits times between."""
    return schedule.continuous() if name in CONTINUOUS_ONLY else schedule


def perfect_network(exact: denoise.Denoiser, schedule: schedules.Schedule, prediction: predictions.Prediction):
    """What knows E[x0 | x_t] and says it as this face, from what networks are told: the clock, and "F" a scaled x_t."""

    def network(x: torch.Tensor, clock: torch.Tensor) -> torch.Tensor:
        t = clock.double() if clock.is_floating_point() else clock  # in float32 no clamp keeps it from passing T
        if isinstance(schedule, schedules.EDM):
            t = (4 * t).exp()
        elif float(schedule.clock(torch.tensor(schedule.T))) != schedule.T:
            t = schedule.T / 1000 * t
        t = t.clamp(max=schedule.T)
        if prediction == "F":
            _, a, b = schedule.at(t).like(x)
            x = torch.hypot(schedule.sigma_data * a, b) * x
        return predictions.from_x0(prediction, exact(x, t), schedule, x, t)

    return network
