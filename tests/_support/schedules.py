"""Schedules of every kind, times on them, and normal numbers."""

import torch

from diffusion_book import schedules
from diffusion_book.schedules import EDM, SCHEDULES, VE, VP, Cosine, Discrete, Flow, Schedule, SubVP

ZERO_SNR = schedules.zero_terminal_snr(schedules.linear(100))

ALL = [
    *(make(50) for make in SCHEDULES.values()),
    ZERO_SNR,
    schedules.linear(50).continuous(),
    ZERO_SNR.continuous(),
    Flow(),
    EDM(),
    VP(),
    VE(),
    SubVP(),
    Cosine(),
    Cosine(0.5),
]


def times_of(schedule: Schedule, n: int = 9, last: float = 0.99) -> torch.Tensor:
    """Noisy times from near the data to near the end."""
    if isinstance(schedule, Discrete):
        return torch.linspace(1, schedule.T - 1, n).long()
    return schedule.T * torch.linspace(0.003, last, n, dtype=torch.float64)


def normal(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=generator, dtype=dtype)
