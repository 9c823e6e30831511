"""Noise schedules: how much signal a(t) and how much noise b(t) there is at time t.

Everywhere in this library t = 0 is data, t = T is noise, and x_t = a(t) x0 + b(t) ε.
Chapter 2 derives the schedules, chapter 6 builds this class.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class Schedule:
    """A discrete variance-preserving schedule: β_1 … β_T and everything that follows from them.

    Time runs over the integers 0 … T. The tables have T + 1 entries, so that `alpha_bar[t]` is ᾱ_t with no
    off-by-one, and entry 0 is the data: β_0 = 0, ᾱ_0 = 1. All tables are float64; `a(t)` and `b(t)` come in the
    dtype asked for.

    Args:
        beta: [T] tensor of β_1 … β_T, each in (0, 1); β_T may be 1, for a zero terminal signal-to-noise ratio.

    Source: Ho et al. 2020, equations 2 and 4. Derived in chapter 2.
    """

    def __init__(self, beta: Tensor) -> None:
        beta = torch.as_tensor(beta, dtype=torch.float64)
        if beta.ndim != 1 or len(beta) < 2:
            raise ValueError(
                f"beta must be a 1-D tensor of at least T = 2 steps, got shape {tuple(beta.shape)}; "
                "give one β for each step 1 … T"
            )
        if not bool(((beta > 0) & (beta <= 1)).all()):
            raise ValueError(
                f"every β must lie in (0, 1], got values from {beta.min().item():.4g} to {beta.max().item():.4g}; "
                "a step that removes a negative or more than the whole variance is not a diffusion step"
            )
        if bool((beta[:-1] == 1).any()):
            raise ValueError("only β_T may be 1, got a 1 before it; nothing of x0 is left to take steps on after that")
        self.T = len(beta)
        self.beta = torch.cat([torch.zeros(1, dtype=torch.float64), beta])
        self.alpha = 1 - self.beta
        # Summing log1p keeps 1 − ᾱ exact at small t, where 1 − cumprod(α) would cancel.
        log_alpha_bar = torch.log1p(-self.beta).cumsum(0)
        self.alpha_bar = log_alpha_bar.exp()
        self._a = (0.5 * log_alpha_bar).exp()
        self._b = (-torch.expm1(log_alpha_bar)).sqrt()

    def __repr__(self) -> str:
        return f"Schedule(T={self.T}, alpha_bar[T]={self.alpha_bar[-1].item():.3g})"

    def a(self, t: Tensor | int, like: Tensor | None = None) -> Tensor:
        """Signal coefficient √ᾱ_t in [0, 1]; see `b` for the arguments."""
        return self._look_up(self._a, t, like)

    def b(self, t: Tensor | int, like: Tensor | None = None) -> Tensor:
        """Noise coefficient √(1 − ᾱ_t) in [0, 1].

        Args:
            t: integer time or tensor of times, each in 0 … T.
            like: a batch [B, …] whose dtype, device and number of dimensions the answer takes, so that it
                multiplies the batch; without it the answer is float64 and has the shape of t.

        Raises:
            ValueError: t is outside 0 … T or not an integer.
        """
        return self._look_up(self._b, t, like)

    def log_snr(self, t: Tensor | int, like: Tensor | None = None) -> Tensor:
        """λ_t = log(a² / b²): +∞ at the data, falling with t (Kingma et al. 2021, equation 3)."""
        return self._look_up(2 * (self._a.log() - self._b.log()), t, like)

    def sigma(self, t: Tensor | int, like: Tensor | None = None) -> Tensor:
        """σ_t = b / a, the noise level after the signal is scaled back to size one (Karras et al. 2022)."""
        return self._look_up(self._b / self._a, t, like)

    def _look_up(self, table: Tensor, t: Tensor | int, like: Tensor | None) -> Tensor:
        t = self.check_time(t)
        values = table.to(t.device)[t]
        return values if like is None else expand(values, like)

    def check_time(self, t: Tensor | int) -> Tensor:
        """Return t as an int64 tensor, or say what is wrong with it."""
        t = torch.as_tensor(t)
        if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
            raise ValueError(f"t must be an integer in 0 … {self.T}, got dtype {t.dtype}; use t.long()")
        if t.numel() and not (int(t.min()) >= 0 and int(t.max()) <= self.T):
            raise ValueError(
                f"t must lie in 0 … {self.T} (0 is data, {self.T} is noise), got {int(t.min())} … {int(t.max())}"
            )
        return t.long()  # indexing would take bytes for a mask


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Give one number, or one per example [B], the dtype, device and dimensions [B, 1, …] to multiply `like`."""
    if not like.is_floating_point():
        raise ValueError(f"a batch must be floating point, got {like.dtype}; scale images to [−1, 1] first")
    if values.ndim and values.shape[0] not in (1, len(like)):
        raise ValueError(f"give one time, or one for each of the {len(like)} examples, got {values.shape[0]} times")
    values = values.to(like.device, like.dtype)
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim)) if values.ndim else values


def linear(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> Schedule:
    """β rises linearly from β_1 to β_T (Ho et al. 2020, section 4). Chapter 2."""
    return Schedule(torch.linspace(beta_1, beta_T, _steps(T), dtype=torch.float64))


def scaled_linear(T: int = 1000, beta_1: float = 0.00085, beta_T: float = 0.012) -> Schedule:
    """√β rises linearly: the schedule of Stable Diffusion (Rombach et al. 2022). Chapter 2."""
    return Schedule(torch.linspace(beta_1**0.5, beta_T**0.5, _steps(T), dtype=torch.float64) ** 2)


def cosine(T: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> Schedule:
    """ᾱ_t ∝ cos²(½π (t/T + s)/(1 + s)), each β at most beta_max (Nichol and Dhariwal 2021, equation 17). Chapter 2."""
    t = torch.arange(_steps(T) + 1, dtype=torch.float64) / T
    alpha_bar = torch.cos(0.5 * torch.pi * (t + s) / (1 + s)) ** 2
    return Schedule((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max))


def sigmoid(T: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """ᾱ_t falls like a sigmoid between start and end (Jabri et al. 2023, algorithm 1). Chapter 2."""
    t = torch.arange(_steps(T) + 1, dtype=torch.float64) / T
    curve = torch.sigmoid(-(start + (end - start) * t) / tau)
    alpha_bar = (curve - curve[-1]) / (curve[0] - curve[-1])
    alpha_bar = alpha_bar.clamp(min=1e-9)  # the curve ends in an exact zero, which no ε-prediction survives
    return Schedule(1 - alpha_bar[1:] / alpha_bar[:-1])


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Shift and stretch √ᾱ so that √ᾱ_T = 0 and √ᾱ_1 stays (Lin et al. 2024, algorithm 1). Chapter 2.

    At t = T nothing of x0 is left, so ε-prediction carries no information there: train with v.
    """
    a = schedule.a(torch.arange(1, schedule.T + 1))
    a = (a - a[-1]) * a[0] / (a[0] - a[-1])
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), a**2])
    return Schedule(1 - alpha_bar[1:] / alpha_bar[:-1])


SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "linear": linear,
    "scaled-linear": scaled_linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
}


def by_name(name: str, T: int = 1000) -> Schedule:
    """The schedule of that name with T steps; a ValueError lists the names there are."""
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}; choose one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name](T)


def _steps(T: int) -> int:
    if int(T) != T or T < 2:
        raise ValueError(f"T must be an integer of at least 2 steps, got {T!r}; the usual choice is 1000")
    return int(T)
