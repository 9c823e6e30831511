"""Samplers: from noise back to data, one readable loop each.

Each takes a denoiser, a schedule, the starting x_T and a grid of times that falls to 0. Behind these come options by
name, in one order: the sampler's own (`eta`, `order`, …), then the `generator` where it draws noise, then a `callback`
that is told of each step. None of them knows about networks. `by_name` has each with the grid that suits it; a new
sampler is a file here and a line in `SAMPLERS`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from diffusion_book._names import unknown
from diffusion_book._random import Generators, randn_like, seeded
from diffusion_book.denoise import Denoiser
from diffusion_book.samplers.common import Callback, Move, Step, start_noise, walk
from diffusion_book.samplers.ddim import ddim, ddim_invert
from diffusion_book.samplers.ddpm import ddpm
from diffusion_book.samplers.dpm_solver import dpm_solver
from diffusion_book.samplers.grids import (
    Times,
    check_times,
    karras_times,
    leading_times,
    log_snr_times,
    quadratic_times,
    uniform_times,
)
from diffusion_book.samplers.heun import heun
from diffusion_book.samplers.langevin import langevin
from diffusion_book.samplers.ode import encode, log_likelihood, probability_flow
from diffusion_book.samplers.predictor_corrector import predictor_corrector
from diffusion_book.samplers.sde import sde
from diffusion_book.samplers.unipc import unipc
from diffusion_book.schedules import Schedule

__all__ = [
    "SAMPLERS",
    "Generators",
    "Move",
    "Sampler",
    "Step",
    "by_name",
    "check_times",
    "ddim",
    "ddim_invert",
    "ddpm",
    "dpm_solver",
    "encode",
    "heun",
    "karras_times",
    "langevin",
    "leading_times",
    "log_likelihood",
    "log_snr_times",
    "predictor_corrector",
    "probability_flow",
    "quadratic_times",
    "randn_like",
    "sde",
    "seeded",
    "start_noise",
    "uniform_times",
    "unipc",
    "walk",
]


class Sampler(NamedTuple):
    """A sampler as it is known by name: with its options set, and called like every other. Chapter 7.

        sampler = samplers.by_name("heun")
        x0 = sampler(denoiser, schedule, x_T, sampler.grid(schedule, 18), generator=generator)

    A new sampler is one more line of `SAMPLERS`.
    """

    loop: Callable[..., Tensor]
    """The function of this room, with its options."""
    grid: Callable[[Schedule, int], Times]
    """The times that suit it, from a schedule and a number of steps."""
    draws_noise: bool
    """Whether it draws noise on the way, beside that of the start."""

    def __call__(
        self,
        denoiser: Denoiser,
        schedule: Schedule,
        xt: Tensor,
        times: Times,
        *,
        generator: Generators | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """x_0 [B, …] from x_t [B, …]; the generator is left aside by who draws no noise."""
        noise = {"generator": generator} if self.draws_noise else {}
        return self.loop(denoiser, schedule, xt, times, **noise, callback=callback)


SAMPLERS: dict[str, Sampler] = {
    "ddpm": Sampler(ddpm, uniform_times, True),
    "ddim": Sampler(ddim, uniform_times, False),
    "euler": Sampler(ddim, karras_times, False),
    "euler_ancestral": Sampler(partial(ddim, eta=1.0), karras_times, True),
    "heun": Sampler(heun, karras_times, False),
    "dpm_solver": Sampler(dpm_solver, log_snr_times, False),
    "dpm_solver_3m": Sampler(partial(dpm_solver, order=3), log_snr_times, False),
    "dpm_solver_sde": Sampler(partial(dpm_solver, eta=1.0), log_snr_times, True),
    "unipc": Sampler(unipc, log_snr_times, False),
    "predictor_corrector": Sampler(predictor_corrector, uniform_times, True),
    "sde": Sampler(sde, uniform_times, True),
}
"""Every sampler that carries x along a grid, which `langevin` does not."""


def by_name(name: str) -> Sampler:
    """The sampler of that name, with the grid that suits it; a hyphen is as good as an underscore. Chapter 7.

    Raises:
        ValueError: an unknown name, with the list of names.
    """
    key = name.replace("-", "_").lower()
    if key not in SAMPLERS:
        raise ValueError(unknown("sampler", name, SAMPLERS))
    return SAMPLERS[key]
