"""What a schedule is: how much signal a(t) and how much noise b(t) there is at time t. Chapters 2 and 6."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusion_book._checks import check_floating

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
