"""The forward process and what follows: noising, the posterior, terms of the ELBO, the faces of one prediction.

Shapes: a batch is [B, …]; t is an integer or [B]. Chapters 2 and 3 derive every line.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from diffusion_book.schedules import Schedule, expand

Prediction = Literal["eps", "x0", "v", "score"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)


class Gaussian(NamedTuple):
    """A diagonal Gaussian: mean [B, …] and a standard deviation that broadcasts against it."""

    mean: Tensor
    std: Tensor

    def sample(self, eps: Tensor) -> Tensor:
        """mean + std · eps, the reparameterisation (chapter 0)."""
        return self.mean + self.std * eps


def forward_step(schedule: Schedule, x_prev: Tensor, t: Tensor | int) -> Gaussian:
    """q(x_t | x_{t−1}) = N(√α_t x_{t−1}, β_t) for t in 1 … T (Ho et al. 2020, equation 2). Chapter 2.

    Raises:
        ValueError: t is outside 1 … T.
    """
    t = _noisy_time(schedule, t)
    alpha, beta = schedule.alpha.to(t.device)[t], schedule.beta.to(t.device)[t]
    return Gaussian(expand(alpha.sqrt(), x_prev) * x_prev, expand(beta.sqrt(), x_prev))


def marginal(schedule: Schedule, x0: Tensor, t: Tensor | int) -> Gaussian:
    """q(x_t | x_0) = N(a_t x0, b_t²) (Ho et al. 2020, equation 4). Chapter 2."""
    return Gaussian(schedule.a(t, like=x0) * x0, schedule.b(t, like=x0))


def add_noise(schedule: Schedule, x0: Tensor, t: Tensor | int, eps: Tensor) -> Tensor:
    """x_t = a_t x0 + b_t ε, one jump from data to time t (chapter 2).

    Raises:
        ValueError: x0 is not floating point, eps has another shape, or t is outside 0 … T.
    """
    if eps.shape != x0.shape:
        raise ValueError(f"eps must have the shape of x0, {tuple(x0.shape)}, got {tuple(eps.shape)}")
    return marginal(schedule, x0, t).sample(eps)


def posterior(schedule: Schedule, xt: Tensor, x0: Tensor, t: Tensor | int, s: Tensor | int | None = None) -> Gaussian:
    """q(x_s | x_t, x_0) for 0 ≤ s < t (Ho et al. 2020, equations 6 and 7, there with s = t − 1). Chapter 3.

    With α_{t|s} = ᾱ_t/ᾱ_s the mean is (√ᾱ_s (1 − α_{t|s}) x0 + √α_{t|s} (1 − ᾱ_s) x_t) / (1 − ᾱ_t) and the
    variance (1 − ᾱ_s)(1 − α_{t|s}) / (1 − ᾱ_t). At s = 0 both collapse: the mean is x0 and the variance 0.

    Args:
        xt, x0: [B, …] batches of one shape.
        t: the noisier time, 1 … T.
        s: the cleaner time; t − 1 where it is not given.
    """
    t = _noisy_time(schedule, t)
    s = t - 1 if s is None else schedule.check_time(s)
    if not bool((s < t).all()):
        raise ValueError(f"the posterior goes from t back to s < t, got s = {s.tolist()} and t = {t.tolist()}")
    a_t, b_t, a_s, b_s = schedule.a(t), schedule.b(t), schedule.a(s), schedule.b(s)
    a_ts = a_t / a_s  # √α_{t|s}; a_s > 0 because s < t
    b_ts = (b_t**2 - (a_ts * b_s) ** 2).sqrt()  # √(1 − α_{t|s}), in float64: the difference of two near equals
    mean = expand(a_s * b_ts**2 / b_t**2, xt) * x0 + expand(a_ts * b_s**2 / b_t**2, xt) * xt
    return Gaussian(mean, expand(b_s * b_ts / b_t, xt))


def prior_kl(schedule: Schedule, x0: Tensor) -> Tensor:
    """L_T = KL(q(x_T | x_0) ‖ N(0, I)) in nats, [B], summed over dimensions (chapters 2 and 3)."""
    mean, std = marginal(schedule, x0.double(), schedule.T)  # in float32 b_T rounds to 1, and the difference to noise
    return 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).flatten(1).sum(1).to(x0)


def posterior_kl(schedule: Schedule, x0: Tensor, x0_hat: Tensor, t: Tensor | int) -> Tensor:
    """L_{t−1} = ½ (SNR(t−1) − SNR(t)) ‖x0 − x̂0‖² in nats, [B] (Kingma et al. 2021, equation 13). Chapter 3.

    It is KL(q(x_{t−1} | x_t, x_0) ‖ p(x_{t−1} | x_t)) where p has the posterior's variance and x̂0 in the place of x0.
    At t = 1 the weight is infinite: that term is the reconstruction L_0, so t must lie in 2 … T.
    """
    t = _noisy_time(schedule, t)
    if int(t.min()) < 2:
        raise ValueError("L_{t−1} is a KL for t in 2 … T, got t = 1; the term there is the reconstruction L_0")
    snr_gap = schedule.log_snr(t - 1).exp() - schedule.log_snr(t).exp()
    error = ((x0 - x0_hat) ** 2).flatten(1).sum(1)
    return 0.5 * snr_gap.to(error) * error


def to_x0(
    prediction: Prediction,
    output: Tensor,
    schedule: Schedule,
    xt: Tensor,
    t: Tensor | int,
    x0_max: float | None = None,
) -> Tensor:
    """Read x̂0 off a network's output, whichever face it predicts (chapter 3).

    ε: (x_t − b ε)/a;  x0: itself;  v: a x_t − b v;  score: (x_t + b² score)/a.

    Args:
        prediction: what `output` estimates: "eps", "x0", "v" or "score".
        output, xt: [B, …] of one shape. t: 1 … T.
        x0_max: clip x̂0 to [−x0_max, x0_max], for images scaled to [−1, 1].

    Raises:
        ValueError: unknown prediction; another shape than x_t's; or a(t) = 0, where neither ε nor the score says
            anything about x0.
    """
    if output.shape != xt.shape:
        raise ValueError(f"a prediction must have the shape of x_t, {tuple(xt.shape)}, got {tuple(output.shape)}")
    a, b = schedule.a(t, like=xt), schedule.b(t, like=xt)
    if prediction in ("eps", "score") and bool((a == 0).any()):
        raise ValueError(
            f"x0 cannot be read off {prediction} where a(t) = 0 (zero terminal SNR); predict v or x0 instead"
        )
    match prediction:
        case "eps":
            x0 = (xt - b * output) / a
        case "x0":
            x0 = output
        case "v":
            x0 = a * xt - b * output
        case "score":
            x0 = (xt + b**2 * output) / a
        case _:
            raise _unknown(prediction)
    return x0 if x0_max is None else x0.clamp(-x0_max, x0_max)


def from_x0(prediction: Prediction, x0: Tensor, schedule: Schedule, xt: Tensor, t: Tensor | int) -> Tensor:
    """Write x0 as the face that a network predicts, for t in 1 … T: the inverse of `to_x0` (chapter 3).

    ε: (x_t − a x0)/b;  x0: itself;  v: (a x_t − x0)/b;  score: (a x0 − x_t)/b².
    """
    _noisy_time(schedule, t)
    a, b = schedule.a(t, like=xt), schedule.b(t, like=xt)
    match prediction:
        case "eps":
            return (xt - a * x0) / b
        case "x0":
            return x0
        case "v":
            return (a * xt - x0) / b
        case "score":
            return (a * x0 - xt) / b**2
        case _:
            raise _unknown(prediction)


def target(prediction: Prediction, schedule: Schedule, x0: Tensor, eps: Tensor, t: Tensor | int) -> Tensor:
    """What a network that predicts this face is trained to output, from x0 and ε, for t in 1 … T (chapters 3 and 4).

    Unlike `from_x0` it never divides by a small b: ε is ε, and v = a ε − b x0 (Salimans and Ho 2022, appendix D).
    """
    _noisy_time(schedule, t)
    a, b = schedule.a(t, like=x0), schedule.b(t, like=x0)
    match prediction:
        case "eps":
            return eps
        case "x0":
            return x0
        case "v":
            return a * eps - b * x0
        case "score":
            return -eps / b
        case _:
            raise _unknown(prediction)


def _noisy_time(schedule: Schedule, t: Tensor | int) -> Tensor:
    t = schedule.check_time(t)
    if t.numel() and int(t.min()) < 1:
        raise ValueError(f"t must lie in 1 … {schedule.T}, got {int(t.min())}: at t = 0 there is no noise to speak of")
    return t


def _unknown(prediction: str) -> ValueError:
    return ValueError(f"unknown prediction {prediction!r}; choose one of {', '.join(PREDICTIONS)}")


def randn_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of x's shape, drawn on the generator's device so that a seed means one thing everywhere."""
    return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
