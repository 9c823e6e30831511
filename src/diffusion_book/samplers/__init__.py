"""Samplers: from noise back to data, one readable loop each.

Each takes a denoiser, a schedule, the starting x_T, a grid of times that falls to 0, and, where it draws noise, a
generator. None of them knows about networks.
"""

from diffusion_book._random import Generators, randn_like, seeded
from diffusion_book.samplers.common import Step, start_noise
from diffusion_book.samplers.ddim import ddim, ddim_invert, euler, euler_ancestral
from diffusion_book.samplers.ddpm import ddpm
from diffusion_book.samplers.dpm_solver import dpm_solver
from diffusion_book.samplers.grids import (
    check_times,
    karras_times,
    leading_times,
    log_snr_times,
    quadratic_times,
    uniform_times,
)
from diffusion_book.samplers.heun import heun
from diffusion_book.samplers.ode import encode, log_likelihood, probability_flow
from diffusion_book.samplers.predictor_corrector import predictor_corrector
from diffusion_book.samplers.unipc import unipc

__all__ = [
    "Generators",
    "Step",
    "check_times",
    "ddim",
    "ddim_invert",
    "ddpm",
    "dpm_solver",
    "encode",
    "euler",
    "euler_ancestral",
    "heun",
    "karras_times",
    "leading_times",
    "log_likelihood",
    "log_snr_times",
    "predictor_corrector",
    "probability_flow",
    "quadratic_times",
    "randn_like",
    "seeded",
    "start_noise",
    "uniform_times",
    "unipc",
]
