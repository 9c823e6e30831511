"""The forward process and what follows: noising, the posterior, terms of the ELBO, the faces of one prediction.

Shapes: a batch is [B, …]; t is a time or [B] times. Chapters 2 and 3 derive every line.
"""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from diffusion_book._checks import check_batch, check_floating, not_a_tensor
from diffusion_book._names import unknown
from diffusion_book.schedules import Discrete, Schedule, Time, expand

Prediction = Literal["eps", "x0", "v", "score", "u", "F"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)
Generators = torch.Generator | Sequence[torch.Generator]


class Gaussian(NamedTuple):
    """A diagonal Gaussian: mean [B, …] and a standard deviation that broadcasts against it. Chapters 0 and 2."""

    mean: Tensor
    std: Tensor

    def sample(self, eps: Tensor) -> Tensor:
        """mean + std · eps, the reparameterisation (Kingma and Welling 2014, section 2.4; chapter 0).

        Raises:
            ValueError: eps has not the mean's shape.
        """
        _same_shape("eps", eps, "the mean", self.mean)
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
    t = schedule.check_time(t)
    return Gaussian(expand(schedule._a(t), x0) * x0, expand(schedule._b(t), x0))


def add_noise(schedule: Schedule, x0: Tensor, t: Time, eps: Tensor) -> Tensor:
    """x_t = a_t x0 + b_t ε, one jump from data to time t (Ho et al. 2020, equation 4, reparameterised). Chapter 2.

    Raises:
        ValueError: x0 is not floating point, eps has another shape, or t is outside 0 … T.
    """
    _same_shape("eps", eps, "x0", x0)
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
    _same_shape("x0", x0, "x_t", xt)
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
    return _posterior_coefficients(schedule, *_step_times(schedule, t, s))


def step_coefficients(schedule: Schedule, t: Time, s: Time) -> tuple[Tensor, Tensor]:
    """a_{t|s} and √β_{t|s} of the forward jump x_t = a_{t|s} x_s + √β_{t|s} ε from s to t > s. Chapter 2.

    In float64, on the CPU. Source: Kingma et al. 2021, appendix A.
    """
    return _step_coefficients(schedule, *_step_times(schedule, t, s))


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
    t, s = _step_times(schedule, t, s)
    large = _step_coefficients(schedule, t, s)[1]
    small = _posterior_coefficients(schedule, t, s).std
    at_data = posterior_coefficients(schedule, 2, 1).std if isinstance(schedule, Discrete) else large
    small = torch.where(s == 0, at_data, small)
    share = 0.5 * (v + 1)
    return torch.exp(share * expand(large.log(), v) + (1 - share) * expand(small.log(), v))


def check_discrete(schedule: Schedule) -> None:
    """A ValueError for a schedule that has no steps: there is no t − 1 in continuous time."""
    if not isinstance(schedule, Discrete):
        raise ValueError(
            f"expected a discrete schedule, such as schedules.linear(), got {schedule!r}, which has no steps"
        )


def _step_times(schedule: Schedule, t: Time, s: Time | None) -> tuple[Tensor, Tensor]:
    """Both times of a step, checked: s < t."""
    t = schedule.check_time(t, noisy=True)
    if s is None and not isinstance(schedule, Discrete):
        raise ValueError("a continuous schedule has no step before t: say which time s to go back to")
    s = t - 1 if s is None else schedule.check_time(s)
    if not bool((s < t).all()):
        raise ValueError(f"a step goes between t and an s < t, got s = {s.tolist()} and t = {t.tolist()}")
    return t, s


def _step_coefficients(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    a_ts = schedule._a(t) / schedule._a(s)  # a_s > 0 because s < t
    return a_ts, (schedule._b(t) ** 2 - (a_ts * schedule._b(s)) ** 2).clamp(min=0).sqrt()


def _posterior_coefficients(schedule: Schedule, t: Tensor, s: Tensor) -> PosteriorCoefficients:
    a_ts, std_ts = _step_coefficients(schedule, t, s)
    b_t, a_s, b_s = schedule._b(t), schedule._a(s), schedule._b(s)
    return PosteriorCoefficients(a_s * (std_ts / b_t) ** 2, a_ts * (b_s / b_t) ** 2, b_s * (std_ts / b_t))


def prior_kl(schedule: Schedule, x0: Tensor) -> Tensor:
    """L_T = KL(q(x_T | x_0) ‖ N(0, prior_std²)) in nats, [B], summed over dimensions.

    Source: Ho et al. 2020, equation 5, the first term. Chapters 2 and 3.

    Raises:
        ValueError: x0 is not [B, …] of floating point numbers.
    """
    check_batch(x0)
    mean, std = marginal(schedule, x0.double(), schedule.T)  # in float32 b_T rounds to 1, and the difference to noise
    mean, std = mean / schedule.prior_std, std / schedule.prior_std
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
    _same_shape("the predicted x0", x0_hat, "x0", x0)
    t = schedule.check_time(t, noisy=True)
    if bool((t < 2).any()):
        raise ValueError("L_{t−1} is a KL for t in 2 … T, got t = 1; the term there is the reconstruction L_0")
    snr_gap = schedule.log_snr(t - 1).exp() - schedule.log_snr(t).exp()
    error = ((x0 - x0_hat) ** 2).flatten(1).sum(1)
    return 0.5 * expand(snr_gap, error) * error


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
    t = schedule.check_time(t, noisy=True)
    return _coefficients(prediction, schedule, t, schedule._a(t), schedule._b(t))


def _coefficients(prediction: Prediction, schedule: Schedule, t: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    check_prediction(prediction)
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
            return schedule._d_a(t), schedule._d_b(t)
        case "F":
            sigma_data = schedule.sigma_data
            r = torch.hypot(b, a * sigma_data)  # a times the r above, so that a = 0 divides nothing
            return b / (sigma_data * r), -a * sigma_data / r


def check_prediction(prediction: str) -> None:
    """A ValueError for what is none of `PREDICTIONS`, with the nearest of them."""
    if prediction not in PREDICTIONS:
        raise ValueError(unknown("prediction", prediction, PREDICTIONS))


def target(prediction: Prediction, schedule: Schedule, x0: Tensor, eps: Tensor, t: Time) -> Tensor:
    """What a network that predicts this face is trained to output, p x0 + q ε, for noisy t. Chapters 3 and 4.

    Source: that of its line in the table of `coefficients`, such as Salimans and Ho 2022, appendix D, for v.

    Raises:
        ValueError: x0 and eps are not floating point batches of one shape; t is not noisy; or unknown prediction.
    """
    _same_shape("eps", eps, "x0", x0)
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
    _same_shape("a prediction", output, "x_t", xt)
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
    t = schedule.check_time(t, noisy=True)
    a, b = schedule._a(t), schedule._b(t)
    p, q = _coefficients(prediction, schedule, t, a, b)
    if prediction in ("eps", "score") and bool((a == 0).any()):
        raise ValueError(
            f"x0 cannot be read off {prediction} where a(t) = 0 (zero terminal SNR); predict v or x0 instead"
        )
    determinant = a * q - b * p
    return q / determinant, -b / determinant


def from_x0(prediction: Prediction, x0: Tensor, schedule: Schedule, xt: Tensor, t: Time) -> Tensor:
    """Write x0 as the face that a network predicts, for noisy t: the inverse of `to_x0`. Chapter 3.

    Source: as of `to_x0`; Ho et al. 2020, equation 15, for ε.

    With ε = (x_t − a x0)/b it is p x0 + q ε = (p − q a/b) x0 + (q/b) x_t.
    """
    _same_shape("x0", x0, "x_t", xt)
    t = schedule.check_time(t, noisy=True)
    a, b = schedule._a(t), schedule._b(t)
    p, q = _coefficients(prediction, schedule, t, a, b)
    return expand(p - q * a / b, xt) * x0 + expand(q / b, xt) * xt


def run_network(
    network: Callable[..., Tensor],
    prediction: Prediction,
    schedule: Schedule,
    xt: Tensor,
    t: Tensor,
    **conditions: Tensor | None,
) -> Tensor:
    """Ask a network, in training and in sampling alike: network(x_t, t, …) with the time as it knows it.

    The time is `schedule.clock(t)`, where x_t is, and where it is real in float32 or x_t's better dtype. For "F" the
    input is scaled to variance one, c_in x_t = x_t / √(a² σ_d² + b²) (Karras et al. 2022, table 1). Conditions that
    are not None are passed by name: y, context, …. Chapters 4 and 6.

    Raises:
        ValueError: the network returns no tensor, as those of other libraries do; or t is outside 0 … T.
    """
    given = {name: value for name, value in conditions.items() if value is not None}
    t = schedule.check_time(t)
    if prediction == "F":
        xt = expand(1 / torch.hypot(schedule._a(t) * schedule.sigma_data, schedule._b(t)), xt) * xt
    clock = schedule.clock(t)
    real = torch.promote_types(xt.dtype, torch.float32)
    output = network(xt, clock.to(xt.device, real if clock.is_floating_point() else clock.dtype), **given)
    if not isinstance(output, Tensor):
        raise not_a_tensor("the network", output)
    return output


def _same_shape(name: str, x: Tensor, of: str, like: Tensor) -> None:
    """One number for each example, or one channel for three, would spread over all of them in silence."""
    check_floating("a batch", x)
    if x.shape != like.shape:
        raise ValueError(f"{name} must have the shape of {of}, {tuple(like.shape)}, got {tuple(x.shape)}")


def randn_like(x: Tensor, generator: Generators) -> Tensor:
    """Standard normal noise of x's shape, drawn on the generator's device so that a seed means one thing everywhere.

    With a sequence of generators, one for each example of x [B, …], an example's noise does not depend on its batch.
    Chapter 6.

    Raises:
        ValueError: no generators, or another number of them than there are examples; or x is not floating point.
    """
    check_floating("a batch", x)
    if isinstance(generator, torch.Generator):
        return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
    if not (isinstance(generator, Sequence) and all(isinstance(g, torch.Generator) for g in generator)):
        raise ValueError(
            "random numbers need a torch.Generator, such as torch.Generator().manual_seed(0), or a list of them, one "
            f"for each example, such as process.seeded(range(B)); got {generator!r:.40}"
        )
    if len(generator) != len(x):
        raise ValueError(f"give one generator for each of the {len(x)} examples, got {len(generator)}")
    noises = [torch.randn(x.shape[1:], generator=g, device=g.device, dtype=x.dtype) for g in generator]
    return torch.stack(noises).to(x.device) if noises else x.clone()


def seeded(seeds: Sequence[int], device: torch.device | str = "cpu") -> list[torch.Generator]:
    """One generator for each example, for `randn_like` and the samplers: the same seed gives the same picture.

    Chapter 6 uses it.

    Raises:
        ValueError: one seed, where a list of them is wanted; or what is no whole number.
    """
    if isinstance(seeds, int | str) or not all(isinstance(seed, Integral) for seed in seeds):
        raise ValueError(f"one whole number for each example is needed, such as range(16), got {seeds!r:.80}")
    return [torch.Generator(device).manual_seed(seed) for seed in seeds]
