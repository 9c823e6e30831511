"""What the samplers share: the starting noise, the walk along a grid, and what a callback is told. Chapter 6."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_book._double import real_on
from diffusion_book._random import Generators, randn_like
from diffusion_book.denoise import Answer, Denoiser, x0_of
from diffusion_book.process import posterior_between
from diffusion_book.samplers.grids import Times, check_times
from diffusion_book.schedules import Level, Schedule


class Step(NamedTuple):
    """One step of a sampler, as a callback sees it: x_s [B, …] at the time s it arrived at, and the x̂0 it used.

    The tensors are the sampler's own, not copies: keep them as long as you like, and do not write into them. In
    `probability_flow` and `encode`, where each example goes at its own pace, t and s are [B].
    """

    t: int | float | Tensor
    s: int | float | Tensor
    xs: Tensor
    x0_hat: Tensor


Callback = Callable[[Step], None]


def start_noise(
    shape: Sequence[int],
    generator: Generators,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    schedule: Schedule | None = None,
) -> Tensor:
    """x_T ~ N(0, prior_std²), where the reverse process starts (Ho et al. 2020, algorithm 2). Chapter 3.

    It is drawn on the generator's device and then moved, so that a CPU seed gives the same picture on any machine.

    Args:
        shape: [B, …] of the batch.
        generator: one, or one for each example: see `samplers.seeded`.
        schedule: its `prior_std` scales the noise; it is needed for `schedules.EDM` only, where that is not 1.

    Raises:
        ValueError: shape is one number; or the generators are none, or of another number than B.
    """
    if isinstance(shape, Integral):
        raise ValueError(f"shape is that of the batch, [B, …], such as ({shape}, 1, 28, 28); got {shape}")
    x = randn_like(torch.empty(tuple(shape), dtype=dtype), generator)
    x = x if schedule is None else schedule.prior_std * x
    return x if device is None else x.to(device)


class Move(NamedTuple):
    """A step from t to an earlier s, in Python floats: it then costs nothing but its own arithmetic. Chapter 6.

    Between its two levels lies the posterior q(x_s | x_t, x_0) = N(c_0 x0 + c_t x_t, std²).

    Source: Kingma et al. 2021, appendix A, for c_0, c_t and std.
    """

    t: int | float
    s: int | float
    a_t: float
    b_t: float
    a_s: float
    b_s: float
    c_0: float
    c_t: float
    std: float
    number: int = 1
    """Which step of its walk this is, from 1 on."""
    of: int = 1
    """How many steps the walk has."""

    @property
    def sigma_t(self) -> float:
        """σ_t = b_t/a_t, infinite where a_t = 0."""
        return self.b_t / self.a_t if self.a_t > 0 else math.inf

    @property
    def sigma_s(self) -> float:
        """σ_s = b_s/a_s; there is always some signal at an earlier time."""
        return self.b_s / self.a_s

    def __str__(self) -> str:
        return f"step {self.number} of {self.of}"


def walk(schedule: Schedule, times: Times) -> list[Move]:
    """The moves of a grid, from noise to data: what every sampler loops over. Chapter 6.

    Args:
        times: falling times that end in 0, as `check_times` wants them.

    Raises:
        ValueError: the times are no such grid.

    Source: Kingma et al. 2021, appendix A.
    """
    level = schedule.at(check_times(schedule, times))
    t, s = Level(*(numbers[:-1] for numbers in level)), Level(*(numbers[1:] for numbers in level))
    columns = (t.t, s.t, t.a, t.b, s.a, s.b, *posterior_between(t, s))
    steps = len(t.t)
    rows = zip(*(numbers.tolist() for numbers in columns), range(1, steps + 1), [steps] * steps)
    return [Move._make(row) for row in rows]


def combine(c_t: float, xt: Tensor, *terms: tuple[float, Tensor]) -> Tensor:
    """c_t x_t + Σ_k c_k x̂0_k, in one pass over the batch for each term.

    Two terms in one pass: c_t x_t + c_0 x̂0 is the outer product of x̂0 with a single one, added to x_t. A sum that
    scales both its terms is not among torch's operations by itself, and in two passes a step takes an eighth longer.
    """
    (c_0, x0_hat), *others = terms
    one = _one(x0_hat.dtype, x0_hat.device)
    xs = torch.addr(xt.ravel(), one, x0_hat.ravel(), beta=c_t, alpha=c_0).view_as(xt)
    for c, x0_hat in others:
        xs.add_(x0_hat, alpha=c)  # into what we have just made, and nobody has seen
    return xs


@cache
@torch.inference_mode(False)  # a later call may want a gradient, which tensors made in that mode do not give
def _one(dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.ones(1, dtype=dtype, device=device)


def denoise_at(denoiser: Denoiser, xt: Tensor, m: Move, t: int | float | None = None) -> Tensor:
    """x̂0 at the start of a move, or at time t, for the whole batch; the first NaN or infinity is told with its step."""
    t = m.t if t is None else t
    return check_estimate(denoiser(xt, batch_of_times(xt, t)), xt, t, m)


def batch_of_times(xt: Tensor, t: int | float) -> Tensor:
    """[B] copies of t where x_t is: int64 for integer times, else float64, or float32 where the device has no other."""
    if not (isinstance(xt, Tensor) and xt.is_floating_point()):
        found = xt.dtype if isinstance(xt, Tensor) else type(xt).__name__
        raise ValueError(f"a batch must be floating point, got {found}; start from start_noise or from add_noise")
    dtype = torch.long if isinstance(t, int) else real_on(xt.device)
    return torch.full((), t, dtype=dtype, device=xt.device).expand(xt.shape[0])


def check_estimate(answer: Answer, xt: Tensor, t: int | float | Tensor, step: Move | str, what: str = "x̂0") -> Tensor:
    """Return a denoiser's x̂0, or `what` else, in x_t's dtype; raise where it has not x_t's shape, or is not finite."""
    x0_hat = answer if isinstance(answer, Tensor) else x0_of(answer)
    if x0_hat.shape != xt.shape:
        found, time = tuple(x0_hat.shape), _time_of(0, t)
        raise ValueError(f"the denoiser must return {what} of shape {tuple(xt.shape)}, got {found} at t = {time:g}")
    # One cheap sum finds almost always that all is well; only where it is not finite do we look at every number.
    if not math.isfinite(x0_hat.sum().item()) and not bool((finite := torch.isfinite(x0_hat)).all()):
        time = _time_of(int((~finite).nonzero()[0, 0]), t)
        raise FloatingPointError(f"the denoiser gave NaN or infinity at t = {time:g} ({step}); look at its output")
    return x0_hat if x0_hat.dtype == xt.dtype else x0_hat.to(xt.dtype)  # asking costs a tenth of `to`


def _time_of(example: int, t: int | float | Tensor) -> int | float:
    return t[example].item() if isinstance(t, Tensor) else t


def check_generator(name: str, amount: float, generator: Generators | None) -> None:
    """A ValueError for noise without a generator."""
    if amount > 0 and generator is None:
        raise ValueError(f"{name} > 0 draws noise, so pass a torch.Generator; {name} = 0 needs none")
