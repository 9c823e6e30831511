"""Every sampler under one name with one signature, every grid, and networks that are never wrong."""

from functools import partial

import torch

from diffusion_book import denoise, predictions, samplers, schedules
from diffusion_book.samplers import (
    Sampler,
    ddim,
    ddpm,
    dpm_solver,
    heun,
    karras_times,
    leading_times,
    log_snr_times,
    quadratic_times,
    uniform_times,
    unipc,
)

SCHEDULE = schedules.linear(100)
GRIDS = [uniform_times, leading_times, quadratic_times, karras_times, log_snr_times]


def learned(denoiser, schedule, x, times, **options):
    """`ddpm` with a v that changes from number to number, beside any denoiser."""

    def with_variance(xt: torch.Tensor, t: torch.Tensor) -> denoise.Estimate:
        x0_hat = denoiser(xt, t)
        return denoise.Estimate(x0_hat, torch.cos(3 * xt) if x0_hat.shape == xt.shape else x0_hat)

    return ddpm(with_variance, schedule, x, times, variance="learned", **options)


WALKS = samplers.SAMPLERS | {
    "ddpm_large": Sampler(partial(ddpm, variance="large"), uniform_times, True),
    "ddpm_learned": Sampler(learned, uniform_times, True),
    "ddim_half": Sampler(partial(ddim, eta=0.5), uniform_times, True),
    "heun_churn": Sampler(partial(heun, churn=5.0), karras_times, True),
    "dpm_solver_1": Sampler(partial(dpm_solver, order=1), log_snr_times, False),
    "dpm_solver_3m_sde": Sampler(partial(dpm_solver, order=3, eta=1.0), log_snr_times, True),
    "unipc_1": Sampler(partial(unipc, order=1), log_snr_times, False),
    "unipc_3": Sampler(partial(unipc, order=3), log_snr_times, False),
}


def _positional(sampler: Sampler):
    return lambda d, s, x, times, g, callback=None: sampler(d, s, x, times, generator=g, callback=callback)


SAMPLERS = {name: _positional(sampler) for name, sampler in WALKS.items()}
DETERMINISTIC = {name for name, sampler in WALKS.items() if not sampler.draws_noise}
TWO_EVALUATIONS = {"heun", "heun_churn", "predictor_corrector"}  # a step, the second of them at s
CONTINUOUS_ONLY = {"heun_churn"}


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
