"""What a schedule is: how much signal a(t) and how much noise b(t) there is at time t. Chapters 2 and 6."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_book._checks import check_floating

Time = Tensor | float | Sequence[float]
"""A time, or several: a number, numbers, or a tensor of them."""


class Level(NamedTuple):
    """How much signal and how much noise there is at time t: x_t = a x0 + b ε. Chapter 2.

    The numbers are float64 and on the CPU, whatever the device, and have t's shape; `like` makes them multiply a batch.

    Source: Kingma et al. 2021, section 3.1.
    """

    t: Tensor
    """The time, checked."""
    a: Tensor
    """Signal coefficient; 1 at the data."""
    b: Tensor
    """Noise coefficient; 0 at the data."""

    @property
    def sigma(self) -> Tensor:
        """σ_t = b / a, the noise level after the signal is scaled back to size one (Karras et al. 2022)."""
        return self.b / self.a

    @property
    def log_snr(self) -> Tensor:
        """λ_t = log(a² / b²): +∞ at the data, falling with t, −∞ where a = 0 (Kingma et al. 2021, section 3.1)."""
        return 2 * (self.a.log() - self.b.log())

    def like(self, x: Tensor) -> "Level":
        """a and b in the dtype, on the device and with the dimensions [B, 1, …] that multiply a batch x [B, …].

        Raises:
            ValueError: x is not floating point, or has another number of examples than there are times.
        """
        return Level(self.t, expand(self.a, x), expand(self.b, x))


class Schedule(ABC):
    """How much signal a(t) and how much noise b(t): x_t = a(t) x0 + b(t) ε for t from 0 (data) to T (noise).

    `at` answers for a time or a tensor of times, and `rates` how fast it changes there; `time_at` is the way back. A
    subclass writes `_at`, `_rates` and `_time_at`, for numbers that are checked, in float64 and on the CPU.

    Source: Kingma et al. 2021, section 3.1, for a, b and λ as functions of t. Chapters 2 and 6.

    Attributes:
        T: the last time; nothing but noise is left there, or next to nothing else.
        sigma_data: the standard deviation that the prediction "F" takes the data to have (Karras et al. 2022).
    """

    T: int | float
    sigma_data: float = 1.0

    def at(self, t: Time, noisy: bool = False) -> Level:
        """The level at each of these times, which lie in 0 … T; `noisy` leaves out t = 0.

        Raises:
            ValueError: a time is outside 0 … T, or of another kind of number than this schedule's.
        """
        t = self.check_time(t, noisy)
        return Level(t, *self._at(t))

    def rates(self, t: Time) -> tuple[Tensor, Tensor]:
        """ȧ = da/dt and ḃ = db/dt, float64, on the CPU; for `VP`, where noise comes in like √t, ḃ(0) is infinite.

        Raises:
            ValueError: as `at`.
        """
        return self._rates(self.check_time(t))

    def time_at(self, log_snr: Tensor | float) -> Tensor:
        """The time with this log-SNR, on the CPU, and the nearest time where the schedule has none.

        Raises:
            ValueError: a log-SNR is NaN.
        """
        wanted = as_tensor(log_snr).double()
        if bool(wanted.isnan().any()):
            raise ValueError("no time has a log-SNR of NaN; expected numbers, −∞ and +∞ among them")
        return self._time_at(wanted)

    @property
    def prior_std(self) -> float:
        """√(a_T² + b_T²), the standard deviation of x_T for data of variance one: 1, or √(1 + σ_max²) for EDM."""
        _, a, b = self.at(self.T)
        return math.hypot(float(a), float(b))

    @property
    def ends_in_noise(self) -> bool:
        """Whether a(T) is exactly 0: zero terminal signal-to-noise ratio (Lin et al. 2024)."""
        return float(self.at(self.T).a) == 0

    def clock(self, t: Tensor) -> Tensor:
        """What a network is told of the time: a number that moves by hundreds between data and noise."""
        return t

    @abstractmethod
    def check_time(self, t: Time, noisy: bool = False) -> Tensor:
        """Return t on the CPU in this schedule's kind of number, or say what is wrong; `noisy` leaves out t = 0."""

    def _in_range(self, t: Tensor, noisy: bool, times: str) -> Tensor:
        """t, where all of it is in range; T itself may have been rounded up, by t's dtype or on the way by float32."""
        if not t.numel():
            return t
        low, high = (value.item() for value in t.detach().aminmax())
        if self.T < high <= max(torch.tensor(self.T, dtype=kind).item() for kind in (t.dtype, torch.float32)):
            return self._in_range(t.double().clamp(max=self.T), noisy, times)
        if not (low >= 0 and high <= self.T) or (noisy and low == 0):
            raise ValueError(
                f"t must lie in {times} (0 is data, {self.T:.6g} is noise), got "
                + (f"{low:.6g} … {high:.6g}" if t.numel() > 1 else f"{low:.6g}")
            )
        return t

    @abstractmethod
    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """a and b."""

    @abstractmethod
    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """ȧ and ḃ."""

    @abstractmethod
    def _time_at(self, log_snr: Tensor) -> Tensor:
        """The inverse of λ(t)."""


class Continuous(Schedule):
    """A schedule for every real time in [0, T] (Song et al. 2021b, section 3; Kingma et al. 2021, section 3.1).

    Chapter 2 has the curves, chapter 15 what continuous time is good for.
    """

    T: float = 1.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}(T={self.T:g})"

    def check_time(self, t: Time, noisy: bool = False) -> Tensor:
        """Return t as a float64 tensor on the CPU; a ValueError where it is outside [0, T] (or (0, T])."""
        t = as_tensor(t)
        times = f"{'(' if noisy else '['}0, {self.T:.6g}]"
        if t.is_complex() or t.dtype == torch.bool:
            raise ValueError(f"t must be a real number in {times}, got dtype {t.dtype}")
        return self._in_range(t, noisy, times).double()

    def clock(self, t: Tensor) -> Tensor:
        """1000 t/T, so that an embedding made for a thousand steps resolves it."""
        return 1000 / self.T * t


def angle_at(log_snr: Tensor) -> Tensor:
    """φ = arctan(b/a) = arctan(e^{−λ/2}) in [0, π/2]. Chapter 2; source: that of `Level`."""
    return torch.atan(torch.exp(-0.5 * log_snr))


def as_tensor(t: Time) -> Tensor:
    """Numbers on the CPU, floats of Python in float64: as float32, 0.1 would be another time than 0.1 elsewhere.

    Chapter 6.
    """
    if isinstance(t, Tensor):
        return t.cpu()
    tensor = torch.as_tensor(t, device="cpu")
    return torch.as_tensor(t, dtype=torch.float64, device="cpu") if tensor.is_floating_point() else tensor


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
