"""Schedules of T steps: β_1 … β_T, and what follows from them. Chapter 2."""

import math
from numbers import Real

import torch
from torch import Tensor

from diffusion_book.schedules.base import Continuous, Schedule, Time, angle_at, as_tensor


class Discrete(Schedule):
    """A variance-preserving schedule of T steps: β_1 … β_T and everything that follows from them.

    Time runs over the integers 0 … T. The tables have T + 1 entries, so that `alpha_bar[t]` is ᾱ_t with no
    off-by-one, and entry 0 is the data: β_0 = 0, ᾱ_0 = 1. All tables are float64.

    Between the integers the angle φ = arctan(b/a) is taken to be linear, which is smooth at both ends, whatever β is.
    `continuous()` is that schedule. Here it gives the derivatives, those of the step that ends at t:
    ȧ = −b φ̇ and ḃ = a φ̇ with φ̇ = φ_t − φ_{t−1}.

    Args:
        beta: [T] tensor of β_1 … β_T, each in (0, 1); β_T may be 1, for a zero terminal signal-to-noise ratio.

    Source: Ho et al. 2020, equations 2 and 4. Derived in chapter 2.
    """

    T: int

    def __init__(self, beta: Tensor) -> None:
        beta = as_tensor(beta).double()
        if beta.ndim != 1 or len(beta) < 2:
            raise ValueError(
                f"beta must be a 1-D tensor of at least T = 2 steps, one β each, got shape {tuple(beta.shape)}"
            )
        low, high = beta.min().item(), beta.max().item()
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"every β, a share of the variance, must lie in (0, 1], got values from {low:.4g} to {high:.4g}"
            )
        if bool((beta[:-1] == 1).any()):
            raise ValueError("only β_T may be 1, got a 1 before it; nothing of x0 is left to take steps on after that")
        self.T = len(beta)
        self.beta = torch.cat([beta.new_zeros(1), beta])
        self.alpha = 1 - self.beta
        # Summing log1p keeps 1 − ᾱ exact at small t, where 1 − cumprod(α) would cancel.
        log_alpha_bar = torch.log1p(-self.beta).cumsum(0)
        self.alpha_bar = log_alpha_bar.exp()
        self._a_table = (0.5 * log_alpha_bar).exp()
        self._b_table = torch.expm1(log_alpha_bar).abs().sqrt()  # 1 − ᾱ; a minus sign would make the b_0 = 0 a −0
        self.angle = torch.atan2(self._b_table, self._a_table)

    def __repr__(self) -> str:
        return f"Discrete(T={self.T}, alpha_bar[T]={self.alpha_bar[-1].item():.3g})"

    def continuous(self) -> "Continuous":
        """The same schedule for every real t in [0, T]: equal at the integers, the angle linear between them."""
        return _Interpolated(self)

    def check_time(self, t: Time, noisy: bool = False) -> Tensor:
        """Return t as an int64 tensor on the CPU; a ValueError where it is not an integer in 0 … T (or 1 … T)."""
        t = as_tensor(t)
        if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
            raise ValueError(f"t must be an integer in {int(noisy)} … {self.T}, got dtype {t.dtype}; use t.long()")
        return self._in_range(t, noisy, f"{int(noisy)} … {self.T}").long()  # indexing would take bytes for a mask

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self._a_table[t], self._b_table[t]

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self._at(t)
        d_angle = self._d_angle(t)
        return -b * d_angle, a * d_angle

    def _time_at(self, log_snr: Tensor) -> Tensor:
        """The integer in 1 … T whose angle is nearest to that of this log-SNR."""
        times = torch.bucketize(angle_at(log_snr), 0.5 * (self.angle[1:] + self.angle[:-1]))
        return times.clamp(1, self.T)

    def _d_angle(self, t: Tensor) -> Tensor:
        return self.angle.diff()[(t - 1).clamp(min=0)]  # entry t − 1 is the step to t; at the data the first stands in


class _Interpolated(Continuous):
    def __init__(self, discrete: Discrete) -> None:
        self.discrete = discrete
        self.T = float(discrete.T)

    def __repr__(self) -> str:
        return f"{self.discrete!r}.continuous()"

    def clock(self, t: Tensor) -> Tensor:
        return t

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        # At the integers the discrete tables, which are exact where a cosine of nearly π/2 is not.
        whole, angle = t == t.round(), self._angle_at(t)
        a, b = self.discrete._at(t.round().long())
        return torch.where(whole, a, angle.cos()), torch.where(whole, b, angle.sin())

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self._at(t)
        d_angle = self.discrete._d_angle(t.ceil().long())
        return -b * d_angle, a * d_angle

    def _time_at(self, log_snr: Tensor) -> Tensor:
        knots, angle = self.discrete.angle, angle_at(log_snr)
        step = torch.searchsorted(knots, angle).clamp(1, self.discrete.T)
        part = (angle - knots[step - 1]) / (knots[step] - knots[step - 1])
        return (step - 1 + part).clamp(0, self.T)

    def _angle_at(self, t: Tensor) -> Tensor:
        angle = self.discrete.angle
        step = t.ceil().long().clamp(min=1)
        return torch.lerp(angle[step - 1], angle[step], t - (step - 1))


def linear(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> Discrete:
    """β rises linearly from β_1 to β_T (Ho et al. 2020, section 4). Chapter 2."""
    _check_betas(beta_1, beta_T)
    return Discrete(torch.linspace(beta_1, beta_T, _steps(T), dtype=torch.float64, device="cpu"))


def scaled_linear(T: int = 1000, beta_1: float = 0.00085, beta_T: float = 0.012) -> Discrete:
    """√β rises linearly: the schedule of Stable Diffusion (Rombach et al. 2022). Chapter 2."""
    _check_betas(beta_1, beta_T)
    return Discrete(torch.linspace(beta_1**0.5, beta_T**0.5, _steps(T), dtype=torch.float64, device="cpu") ** 2)


def cosine(T: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> Discrete:
    """ᾱ_t ∝ cos²(½π (t/T + s)/(1 + s)), each β at most beta_max (Nichol and Dhariwal 2021, section 3.2). Chapter 2."""
    if not (0 <= s < math.inf and 0 < beta_max <= 1):
        raise ValueError(f"expected 0 ≤ s < ∞ and beta_max in (0, 1], got {s} and {beta_max}; usual: 0.008, 0.999")
    t = torch.arange(_steps(T) + 1, dtype=torch.float64, device="cpu") / T
    alpha_bar = torch.cos(0.5 * torch.pi * (t + s) / (1 + s)) ** 2
    return Discrete((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max))


def sigmoid(T: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Discrete:
    """ᾱ_t falls like a sigmoid from start to end (Jabri et al. 2023, figure 8; as coded by Chen 2023). Chapter 2."""
    if not (-math.inf < start < end < math.inf and 0 < tau < math.inf):
        raise ValueError(
            f"expected finite start < end and a positive tau, got {start}, {end} and {tau}; −3, 3 and 1 are usual"
        )
    t = torch.arange(_steps(T) + 1, dtype=torch.float64, device="cpu") / T
    curve = torch.sigmoid(-(start + (end - start) * t) / tau)
    alpha_bar = (curve - curve[-1]) / (curve[0] - curve[-1])
    alpha_bar = alpha_bar.clamp(min=1e-9)  # the curve ends in an exact zero, which no ε-prediction survives
    return Discrete(1 - alpha_bar[1:] / alpha_bar[:-1])


def zero_terminal_snr(schedule: Discrete) -> Discrete:
    """Shift and stretch √ᾱ so that √ᾱ_T = 0 and √ᾱ_1 stays (Lin et al. 2024, algorithm 1). Chapter 2.

    At t = T nothing of x0 is left, so ε-prediction carries no information there: train with v.
    """
    if not isinstance(schedule, Discrete):
        raise ValueError(f"only a discrete schedule can be rescaled, got {schedule!r}; rescale it before continuous()")
    a = schedule.at(range(1, schedule.T + 1)).a
    a = (a - a[-1]) * a[0] / (a[0] - a[-1])
    alpha_bar = torch.cat([a.new_ones(1), a**2])
    return Discrete(1 - alpha_bar[1:] / alpha_bar[:-1])


def _check_betas(beta_1: float, beta_T: float) -> None:
    if not 0 < beta_1 <= beta_T <= 1:
        raise ValueError(f"expected 0 < beta_1 ≤ beta_T ≤ 1, shares of variance replaced, got {beta_1} and {beta_T}")


def _steps(T: int) -> int:
    if not (isinstance(T, Real) and float(T).is_integer() and T >= 2):
        raise ValueError(f"T must be an integer of at least 2 steps, got {T!r}; the usual choice is 1000")
    return int(T)
