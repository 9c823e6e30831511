"""Schedules for every real time: rectified flow, EDM, VE, VP, sub-VP and the cosine. Chapters 2, 4 and 15."""

import math

import torch
from torch import Tensor

from diffusion_book._checks import positive
from diffusion_book.schedules.base import Continuous, angle_at


class Flow(Continuous):
    """Rectified flow: a = 1 − t, b = t, a straight line from x0 to ε (Liu et al. 2023, section 2.1). Chapter 15.

    The times of the papers on flow matching that put the data at 1 are 1 − t, and their velocity is −u.
    """

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - t, t

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(t), torch.ones_like(t)

    def _time_at(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-0.5 * log_snr)


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

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), t

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)

    def _time_at(self, log_snr: Tensor) -> Tensor:
        return torch.exp(-0.5 * log_snr).clamp(max=self.T)


class VE(Continuous):
    """The variance-exploding SDE: a = 1, and σ grows geometrically (Song et al. 2021b, equation 9). Chapter 15.

    With σ(t) = σ_min (σ_max/σ_min)^t it is b² = σ(t)² − σ_min², so that t = 0 is the data themselves; programs that
    leave out the − σ_min² start with a little noise. `EDM` has the same states at other times.

    Args:
        sigma_min: where the growth begins; noise much below it comes and goes within the first few times.
        sigma_max: the noise at T = 1; theirs is about the largest distance between two pictures of the data.
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"expected 0 < sigma_min < sigma_max < ∞, got {sigma_min} and {sigma_max}")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.sigma_min * torch.expm1(2 * self._growth * t).sqrt()

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigma_min * torch.exp(self._growth * t)
        return torch.zeros_like(t), self._growth * sigma**2 / self._at(t)[1]

    def _time_at(self, log_snr: Tensor) -> Tensor:
        grown = torch.log1p(torch.exp(-log_snr) / self.sigma_min**2)  # log σ²/σ_min²
        return (grown / (2 * self._growth)).clamp(max=self.T)

    @property
    def _growth(self) -> float:
        """d log σ/dt."""
        return math.log(self.sigma_max / self.sigma_min)


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

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_a = -0.5 * t * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * t)
        return log_a.exp(), (-torch.expm1(2 * log_a)).sqrt()

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self._at(t)
        return -0.5 * self.beta(t) * a, 0.5 * self.beta(t) * a**2 / b

    def _time_at(self, log_snr: Tensor) -> Tensor:
        # ∫β = −log a² = log(1 + e^−λ), and no more of it than there is at T: below λ_T that is the nearest time.
        integral = -torch.nn.functional.logsigmoid(log_snr).clamp(min=-0.5 * (self.beta_min + self.beta_max))
        # The positive root of ½ slope t² + β_min t = ∫β, in the form that does not cancel.
        root = (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral).sqrt()
        return (2 * integral / (self.beta_min + root)).clamp(max=self.T)


class SubVP(VP):
    """The sub-VP SDE: the a of `VP`, with less noise, b = 1 − a² (Song et al. 2021b, equation 12). Chapter 15.

    Here a² + b² is not 1 but dips below it on the way: with data of variance one x_t is narrower than they are. What
    rests on a² + b² = 1, such as reading ε off v by a rotation, does not hold; `predictions` solves for it in general.
    """

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b_of_vp = super()._at(t)
        return a, b_of_vp**2

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a, _ = self._at(t)
        return -0.5 * self.beta(t) * a, self.beta(t) * a**2

    def _time_at(self, log_snr: Tensor) -> Tensor:
        # (1 − a²)/a = σ is quadratic in a. VP has the same a where its own log-SNR is log(a²/(1 − a²)) = log(a/σ).
        sigma = torch.exp(-0.5 * log_snr)
        a = 2 / (sigma + torch.hypot(sigma, torch.full_like(sigma, 2)))
        return super()._time_at(a.log() + 0.5 * log_snr)


class Cosine(Continuous):
    """The angle itself is time: a = cos(½πt), b = sin(½πt), so a(1) = 0 (Nichol and Dhariwal 2021, without s).

    Its log-SNR can be moved as a whole by 2 log(shift): images with twice the side keep as much of their coarse
    content at shift = ½ (Hoogeboom et al. 2023, section 2.1). Chapter 2.
    """

    def __init__(self, shift: float = 1.0) -> None:
        positive("shift", shift, "below 1 there is more noise")
        self.shift = shift

    # tan φ = tan(½πt) / shift: a = shift cos/r, b = sin/r with r² = (shift cos)² + sin².
    def _at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        r = self._r(t)
        return self.shift * _cos(t) / r, _sin(t) / r

    def _rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self._at(t)
        d_angle = 0.5 * math.pi * self.shift / self._r(t) ** 2
        return -b * d_angle, a * d_angle

    def _time_at(self, log_snr: Tensor) -> Tensor:
        return angle_at(log_snr - 2 * math.log(self.shift)) / (0.5 * math.pi)

    def _r(self, t: Tensor) -> Tensor:
        return torch.hypot(self.shift * _cos(t), _sin(t))


def _sin(t: Tensor) -> Tensor:
    return torch.sin(0.5 * math.pi * t)


def _cos(t: Tensor) -> Tensor:
    return torch.sin(0.5 * math.pi * (1 - t))  # exactly 0 at t = 1, where torch.cos gives 6e−17
