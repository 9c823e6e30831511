"""Samplers: from noise back to data, one readable loop in one file each.

Each takes a denoiser, a schedule, the starting x_T, a grid of times that falls to 0, and a generator.
None of them knows about networks.
"""

from diffusion_book.samplers.common import Step, start_noise
from diffusion_book.samplers.ddim import ddim
from diffusion_book.samplers.ddpm import ddpm
from diffusion_book.samplers.grids import check_times, uniform_times

__all__ = ["Step", "check_times", "ddim", "ddpm", "start_noise", "uniform_times"]
