"""Time grids: which times a sampler visits. Each starts at the noise, t = T, and ends at the data, t = 0.

Every grid has `steps` + 1 times. For a `Discrete` schedule they are integers and fall strictly; where a rule asks for
two times within one step, its neighbours make room. Chapters 6 and 7.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral

import torch
from torch import Tensor

from diffusion_book.schedules import Discrete, Schedule

Times = Sequence[int] | Sequence[float]


def uniform_times(schedule: Schedule, steps: int) -> Times:
    """As evenly spaced as there are times: T, T − T/steps, …, 0. Chapters 6 and 7.

    diffusers calls it "trailing" (Lin et al. 2024, section 3.3).
    """
    _check_steps(schedule, steps)
    return _finish(schedule, torch.linspace(schedule.T, 0, steps + 1, dtype=torch.float64, device="cpu"))


def leading_times(schedule: Discrete, steps: int) -> Times:
    """T, then 1 + k ⌊T/steps⌋ down to 1, then 0: the grid of the code of DDIM, but for its first time. Chapter 7.

    diffusers calls it "leading" and starts at 1 + (steps − 1) ⌊T/steps⌋. That is below T, where something of x0 is
    left that pure noise does not have (Lin et al. 2024, section 3.3); this grid starts at T.
    """
    _check_steps(schedule, steps)
    if not isinstance(schedule, Discrete):
        raise ValueError(f"leading times are integers, which {schedule!r} does not have; try uniform_times")
    stride = schedule.T // steps
    return [schedule.T, *(1 + stride * k for k in range(steps - 2, -1, -1)), 0]


def quadratic_times(schedule: Schedule, steps: int) -> Times:
    """√t is evenly spaced: more steps near the data (Song et al. 2021a, appendix D.2). Chapter 7."""
    _check_steps(schedule, steps)
    return _finish(schedule, schedule.T * torch.linspace(1, 0, steps + 1, dtype=torch.float64, device="cpu") ** 2)


def karras_times(
    schedule: Schedule,
    steps: int,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Times:
    """σ^{1/ρ} is evenly spaced from σ_max to σ_min, and then comes 0 (Karras et al. 2022, equation 5). Chapter 7.

    Args:
        schedule: any; its times are those at which b/a is the wanted σ. The first is T, whatever σ_max is.
        rho: from 1, which spaces σ evenly, to 1000, which is nearly `log_snr_times`; 7 is their choice.
        sigma_min: the last noise before none: 0.002 where it is not given, or σ_1 if that is more.
        sigma_max: the first, at most σ_T; σ_T where it is not given, or 80 if that is less.
    """
    _check_steps(schedule, steps)
    if not 1 <= rho <= 1000:
        raise ValueError(f"rho must lie in 1 … 1000, got {rho}; 7 is the usual choice")  # beyond, powers lose σ_min
    low, high = _sigma_range(schedule, sigma_min, sigma_max)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64, device="cpu")
    sigma = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return _at_sigmas(schedule, sigma)


def log_snr_times(
    schedule: Schedule, steps: int, sigma_min: float | None = None, sigma_max: float | None = None
) -> Times:
    """The log-SNR is evenly spaced, and so is log σ (Lu et al. 2022a, section 3.4). Chapter 7.

    Arguments as in `karras_times`.
    """
    _check_steps(schedule, steps)
    low, high = _sigma_range(schedule, sigma_min, sigma_max)
    ramp = torch.linspace(math.log(high), math.log(low), steps, dtype=torch.float64, device="cpu")
    return _at_sigmas(schedule, ramp.exp())


def check_times(schedule: Schedule, times: Times | Tensor) -> Times:
    """Return the grid as a list of numbers, or say what is wrong: it must fall, from at most T to exactly 0.

    A start below T is allowed, since editing starts there; from pure noise it is the flaw that Lin et al. 2024,
    section 3.3, describe. Chapters 6 and 7.
    """
    _check_schedule(schedule)
    try:
        count = len(times)
    except TypeError:
        steps = times if isinstance(times, Integral) else 50
        raise ValueError(
            f"a time grid is a list of times, got {times!r}; make a grid such as uniform_times(schedule, {steps})"
        ) from None
    if count < 2:
        raise ValueError(f"a time grid needs at least a start and an end, got {times}; try uniform_times(schedule, 50)")
    grid = schedule.check_time(times).tolist()
    if any(t <= s for t, s in pairwise(grid)):
        raise ValueError(f"a time grid must fall strictly from noise to data, got {_abbreviate(grid)}")
    if grid[-1] != 0:
        raise ValueError(
            f"a time grid must end at the data, t = 0, got an end of {grid[-1]}: the last step would leave noise"
        )
    return grid


def _at_sigmas(schedule: Schedule, sigma: Tensor) -> Times:
    times = schedule.time_at(-2 * sigma.log()).double()
    times[0] = schedule.T
    return _finish(schedule, torch.cat([times, times.new_zeros(1)]))


def _finish(schedule: Schedule, times: Tensor) -> Times:
    """Floats as they are; integers rounded and moved apart, so that each step is at least 1."""
    if not isinstance(schedule, Discrete):
        return times.tolist()
    # How many steps are still to come after each time.
    room = torch.arange(len(times) - 1, -1, -1, dtype=torch.float64, device="cpu")
    times = torch.maximum(times.round(), room)
    return (torch.cummin(times - room, 0).values + room).long().tolist()


def _sigma_range(schedule: Schedule, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    first = float(schedule.at(1).sigma) if isinstance(schedule, Discrete) else 0.0
    most = float(schedule.at(schedule.T).sigma)
    low = max(0.002, first) if sigma_min is None else sigma_min
    high = min(80.0, most) if sigma_max is None else sigma_max
    if not (0 < low < high <= most and high < math.inf):
        most_of_all = f"σ_T = {most:g}" if most < math.inf else "any finite σ"
        raise ValueError(f"expected 0 < sigma_min < sigma_max ≤ {most_of_all}, got {low:g} and {high:g}")
    return low, high


def _check_schedule(schedule: Schedule) -> None:
    if not isinstance(schedule, Schedule):
        raise ValueError(f"the first argument is a schedule, got {schedule!r}; a grid needs to know its times")


def _check_steps(schedule: Schedule, steps: int) -> None:
    _check_schedule(schedule)
    most = schedule.T if isinstance(schedule, Discrete) else math.inf
    if not isinstance(steps, Integral) or not 1 <= steps <= most:
        discrete = f" in 1 … T = {most}, got {steps!r}; a discrete schedule has only T steps to skip"
        raise ValueError("steps must be an integer" + (discrete if most < math.inf else f" above 0, got {steps!r}"))


def _abbreviate(grid: list[int] | list[float]) -> str:
    return str(grid) if len(grid) <= 8 else f"[{', '.join(map(str, grid[:4]))}, …, {grid[-2]}, {grid[-1]}]"
