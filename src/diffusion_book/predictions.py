"""The faces of one prediction: ε, x0, v, the score, u and F, and the way from each to x̂0 and back.

Shapes: a batch is [B, …]; t is a time or [B] times. Chapters 3 and 4 derive every line.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from diffusion_book._checks import check_floating, check_same_shape
from diffusion_book._names import check_known
from diffusion_book.schedules import Level, Schedule, Time, expand

Prediction = Literal["eps", "x0", "v", "score", "u", "F"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)


def coefficients(prediction: Prediction, schedule: Schedule, t: Time) -> tuple[Tensor, Tensor]:
    """The p and q with which a prediction is p x0 + q ε: the one table of this library (chapters 3, 4 and 15).

    | prediction | p | q | source |
    |---|---|---|---|
    | "eps", the noise | 0 | 1 | Ho et al. 2020 |
    | "x0", the data | 1 | 0 | |
    | "v" = a ε − b x0 | −b | a | Salimans and Ho 2022, appendix D |
    | "score" = −ε/b | 0 | −1/b | Song et al. 2021b |
    | "u" = dx_t/dt | ȧ | ḃ | Lipman et al. 2023; Liu et al. 2023 |
    | "F", between x0 and ε | σ/(σ_d r) | −σ_d/r | Karras et al. 2022, equation 7 |

    with σ = b/a, σ_d = `schedule.sigma_data` and r = √(σ² + σ_d²). At σ_d = 1 and a² + b² = 1, F is −v. They are
    float64, on the CPU, of t's shape; t is noisy, above 0.
    """
    return _coefficients(prediction, schedule, schedule.at(t, noisy=True))


def _coefficients(prediction: Prediction, schedule: Schedule, level: Level) -> tuple[Tensor, Tensor]:
    check_prediction(prediction)
    t, a, b = level
    match prediction:
        case "eps":
            return torch.zeros_like(b), torch.ones_like(b)
        case "x0":
            return torch.ones_like(b), torch.zeros_like(b)
        case "v":
            return -b, a
        case "score":
            return torch.zeros_like(b), -1 / b
        case "u":
            return schedule.rates(t)
        case "F":
            sigma_data = schedule.sigma_data
            r = torch.hypot(b, a * sigma_data)  # a times the r above, so that a = 0 divides nothing
            return b / (sigma_data * r), -a * sigma_data / r


def check_prediction(prediction: str) -> None:
    """A ValueError for what is none of `PREDICTIONS`, with the nearest of them."""
    check_known("prediction", prediction, PREDICTIONS)


def target(prediction: Prediction, schedule: Schedule, x0: Tensor, eps: Tensor, t: Time) -> Tensor:
    """What a network that predicts this face is trained to output, p x0 + q ε, for noisy t. Chapters 3 and 4.

    Source: that of its line in the table of `coefficients`, such as Salimans and Ho 2022, appendix D, for v.

    Raises:
        ValueError: x0 and eps are not floating point batches of one shape; t is not noisy; or unknown prediction.
    """
    check_same_shape("eps", eps, "x0", x0)
    p, q = coefficients(prediction, schedule, t)
    return expand(p, x0) * x0 + expand(q, x0) * eps


def to_x0(
    prediction: Prediction,
    output: Tensor,
    schedule: Schedule,
    xt: Tensor,
    t: Time,
    x0_max: float | None = None,
) -> Tensor:
    """Read x̂0 off a network's output, whichever face it predicts. Chapter 3.

    Source: Ho et al. 2020, equation 15, for ε; Salimans and Ho 2022, appendix D, for v; Karras et al. 2022, equation 7,
    for F.

    x_t = a x0 + b ε and output = p x0 + q ε are two equations for two unknowns: x0 = (q x_t − b output)/(a q − b p).

    Args:
        prediction: what `output` estimates; see `coefficients`.
        output, xt: [B, …] of one shape. t: noisy times, above 0.
        x0_max: clip x̂0 to [−x0_max, x0_max], for images scaled to [−1, 1].

    Raises:
        ValueError: unknown prediction; another shape than x_t's; a(t) = 0 where neither ε nor the score says
            anything about x0; or x0_max is not positive.
    """
    c_t, c_output = x0_weights(prediction, schedule, t)
    return weigh(output, xt, expand(c_t, xt), expand(c_output, xt), x0_max)


def weigh(output: Tensor, xt: Tensor, c_t: Tensor, c_output: Tensor, x0_max: float | None = None) -> Tensor:
    """x0 = c_t x_t + c_output · output, the formula of `to_x0`; the numbers have x_t's dtype and multiply it.

    Chapter 3; the sources are those of `to_x0`.

    Raises:
        ValueError: x_t is not floating point, or the output has another shape.
    """
    check_floating("a batch", xt)
    check_same_shape("a prediction", output, "x_t", xt)
    x0 = (c_t * xt).addcmul_(c_output, output)
    return x0 if x0_max is None else clip(x0, x0_max)


def clip(x0: Tensor, x0_max: float) -> Tensor:
    """x0 within ±x0_max; what is infinite becomes NaN, for a sampler to find, rather than a black or white pixel.

    The code of Ho et al. 2020 clips x̂0 so at each step, to 1; Saharia et al. 2022, section 2.3, call it static
    thresholding. Chapter 6.

    Raises:
        ValueError: x0_max is not positive.
    """
    if not x0_max > 0:
        raise ValueError(f"x0_max must be positive, such as 1.0 for images in [−1, 1], got {x0_max}")
    return x0.clamp(-x0_max, x0_max).add_(x0, alpha=0)  # 0 · ∞ is NaN


def x0_weights(prediction: Prediction, schedule: Schedule, t: Time) -> tuple[Tensor, Tensor]:
    """The two numbers of `to_x0`, and their source: x0 = c_t x_t + c_output · output. Chapter 3.

    They are float64, on the CPU, of t's shape.
    """
    level = schedule.at(t, noisy=True)
    _, a, b = level
    p, q = _coefficients(prediction, schedule, level)
    if prediction in ("eps", "score") and bool((a == 0).any()):
        raise ValueError(f"x0 cannot be read off {prediction} where a(t) = 0 (zero terminal SNR); predict v or x0")
    determinant = a * q - b * p
    return q / determinant, -b / determinant


def from_x0(prediction: Prediction, x0: Tensor, schedule: Schedule, xt: Tensor, t: Time) -> Tensor:
    """Write x0 as the face that a network predicts, for noisy t: the inverse of `to_x0`. Chapter 3.

    Source: as of `to_x0`; Ho et al. 2020, equation 15, for ε.

    With ε = (x_t − a x0)/b it is p x0 + q ε = (p − q a/b) x0 + (q/b) x_t.
    """
    check_same_shape("x0", x0, "x_t", xt)
    level = schedule.at(t, noisy=True)
    _, a, b = level
    p, q = _coefficients(prediction, schedule, level)
    return expand(p - q * a / b, xt) * x0 + expand(q / b, xt) * xt
