"""The forward process and what follows from it: noising, the posterior, its SDE, terms of the ELBO.

Shapes: a batch is [B, …]; t is a time or [B] times. Chapters 2 and 3 derive every line.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_book._checks import check_batch, check_same_shape
from diffusion_book._double import in_double
from diffusion_book.schedules import Discrete, Level, Schedule, Time, expand


class Gaussian(NamedTuple):
    """A diagonal Gaussian: mean [B, …] and a standard deviation that broadcasts against it. Chapters 0 and 2."""

    mean: Tensor
    std: Tensor

    def sample(self, eps: Tensor) -> Tensor:
        """mean + std · eps, the reparameterisation (Kingma and Welling 2014, section 2.4; chapter 0).

        Raises:
            ValueError: eps has not the mean's shape.
        """
        check_same_shape("eps", eps, "the mean", self.mean)
        return self.mean + self.std * eps


def forward_step(schedule: Discrete, x_prev: Tensor, t: Time) -> Gaussian:
    """q(x_t | x_{t−1}) = N(√α_t x_{t−1}, β_t) for t in 1 … T (Ho et al. 2020, equation 2). Chapter 2.

    Raises:
        ValueError: t is outside 1 … T, or the schedule has no steps.
    """
    check_discrete(schedule)
    t = schedule.check_time(t, noisy=True)
    alpha, beta = schedule.alpha[t], schedule.beta[t]
    return Gaussian(expand(alpha.sqrt(), x_prev) * x_prev, expand(beta.sqrt(), x_prev))


def marginal(schedule: Schedule, x0: Tensor, t: Time) -> Gaussian:
    """q(x_t | x_0) = N(a_t x0, b_t²) (Ho et al. 2020, equation 4). Chapter 2."""
    _, a, b = schedule.at(t).like(x0)
    return Gaussian(a * x0, b)


def add_noise(schedule: Schedule, x0: Tensor, t: Time, eps: Tensor) -> Tensor:
    """x_t = a_t x0 + b_t ε, one jump from data to time t (Ho et al. 2020, equation 4, reparameterised). Chapter 2.

    Raises:
        ValueError: x0 is not floating point, eps has another shape, or t is outside 0 … T.
    """
    check_same_shape("eps", eps, "x0", x0)
    return marginal(schedule, x0, t).sample(eps)


def posterior(schedule: Schedule, xt: Tensor, x0: Tensor, t: Time, s: Time | None = None) -> Gaussian:
    """q(x_s | x_t, x_0) for 0 ≤ s < t (Ho et al. 2020, equations 6 and 7, there with s = t − 1). Chapter 3.

    At s = 0 it collapses: the mean is x0 and the standard deviation 0.

    Args:
        xt, x0: [B, …] batches of one shape.
        t: the noisier time, up to T.
        s: the cleaner time; t − 1 where it is not given, which a continuous schedule does not have.

    Raises:
        ValueError: xt and x0 are not floating point batches of one shape, or not 0 ≤ s < t ≤ T.
    """
    check_same_shape("x0", x0, "x_t", xt)
    c_0, c_t, std = posterior_coefficients(schedule, t, s)
    return Gaussian(expand(c_0, xt) * x0 + expand(c_t, xt) * xt, expand(std, xt))


class PosteriorCoefficients(NamedTuple):
    """q(x_s | x_t, x_0) = N(c_0 x0 + c_t x_t, std²), in float64; see `posterior_coefficients`. Chapter 3.

    Source: Kingma et al. 2021, appendix A.
    """

    c_0: Tensor
    c_t: Tensor
    std: Tensor


def posterior_coefficients(schedule: Schedule, t: Time, s: Time | None = None) -> PosteriorCoefficients:
    """c_0 = a_s β_{t|s} / b_t², c_t = a_{t|s} b_s² / b_t² and std = b_s √β_{t|s} / b_t. Chapter 3.

    Source: Kingma et al. 2021, appendix A; Ho et al. 2020, equation 7, for s = t − 1.

    Here a_{t|s} = a_t / a_s and β_{t|s} = b_t² − a_{t|s}² b_s²: the step from s to t. On the CPU.
    """
    return posterior_between(*_step(schedule, t, s))


def posterior_between(t: Level, s: Level) -> PosteriorCoefficients:
    """`posterior_coefficients` from the levels at t and s, for whoever has them. Chapter 3.

    Source: Kingma et al. 2021, appendix A.
    """
    a_ts, std_ts = _step_between(t, s)
    ratio = std_ts / t.b
    return PosteriorCoefficients(s.a * ratio**2, a_ts * (s.b / t.b) ** 2, s.b * ratio)


def step_coefficients(schedule: Schedule, t: Time, s: Time) -> tuple[Tensor, Tensor]:
    """a_{t|s} and √β_{t|s} of the forward jump x_t = a_{t|s} x_s + √β_{t|s} ε from s to t > s. Chapter 2.

    In float64, on the CPU. Source: Kingma et al. 2021, appendix A.
    """
    return _step_between(*_step(schedule, t, s))


def _step_between(t: Level, s: Level) -> tuple[Tensor, Tensor]:
    a_ts = t.a / s.a  # a_s > 0 because s < t
    return a_ts, (t.b**2 - (a_ts * s.b) ** 2).clamp(min=0).sqrt()


def move(schedule: Schedule, xt: Tensor, x0_hat: Tensor, t: Time, s: Time) -> Tensor:
    """x_s = a_s x̂0 + b_s ε̂ with ε̂ = (x_t − a_t x̂0)/b_t: from time t to any other, without noise. Chapter 7.

    It is the step of `samplers.ddim` with η = 0, where each example may have its own times; s may be later than t.

    Args:
        xt, x0_hat: [B, …] batches of one shape.
        t: a time or [B] times, above 0. s: the same.

    Returns:
        x_s [B, …].

    Raises:
        ValueError: xt and x0_hat are not floating point batches of one shape, or a time is outside its range.

    Source: Song et al. 2021a, equation 13.
    """
    check_same_shape("x̂0", x0_hat, "x_t", xt)
    at_t, at_s = schedule.at(t, noisy=True), schedule.at(s)
    c_t = at_s.b / at_t.b
    return expand(c_t, xt) * xt + expand(at_s.a - c_t * at_t.a, xt) * x0_hat


def drift_and_diffusion(schedule: Schedule, t: Time) -> tuple[Tensor, Tensor]:
    """f and g² of dx = f x dt + g dw, the SDE whose x_t given x_0 is N(a x0, b²): f = ȧ/a, g² = 2bḃ − 2 f b².

    For noisy t, float64, on the CPU. Where a = 0 they are infinite: no finite drift forgets all of x0. Chapter 15.

    Raises:
        ValueError: t is outside its range, or 0.

    Source: Song et al. 2021b, section 3.4, for VE, VP and sub-VP, of which this is the general form.
    """
    t, a, b = schedule.at(t, noisy=True)
    a_dot, b_dot = schedule.rates(t)
    f = a_dot / a
    return f, 2 * b * (b_dot - f * b)


def learned_std(schedule: Schedule, v: Tensor, t: Time, s: Time | None = None) -> Tensor:
    """The standard deviation of a reverse step whose network outputs v in [−1, 1].

    The logarithm goes from that of the posterior's std ("small", v = −1) to that of √β_{t|s} ("large", v = 1).
    At s = 0 the small one is 0 and its logarithm has no bottom: there it is that of the step from 2 to 1 for a
    discrete schedule, as in their code, and the large one for a continuous schedule. Chapter 4.

    Source: Nichol and Dhariwal 2021, section 3.1.

    Args:
        v: [B, …] what the second half of the network's channels say.

    Returns:
        [B, …] of v's dtype, positive.
    """
    at_t, at_s = _step(schedule, t, s)
    large = _step_between(at_t, at_s)[1]
    at_data = posterior_coefficients(schedule, 2, 1).std if isinstance(schedule, Discrete) else large
    small = torch.where(at_s.t == 0, at_data, posterior_between(at_t, at_s).std)
    share = 0.5 * (v + 1)
    return torch.exp(share * expand(large.log(), v) + (1 - share) * expand(small.log(), v))


def check_discrete(schedule: Schedule) -> None:
    """A ValueError for a schedule that has no steps: there is no t − 1 in continuous time."""
    if not isinstance(schedule, Discrete):
        raise ValueError(f"expected a discrete schedule, such as linear(), got {schedule!r}, which has no steps")


def _step(schedule: Schedule, t: Time, s: Time | None) -> tuple[Level, Level]:
    """The levels at both ends of a step, checked: s < t."""
    at_t = schedule.at(t, noisy=True)
    if s is None and not isinstance(schedule, Discrete):
        raise ValueError("a continuous schedule has no step before t: say which time s to go back to")
    at_s = schedule.at(at_t.t - 1 if s is None else s)
    if not bool((at_s.t < at_t.t).all()):
        raise ValueError(f"a step goes between t and an s < t, got s = {at_s.t.tolist()} and t = {at_t.t.tolist()}")
    return at_t, at_s


def prior_kl(schedule: Schedule, x0: Tensor) -> Tensor:
    """L_T = KL(q(x_T | x_0) ‖ N(0, prior_std²)) in nats, [B], summed over dimensions.

    Source: Ho et al. 2020, equation 5, the first term. Chapters 2 and 3.

    Raises:
        ValueError: x0 is not [B, …] of floating point numbers.
    """
    check_batch(x0)
    mean, std = marginal(schedule, in_double(x0), schedule.T)  # in float32 b_T rounds to 1, and the difference to noise
    prior_std = schedule.prior_std
    mean, std = mean / prior_std, std / prior_std
    return 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).flatten(1).sum(1).to(x0)


def posterior_kl(schedule: Discrete, x0: Tensor, x0_hat: Tensor, t: Time) -> Tensor:
    """L_{t−1} = ½ (SNR(t−1) − SNR(t)) ‖x0 − x̂0‖² in nats, [B] (Kingma et al. 2021, section 4). Chapter 3.

    It is KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)) where p has the posterior's variance and x̂0 in the place of x0.
    At t = 1 the weight is infinite: that term is the reconstruction L_0, so t must lie in 2 … T.

    Raises:
        ValueError: the schedule has no steps; x0 and x0_hat are not batches of one shape; or t is outside 2 … T.
    """
    check_discrete(schedule)
    check_batch(x0)
    check_same_shape("the predicted x0", x0_hat, "x0", x0)
    t = schedule.check_time(t, noisy=True)
    if bool((t < 2).any()):
        raise ValueError("L_{t−1} is a KL for t in 2 … T, got t = 1; the term there is the reconstruction L_0")
    snr_gap = schedule.at(t - 1).log_snr.exp() - schedule.at(t).log_snr.exp()
    error = ((x0 - x0_hat) ** 2).flatten(1).sum(1)
    return 0.5 * expand(snr_gap, error) * error
