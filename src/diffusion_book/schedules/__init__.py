"""Noise schedules: how much signal a(t) and how much noise b(t) there is at time t.

Everywhere in this library t = 0 is data, t = T is noise, and x_t = a(t) x0 + b(t) ε. A `Discrete` schedule has
integer times and β_t; a `Continuous` one has real times. Chapter 2 derives the schedules, chapter 6 builds the class.
"""

from diffusion_book.schedules.base import Continuous, Level, Schedule, Time, as_tensor, expand
from diffusion_book.schedules.continuous import EDM, VE, VP, Cosine, Flow, SubVP
from diffusion_book.schedules.discrete import Discrete, cosine, linear, scaled_linear, sigmoid, zero_terminal_snr
from diffusion_book.schedules.named import CONTINUOUS, SCHEDULES, by_name

__all__ = [
    "CONTINUOUS",
    "EDM",
    "SCHEDULES",
    "VE",
    "VP",
    "Continuous",
    "Cosine",
    "Discrete",
    "Flow",
    "Level",
    "Schedule",
    "SubVP",
    "Time",
    "as_tensor",
    "by_name",
    "cosine",
    "expand",
    "linear",
    "scaled_linear",
    "sigmoid",
    "zero_terminal_snr",
]
