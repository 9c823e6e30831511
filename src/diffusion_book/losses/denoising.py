"""The weighted error of a prediction, and the weights that have names. Chapter 4."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_book._checks import check_batch, check_same_shape, positive
from diffusion_book.conditions import Conditions
from diffusion_book.denoise import run_network
from diffusion_book.predictions import Prediction, coefficients, target
from diffusion_book.process import add_noise
from diffusion_book.schedules import Schedule

Weighting = Callable[[Schedule, Tensor], Tensor]


def simple_loss(
    network: Callable[..., Tensor],
    schedule: Schedule,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    prediction: Prediction = "eps",
    conditions: Conditions | None = None,
    weight: Weighting | None = None,
) -> Tensor:
    """The mean squared error of a prediction at one time each, L_simple where it is ε (Ho et al. 2020, equation 14).

    Chapter 4 derives it, chapter 6 trains with it.

    Args:
        network: called as network(x_t, t, **conditions).
        x0: [B, …] data. t: [B] noisy times. eps: [B, …] standard normal noise.
        prediction: what the network outputs, and so what is compared.
        conditions: what the network is told besides, by its own names, such as {"y": y} with the classes y [B].
        weight: `min_snr`, `p2`, `vdm` or `edm`; None takes the error of the prediction as it is.

    Returns:
        [B] losses, averaged over each example's dimensions.

    Raises:
        ValueError: x0 is not [B, …] of floating point numbers; eps or the output has another shape; t is not [B]
            noisy times; or the prediction is unknown.
    """
    check_examples(x0, t)
    xt = add_noise(schedule, x0, t, eps)
    output = run_network(network, prediction, schedule, xt, t, conditions)
    check_same_shape("the network's output", output, "its input", x0)
    error = output.to(x0) - target(prediction, schedule, x0, eps, t)  # the output may be bfloat16, x0 is not
    loss = (error**2).flatten(1).mean(1)
    return loss if weight is None else weight_of(weight, prediction, schedule, t).to(loss) * loss


def weight_of(weight: Weighting, prediction: Prediction, schedule: Schedule, t: Tensor) -> Tensor:
    """The factor, float64, that turns the squared error of a prediction into the weighted squared error in ε.

    At a given x_t an error δ in ε is one of −σ δ in x0, with σ = b/a, and so of (q − p σ) δ in p x0 + q ε (as in
    Salimans and Ho 2022, section 4). Chapter 4. Where a = 0 (zero terminal SNR) it is the limit for a → 0.

    Raises:
        ValueError: that limit is infinite, as it is on ε itself for `vdm` and `edm`.
    """
    p, q = coefficients(prediction, schedule, t)
    factor = weight(schedule, t).cpu() / (q - p * torch.exp(-0.5 * _log_snr(schedule, t))) ** 2
    if bool(((schedule.at(t).a == 0) & (factor > 1e30)).any()):
        raise ValueError(f"a weight on {prediction} is infinite where a(t) = 0 (zero terminal SNR); predict v")
    return factor


def min_snr(gamma: float = 5.0) -> Weighting:
    """min(SNR, γ) on the error in x0, so min(1, γ/SNR) on that in ε (Hang et al. 2023, section 3.4). Chapter 4.

    On v it comes to min(SNR, γ)/(SNR + 1); leaving out the + 1 is a known mistake.
    """
    positive("gamma", gamma)
    return lambda schedule, t: (gamma * torch.exp(-_log_snr(schedule, t))).clamp(max=1)


def p2(gamma: float = 1.0, k: float = 1.0) -> Weighting:
    """1/(k + SNR)^γ: less for the invisible noise at small t (Choi et al. 2022, section 3). Chapter 4."""
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be finite and not negative, got {gamma}; 0 weighs all times alike")
    positive("k", k)
    return lambda schedule, t: (k + torch.exp(_log_snr(schedule, t))) ** -gamma


def vdm() -> Weighting:
    """−½ λ̇ T: over uniform times its mean is the diffusion part of −ELBO (Kingma et al. 2021, section 5). Chapter 4.

    In nats, for continuous time, and for each dimension, since losses here are means over dimensions. At the data it
    grows like 1/t: draw times from some t_min up, and leave what is below to a reconstruction term.
    """

    def weight(schedule: Schedule, t: Tensor) -> Tensor:
        _, a, b = schedule.at(t)
        d_a, d_b = schedule.rates(t)
        d_log_snr = 2 * (d_a / a - d_b / b)
        return (-0.5 * schedule.T * d_log_snr).clamp(max=math.exp(-0.5 * LEAST_LOG_SNR))

    return weight


def edm() -> Weighting:
    """(σ² + σ_d²)/(σ σ_d)² on the error in x0, which is 1 on that in F (Karras et al. 2022, table 1). Chapter 4."""
    return lambda schedule, t: 1 + torch.exp(-_log_snr(schedule, t)) / schedule.sigma_data**2


LEAST_LOG_SNR = -200.0
"""What stands for −∞, where a = 0: its exponential is lost beside any number, and divides to a finite one."""


def _log_snr(schedule: Schedule, t: Tensor) -> Tensor:
    return schedule.at(t).log_snr.clamp(min=LEAST_LOG_SNR)


def check_examples(x0: Tensor, t: Tensor) -> None:
    """One time for all would do for x_t, but times [B, 1] make losses [B, B] of a weight in silence."""
    check_batch(x0)
    if not isinstance(t, Tensor) or t.shape != x0.shape[:1]:
        got = f"shape {tuple(t.shape)}" if isinstance(t, Tensor) else repr(t)
        raise ValueError(f"t must be a tensor of one time for each of the {len(x0)} examples, got {got}")
