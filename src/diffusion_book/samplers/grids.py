"""Time grids: which times a sampler visits. Each starts at the noise, t = T, and ends at the data, t = 0."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from diffusion_book.schedules import Schedule


def uniform_times(T: int, steps: int) -> list[int]:
    """`steps` + 1 times from T down to 0, as evenly spaced as integers allow (chapter 6).

    Raises:
        ValueError: steps is outside 1 … T.
    """
    if int(steps) != steps or not 1 <= steps <= T:
        raise ValueError(
            f"steps must be an integer in 1 … T = {T}, got {steps!r}; a discrete schedule has only T steps to skip"
        )
    return torch.linspace(T, 0, int(steps) + 1, dtype=torch.float64).round().long().tolist()


def check_times(schedule: Schedule, times: Sequence[int]) -> list[int]:
    """Return the grid as a list of ints, or say what is wrong: it must fall strictly, from at most T, to exactly 0."""
    if len(times) < 2:
        raise ValueError(
            f"a time grid needs at least a start and an end, got {list(times)}; try uniform_times({schedule.T}, 50)"
        )
    grid = schedule.check_time(torch.as_tensor(times)).tolist()
    if any(t <= s for t, s in pairwise(grid)):
        raise ValueError(f"a time grid must fall strictly from noise to data, got {_abbreviate(grid)}")
    if grid[-1] != 0:
        raise ValueError(
            f"a time grid must end at the data, t = 0, got an end of {grid[-1]}: the last step would leave noise"
        )
    return grid


def _abbreviate(grid: list[int]) -> str:
    return str(grid) if len(grid) <= 8 else f"[{', '.join(map(str, grid[:4]))}, …, {grid[-2]}, {grid[-1]}]"
