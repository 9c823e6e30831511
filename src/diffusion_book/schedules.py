"""Noise schedules: how much signal a(t) and how much noise b(t) there is at time t.

Everywhere in this library t = 0 is data, t = T is noise, and x_t = a(t) x0 + b(t) ε. A `Discrete` schedule has
integer times and β_t; a `Continuous` one has real times. Chapter 2 derives the schedules, chapter 6 builds the class.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor

from diffusion_book._checks import check_floating
from diffusion_book._names import unknown

Time = Tensor | int | float


class Schedule(ABC):
    """How much signal a(t) and how much noise b(t): x_t = a(t) x0 + b(t) ε for t from 0 (data) to T (noise).

    Each method takes a time, or a tensor of times, and optionally `like`: a batch [B, …] whose dtype, device and number
    of dimensions the answer takes, so that it multiplies the batch. Without it the answer is float64, shaped like t and
    where t is. A time outside 0 … T is a ValueError.

    Numbers are computed in float64 on the CPU, whatever the device: `check_time` brings the times there. A subclass
    gives `_a`, `_b` and their derivatives at times so checked; `process` calls these too, to check a time only once.

    Source: Kingma et al. 2021, section 3.1, for a, b and λ as functions of t. Chapters 2 and 6.

    Attributes:
        T: the last time; nothing but noise is left there, or next to nothing else.
        sigma_data: the standard deviation that the prediction "F" takes the data to have (Karras et al. 2022).
    """

    T: int | float
    sigma_data: float = 1.0

    def a(self, t: Time, like: Tensor | None = None) -> Tensor:
        """Signal coefficient; 1 at the data."""
        return _give(self._a(self.check_time(t)), t, like)

    def b(self, t: Time, like: Tensor | None = None) -> Tensor:
        """Noise coefficient; 0 at the data."""
        return _give(self._b(self.check_time(t)), t, like)

    def d_a(self, t: Time, like: Tensor | None = None) -> Tensor:
        """ȧ = da/dt."""
        return _give(self._d_a(self.check_time(t)), t, like)

    def d_b(self, t: Time, like: Tensor | None = None) -> Tensor:
        """ḃ = db/dt; for `VP`, where noise comes in like √t, it is infinite at t = 0."""
        return _give(self._d_b(self.check_time(t)), t, like)

    def log_snr(self, t: Time, like: Tensor | None = None) -> Tensor:
        """λ_t = log(a² / b²): +∞ at the data, falling with t, −∞ where a = 0 (Kingma et al. 2021, section 3.1)."""
        at = self.check_time(t)
        return _give(2 * (self._a(at).log() - self._b(at).log()), t, like)

    def d_log_snr(self, t: Time, like: Tensor | None = None) -> Tensor:
        """dλ/dt = 2 (ȧ/a − ḃ/b), never positive; −∞ at the data and where a = 0."""
        at = self.check_time(t)
        return _give(2 * (self._d_a(at) / self._a(at) - self._d_b(at) / self._b(at)), t, like)

    def sigma(self, t: Time, like: Tensor | None = None) -> Tensor:
        """σ_t = b / a, the noise level after the signal is scaled back to size one (Karras et al. 2022)."""
        at = self.check_time(t)
        return _give(self._b(at) / self._a(at), t, like)

    def time_at(self, log_snr: Tensor | float) -> Tensor:
        """The time with this log-SNR, the inverse of `log_snr`; the nearest time where the schedule has none."""
        wanted = _as_tensor(log_snr).cpu().double()
        if bool(wanted.isnan().any()):
            raise ValueError("no time has a log-SNR of NaN; expected numbers, −∞ and +∞ among them")
        return _give(self._time_at(wanted), log_snr, None)

    @property
    def prior_std(self) -> float:
        """√(a_T² + b_T²), the standard deviation of x_T for data of variance one: 1, or √(1 + σ_max²) for EDM."""
        return math.hypot(float(self.a(self.T)), float(self.b(self.T)))

    @property
    def ends_in_noise(self) -> bool:
        """Whether a(T) is exactly 0: zero terminal signal-to-noise ratio (Lin et al. 2024)."""
        return float(self.a(self.T)) == 0

    def clock(self, t: Tensor) -> Tensor:
        """What a network is told of the time: a number that moves by hundreds between data and noise."""
        return t

    @abstractmethod
    def check_time(self, t: Time, noisy: bool = False) -> Tensor:
        """Return t on the CPU in this schedule's kind of number, or say what is wrong; `noisy` leaves out t = 0."""

    def _check_range(self, t: Tensor, noisy: bool, times: str) -> None:
        if not t.numel():
            return
        low, high = (float(value) for value in t.detach().aminmax())
        if not (low >= 0 and high <= self.T) or (noisy and low == 0):
            raise ValueError(
                f"t must lie in {times} (0 is data, {self.T:.6g} is noise), got "
                + (f"{low:.6g} … {high:.6g}" if t.numel() > 1 else f"{low:.6g}")
            )

    @abstractmethod
    def _time_at(self, log_snr: Tensor) -> Tensor: ...

    @abstractmethod
    def _a(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _b(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _d_a(self, t: Tensor) -> Tensor: ...

    @abstractmethod
    def _d_b(self, t: Tensor) -> Tensor: ...


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
        t = torch.as_tensor(t)
        if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
            raise ValueError(f"t must be an integer in {int(noisy)} … {self.T}, got dtype {t.dtype}; use t.long()")
        t = t.cpu().long()  # indexing would take bytes for a mask
        self._check_range(t, noisy, f"{int(noisy)} … {self.T}")
        return t

    def _time_at(self, log_snr: Tensor) -> Tensor:
        """The integer in 1 … T whose angle is nearest to that of this log-SNR."""
        times = torch.bucketize(_angle(log_snr), 0.5 * (self.angle[1:] + self.angle[:-1]))
        return times.clamp(1, self.T)

    def _a(self, t: Tensor) -> Tensor:
        return self._a_table[t]

    def _b(self, t: Tensor) -> Tensor:
        return self._b_table[t]

    def _d_a(self, t: Tensor) -> Tensor:
        return -self._b(t) * self._d_angle(t)

    def _d_b(self, t: Tensor) -> Tensor:
        return self._a(t) * self._d_angle(t)

    def _d_angle(self, t: Tensor) -> Tensor:
        return self.angle.diff()[(t - 1).clamp(min=0)]  # entry t − 1 is the step to t; at the data the first stands in


class Continuous(Schedule):
    """A schedule for every real time in [0, T] (Song et al. 2021b, section 3; Kingma et al. 2021, section 3.1).

    Chapter 2 has the curves, chapter 15 what continuous time is good for.
    """

    T: float = 1.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}(T={self.T:g})"

    def check_time(self, t: Time, noisy: bool = False) -> Tensor:
        """Return t as a float64 tensor on the CPU; a ValueError where it is outside [0, T] (or (0, T])."""
        t = _as_tensor(t)
        times = f"{'(' if noisy else '['}0, {self.T:.6g}]"
        if t.is_complex() or t.dtype == torch.bool:
            raise ValueError(f"t must be a real number in {times}, got dtype {t.dtype}")
        t = t.cpu().double()
        self._check_range(t, noisy, times)
        return t

    def clock(self, t: Tensor) -> Tensor:
        """1000 t/T, so that an embedding made for a thousand steps resolves it."""
        return 1000 / self.T * t


class _Interpolated(Continuous):
    def __init__(self, discrete: Discrete) -> None:
        self.discrete = discrete
        self.T = float(discrete.T)

    def __repr__(self) -> str:
        return f"{self.discrete!r}.continuous()"

    def clock(self, t: Tensor) -> Tensor:
        return t

    def _time_at(self, log_snr: Tensor) -> Tensor:
        knots, angle = self.discrete.angle, _angle(log_snr)
        step = torch.searchsorted(knots, angle).clamp(1, self.discrete.T)
        part = (angle - knots[step - 1]) / (knots[step] - knots[step - 1])
        return (step - 1 + part).clamp(0, self.T)

    def _a(self, t: Tensor) -> Tensor:
        # At the integers the discrete tables, which are exact where a cosine of nearly π/2 is not.
        return torch.where(t == t.round(), self.discrete._a(t.round().long()), self._angle_at(t).cos())

    def _b(self, t: Tensor) -> Tensor:
        return torch.where(t == t.round(), self.discrete._b(t.round().long()), self._angle_at(t).sin())

    def _d_a(self, t: Tensor) -> Tensor:
        return -self._b(t) * self.discrete._d_angle(t.ceil().long())

    def _d_b(self, t: Tensor) -> Tensor:
        return self._a(t) * self.discrete._d_angle(t.ceil().long())

    def _angle_at(self, t: Tensor) -> Tensor:
        angle = self.discrete.angle
        step = t.ceil().long().clamp(min=1)
        return torch.lerp(angle[step - 1], angle[step], t - (step - 1))


class Flow(Continuous):
    """Rectified flow: a = 1 − t, b = t, a straight line from x0 to ε (Liu et al. 2023, section 2.1). Chapter 15.

    The times of the papers on flow matching that put the data at 1 are 1 − t, and their velocity is −u.
    """

    def _time_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)

    def _a(self, t: Tensor) -> Tensor:
        return 1 - t

    def _b(self, t: Tensor) -> Tensor:
        return t

    def _d_a(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def _d_b(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class EDM(Continuous):
    """Nothing is scaled, a = 1, and time is the noise level itself, b = σ = t. Chapters 4 and 7.

    Source: Karras et al. 2022, table 1, the column “Ours”.

    Args:
        sigma_max: T, where sampling starts; x_T is noise of that standard deviation, not of one.
        sigma_data: the standard deviation of the data, for the prediction "F".
    """

    def __init__(self, sigma_max: float = 80.0, sigma_data: float = 0.5) -> None:
        if not (0 < sigma_max < math.inf and 0 < sigma_data < math.inf):
            raise ValueError(f"sigma_max and sigma_data must be positive and finite, got {sigma_max} and {sigma_data}")
        self.T, self.sigma_data = float(sigma_max), float(sigma_data)

    def clock(self, t: Tensor) -> Tensor:
        """¼ ln σ (their table 1)."""
        return 0.25 * t.log()

    def _time_at(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-0.5 * log_snr).clamp(max=self.T)

    def _a(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def _b(self, t: Tensor) -> Tensor:
        return t

    def _d_a(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def _d_b(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class VP(Continuous):
    """The variance-preserving SDE: β(t) rises linearly in t ∈ [0, 1] (Song et al. 2021b, appendix C). Chapter 15.

    a = exp(−½ ∫β) and b = √(1 − a²). With β from 0.1 to 20 it is the limit of `linear` for T → ∞.
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0 < beta_min <= beta_max < math.inf:
            raise ValueError(f"expected 0 < beta_min ≤ beta_max < ∞, got {beta_min} and {beta_max}")
        self.beta_min, self.beta_max = beta_min, beta_max

    def beta(self, t: Tensor) -> Tensor:
        """β(t), the rate at which signal is lost."""
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def _time_at(self, log_snr: Tensor) -> Tensor:
        # ∫β = −log a² = log(1 + e^−λ), and no more of it than there is at T: below λ_T that is the nearest time.
        integral = -torch.nn.functional.logsigmoid(log_snr).clamp(min=-0.5 * (self.beta_min + self.beta_max))
        # The positive root of ½ slope t² + β_min t = ∫β, in the form that does not cancel.
        root = (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral).sqrt()
        return (2 * integral / (self.beta_min + root)).clamp(max=self.T)

    def _log_a(self, t: Tensor) -> Tensor:
        return -0.5 * t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)

    def _a(self, t: Tensor) -> Tensor:
        return self._log_a(t).exp()

    def _b(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_a(t))).sqrt()

    def _d_a(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t) * self._a(t)

    def _d_b(self, t: Tensor) -> Tensor:
        return 0.5 * self.beta(t) * self._a(t) ** 2 / self._b(t)


class Cosine(Continuous):
    """The angle itself is time: a = cos(½πt), b = sin(½πt), so a(1) = 0 (Nichol and Dhariwal 2021, without s).

    Its log-SNR can be moved as a whole by 2 log(shift): images with twice the side keep as much of their coarse
    content at shift = ½ (Hoogeboom et al. 2023, section 2.1). Chapter 2.
    """

    def __init__(self, shift: float = 1.0) -> None:
        if not 0 < shift < math.inf:
            raise ValueError(f"shift must be positive and finite, got {shift}; below 1 there is more noise")
        self.shift = shift

    # tan φ = tan(½πt) / shift: a = shift cos/r, b = sin/r with r² = (shift cos)² + sin².
    def _time_at(self, log_snr: Tensor) -> Tensor:
        return _angle(log_snr - 2 * math.log(self.shift)) / (0.5 * math.pi)

    def _r(self, t: Tensor) -> Tensor:
        return torch.hypot(self.shift * _cos(t), _sin(t))

    def _a(self, t: Tensor) -> Tensor:
        return self.shift * _cos(t) / self._r(t)

    def _b(self, t: Tensor) -> Tensor:
        return _sin(t) / self._r(t)

    def _d_angle(self, t: Tensor) -> Tensor:
        return 0.5 * math.pi * self.shift / self._r(t) ** 2

    def _d_a(self, t: Tensor) -> Tensor:
        return -self._b(t) * self._d_angle(t)

    def _d_b(self, t: Tensor) -> Tensor:
        return self._a(t) * self._d_angle(t)


def _sin(t: Tensor) -> Tensor:
    return torch.sin(0.5 * math.pi * t)


def _cos(t: Tensor) -> Tensor:
    return torch.sin(0.5 * math.pi * (1 - t))  # exactly 0 at t = 1, where torch.cos gives 6e−17


def _angle(log_snr: Tensor) -> Tensor:
    """φ = arctan(b/a) = arctan(e^{−λ/2}) in [0, π/2]."""
    return torch.atan(torch.exp(-0.5 * log_snr))


def _as_tensor(t: Time) -> Tensor:
    """t as a tensor; a Python float would become float32, and 0.1 another time than the 0.1 of a float64 tensor."""
    tensor = torch.as_tensor(t)
    return (
        tensor if isinstance(t, Tensor) or not tensor.is_floating_point() else torch.as_tensor(t, dtype=torch.float64)
    )


def _give(values: Tensor, t: Time, like: Tensor | None) -> Tensor:
    if like is not None:
        return expand(values, like)
    return values.to(t.device) if isinstance(t, Tensor) else values


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Give one number, or one per example [B], the dtype, device and dimensions [B, 1, …] to multiply `like`."""
    check_floating("a batch", like)
    if values.ndim > like.ndim or any(n not in (1, m) for n, m in zip(values.shape, like.shape)):
        raise ValueError(
            f"give one time, or one for each of the {len(like) if like.ndim else 1} examples, got "
            + (f"{values.shape[0]} times" if values.ndim == 1 else f"times of shape {tuple(values.shape)}")
        )
    values = values.to(like.device, like.dtype)
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim)) if values.ndim else values


def linear(T: int = 1000, beta_1: float = 1e-4, beta_T: float = 0.02) -> Discrete:
    """β rises linearly from β_1 to β_T (Ho et al. 2020, section 4). Chapter 2."""
    _check_betas(beta_1, beta_T)
    return Discrete(torch.linspace(beta_1, beta_T, _steps(T), dtype=torch.float64))


def scaled_linear(T: int = 1000, beta_1: float = 0.00085, beta_T: float = 0.012) -> Discrete:
    """√β rises linearly: the schedule of Stable Diffusion (Rombach et al. 2022). Chapter 2."""
    _check_betas(beta_1, beta_T)
    return Discrete(torch.linspace(beta_1**0.5, beta_T**0.5, _steps(T), dtype=torch.float64) ** 2)


def cosine(T: int = 1000, s: float = 0.008, beta_max: float = 0.999) -> Discrete:
    """ᾱ_t ∝ cos²(½π (t/T + s)/(1 + s)), each β at most beta_max (Nichol and Dhariwal 2021, section 3.2). Chapter 2."""
    if not (0 <= s < math.inf and 0 < beta_max <= 1):
        raise ValueError(
            f"expected 0 ≤ s < ∞ and beta_max in (0, 1], got {s} and {beta_max}; 0.008 and 0.999 are usual"
        )
    t = torch.arange(_steps(T) + 1, dtype=torch.float64) / T
    alpha_bar = torch.cos(0.5 * torch.pi * (t + s) / (1 + s)) ** 2
    return Discrete((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=beta_max))


def sigmoid(T: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Discrete:
    """ᾱ_t falls like a sigmoid from start to end (Jabri et al. 2023, figure 8; as coded by Chen 2023). Chapter 2."""
    if not (-math.inf < start < end < math.inf and 0 < tau < math.inf):
        raise ValueError(
            f"expected finite start < end and a positive tau, got {start}, {end} and {tau}; −3, 3 and 1 are usual"
        )
    t = torch.arange(_steps(T) + 1, dtype=torch.float64) / T
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
    a = schedule.a(torch.arange(1, schedule.T + 1))
    a = (a - a[-1]) * a[0] / (a[0] - a[-1])
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), a**2])
    return Discrete(1 - alpha_bar[1:] / alpha_bar[:-1])


SCHEDULES: dict[str, Callable[[int], Discrete]] = {
    "linear": linear,
    "scaled-linear": scaled_linear,
    "cosine": cosine,
    "sigmoid": sigmoid,
}
CONTINUOUS: dict[str, Callable[[], Continuous]] = {"flow": Flow, "edm": EDM, "vp": VP, "continuous-cosine": Cosine}


def by_name(name: str, T: int | None = None) -> Schedule:
    """The schedule of that name: with T steps (1000 where it is not said), or continuous.

    Raises:
        ValueError: an unknown name, with the list of names; or a T for a schedule that has no steps.
    """
    if name in SCHEDULES:
        return SCHEDULES[name](1000 if T is None else T)
    if name not in CONTINUOUS:
        raise ValueError(unknown("schedule", name, [*SCHEDULES, *CONTINUOUS]))
    if T is not None:
        raise ValueError(f"{name!r} is continuous and takes no T, got {T}; leave T out")
    return CONTINUOUS[name]()


def _check_betas(beta_1: float, beta_T: float) -> None:
    if not 0 < beta_1 <= beta_T <= 1:
        raise ValueError(
            f"expected 0 < beta_1 ≤ beta_T ≤ 1, shares of the variance that a step replaces, got {beta_1} and {beta_T}"
        )


def _steps(T: int) -> int:
    if not (isinstance(T, Real) and float(T).is_integer() and T >= 2):
        raise ValueError(f"T must be an integer of at least 2 steps, got {T!r}; the usual choice is 1000")
    return int(T)
