"""Training objectives: what to compare, how to weigh it, and at which times. Chapter 4 derives them.

Every loss is returned per example, [B]; take `.mean()` to train, or `by_time` to see where the trouble is.
A weight is a function of (schedule, t) that multiplies the squared error *in ε*; whatever a network predicts, the
same weight then means the same objective. EDM's loss is `simple_loss` with the prediction "F" and times from
`draw_sigma_times`; flow matching is `simple_loss` with "u" on `schedules.Flow` and `draw_logit_normal_times`.
"""

import math
from collections.abc import Callable
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_book._checks import at_least, check_batch
from diffusion_book.denoise import WithVariance, x0_of
from diffusion_book.process import (
    Generators,
    Prediction,
    add_noise,
    check_discrete,
    coefficients,
    learned_std,
    posterior,
    posterior_kl,
    prior_kl,
    randn_like,
    run_network,
    target,
    to_x0,
)
from diffusion_book.schedules import Discrete, Schedule, expand

Weight = Callable[[Schedule, Tensor], Tensor]


def simple_loss(
    network: Callable[..., Tensor],
    schedule: Schedule,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    prediction: Prediction = "eps",
    y: Tensor | None = None,
    weight: Weight | None = None,
    **conditions: Tensor | None,
) -> Tensor:
    """The mean squared error of a prediction at one time each, L_simple where it is ε (Ho et al. 2020, equation 14).

    Chapter 4 derives it, chapter 6 trains with it.

    Args:
        network: called as network(x_t, t), with the conditions by name.
        x0: [B, …] data. t: [B] noisy times. eps: [B, …] standard normal noise.
        prediction: what the network outputs, and so what is compared. y: [B] class labels, or None.
        weight: `min_snr`, `p2`, `vdm` or `edm`; None takes the error of the prediction as it is.
        conditions: further inputs by the network's own names.

    Returns:
        [B] losses, averaged over each example's dimensions.

    Raises:
        ValueError: x0 is not [B, …] of floating point numbers; eps or the output has another shape; t is not [B]
            noisy times; or the prediction is unknown.
    """
    _check_examples(x0, t)
    xt = add_noise(schedule, x0, t, eps)
    output = run_network(network, prediction, schedule, xt, t, y=y, **conditions)
    if output.shape != x0.shape:
        raise ValueError(
            f"the network must return the shape of its input, {tuple(x0.shape)}, got {tuple(output.shape)}"
        )
    error = output.to(x0) - target(prediction, schedule, x0, eps, t)  # the output may be bfloat16, x0 is not
    loss = (error**2).flatten(1).mean(1)
    return loss if weight is None else weight_of(weight, prediction, schedule, t).to(loss) * loss


def weight_of(weight: Weight, prediction: Prediction, schedule: Schedule, t: Tensor) -> Tensor:
    """The factor, float64, that turns the squared error of a prediction into the weighted squared error in ε.

    At a given x_t an error δ in ε is one of −σ δ in x0, with σ = b/a, and so of (q − p σ) δ in p x0 + q ε (as in
    Salimans and Ho 2022, section 4). Chapter 4. Where a = 0 (zero terminal SNR) it is the limit for a → 0.

    Raises:
        ValueError: that limit is infinite, as it is on ε itself for `vdm` and `edm`.
    """
    p, q = coefficients(prediction, schedule, t)
    factor = weight(schedule, t).cpu() / (q - p * torch.exp(-0.5 * _log_snr(schedule, t).cpu())) ** 2
    if bool(((schedule.a(t).cpu() == 0) & (factor > 1e30)).any()):
        raise ValueError(
            f"this weight is infinite on {prediction} where a(t) = 0 (zero terminal SNR); predict v instead"
        )
    return factor


def min_snr(gamma: float = 5.0) -> Weight:
    """min(SNR, γ) on the error in x0, so min(1, γ/SNR) on that in ε (Hang et al. 2023, section 3.4). Chapter 4.

    On v it comes to min(SNR, γ)/(SNR + 1); leaving out the + 1 is a known mistake.
    """
    _positive("gamma", gamma)
    return lambda schedule, t: (gamma * torch.exp(-_log_snr(schedule, t))).clamp(max=1)


def p2(gamma: float = 1.0, k: float = 1.0) -> Weight:
    """1/(k + SNR)^γ: less for the invisible noise at small t (Choi et al. 2022, section 3). Chapter 4."""
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be finite and not negative, got {gamma}; 0 weighs all times alike")
    _positive("k", k)
    return lambda schedule, t: (k + torch.exp(_log_snr(schedule, t))) ** -gamma


def vdm() -> Weight:
    """−½ λ̇ T: over uniform times its mean is the diffusion part of −ELBO (Kingma et al. 2021, section 5). Chapter 4.

    In nats, for continuous time, and for each dimension, since losses here are means over dimensions. At the data it
    grows like 1/t: draw times from some t_min up, and leave what is below to a reconstruction term.
    """
    return lambda schedule, t: (-0.5 * schedule.T * schedule.d_log_snr(t)).clamp(max=math.exp(-0.5 * LEAST_LOG_SNR))


def edm() -> Weight:
    """(σ² + σ_d²)/(σ σ_d)² on the error in x0, which is 1 on that in F (Karras et al. 2022, table 1). Chapter 4."""
    return lambda schedule, t: 1 + torch.exp(-_log_snr(schedule, t)) / schedule.sigma_data**2


LEAST_LOG_SNR = -200.0
"""What stands for −∞, where a = 0: its exponential is lost beside any number, and divides to a finite one."""


def _log_snr(schedule: Schedule, t: Tensor) -> Tensor:
    return schedule.log_snr(t).clamp(min=LEAST_LOG_SNR)


class VLB(NamedTuple):
    """−log p(x0) ≤ prior + Σ steps + reconstruction, in nats for each example (Ho et al. 2020, equation 5).

    Chapter 3 derives it.
    """

    prior: Tensor
    """[B] L_T."""
    steps: Tensor
    """[B, T − 1] L_1 … L_{T−1}: entry t − 2 is the step from t to t − 1."""
    reconstruction: Tensor
    """[B] L_0 = −log p(x0 | x_1)."""

    def total(self) -> Tensor:
        """[B] nats."""
        return self.prior + self.steps.sum(1) + self.reconstruction

    def bits_per_dim(self, dimensions: int) -> Tensor:
        """[B] bits per dimension; comparable between texts only where x0 had the same number of levels."""
        if dimensions < 1:
            raise ValueError(f"dimensions are those of one example, x0[0].numel(), and at least 1, got {dimensions}")
        return self.total() / (dimensions * math.log(2))


@torch.no_grad()
def vlb(
    denoiser: Callable[[Tensor, Tensor], Tensor | WithVariance],
    schedule: Discrete,
    x0: Tensor,
    generator: Generators,
    levels: int | None = 256,
) -> VLB:
    """All terms of the variational bound, with one draw of x_t for each t (Ho et al. 2020, equation 5). Chapter 3.

    The model's steps have the posterior's variance; the last one, to the data, has b_1² (= β_1) around x̂0. With a
    learned variance all have that of `process.learned_std`, and these are the terms that `hybrid_loss` trains (Nichol
    and Dhariwal 2021, section 3.1).

    Args:
        denoiser: (x_t, t) → x̂0; or x̂0 and v, as one made by `denoise.from_network_with_variance`.
        x0: [B, …] in [−1, 1] where there are levels.
        generator: the source of the noise; or one for each example.
        levels: of each pixel; its probability is then that of its bin, as in `reconstruction`. None for densities.

    Raises:
        ValueError: the schedule has no steps; x0 is not [B, …] of floating point numbers, or not in [−1, 1] where
            there are levels; or the denoiser returns another shape.
    """
    check_discrete(schedule)
    check_batch(x0)
    times = (torch.full((len(x0),), t) for t in range(1, schedule.T + 1))
    terms = [vlb_at(denoiser, schedule, x0, t, generator, levels) for t in times]  # L_0, L_1, …
    return VLB(prior_kl(schedule, x0), torch.stack(terms[1:], 1), terms[0])


@torch.no_grad()
def vlb_at(
    denoiser: Callable[[Tensor, Tensor], Tensor | WithVariance],
    schedule: Discrete,
    x0: Tensor,
    t: Tensor,
    generator: Generators,
    levels: int | None = 256,
) -> Tensor:
    """The term L_{t−1} of `vlb` at one time for each example, [B] nats, with one draw of x_t for each. Chapter 3.

    Source: Ho et al. 2020, equation 5; with a learned variance, Nichol and Dhariwal 2021, section 3.1.

    Args:
        t: [B] noisy times; at t = 1 the term is the reconstruction. The other arguments and errors are those of `vlb`.
    """
    check_discrete(schedule)
    _check_examples(x0, t)
    xt = add_noise(schedule, x0, t, randn_like(x0, generator))
    answer = denoiser(xt, t.to(x0.device))
    x0_hat = x0_of(answer)
    for part in answer if isinstance(answer, WithVariance) else [x0_hat]:
        if part.shape != x0.shape:
            raise ValueError(f"the denoiser must return the shape of x_t, {tuple(x0.shape)}, got {tuple(part.shape)}")
    if isinstance(answer, WithVariance):
        mean, std = posterior(schedule, xt, x0_hat, t).mean, learned_std(schedule, answer.v.to(x0), t)
        return _bound_at(schedule, xt, x0, mean, std, t, levels)
    last = t == 1  # the reconstruction costs more than the rest, and is left out where it is not asked for
    term = x0.new_empty(len(x0))
    term[~last] = posterior_kl(schedule, x0[~last], x0_hat[~last], t[~last]).to(x0)
    b_1 = schedule.b(1, like=x0).expand_as(x0[last])
    term[last] = reconstruction(x0[last], x0_hat[last], b_1, levels)
    return term


def _bound_at(
    schedule: Discrete, xt: Tensor, x0: Tensor, mean: Tensor, std: Tensor, t: Tensor, levels: int | None
) -> Tensor:
    """The bound's term at each time t [B], in nats, [B], of a model whose step from x_t is N(mean, std²)."""
    true = posterior(schedule, xt, x0, t)
    noisy = (t > 1).to(x0.device)
    ratio = torch.where(expand(noisy, x0) > 0, true.std, std) / std  # at t = 1 the posterior is a point: see below
    kl = 0.5 * (ratio**2 - 1 - 2 * ratio.log() + ((true.mean - mean) / std) ** 2).flatten(1).sum(1)
    return torch.where(noisy, kl, reconstruction(x0, mean, std, levels))


def reconstruction(x0: Tensor, mean: Tensor, std: Tensor, levels: int | None = 256) -> Tensor:
    """L_0 = −log p(x0 | x_1) in nats, [B], for p = N(mean, std²) (Ho et al. 2020, equation 13). Chapter 3.

    With `levels` equally spaced values from −1 to 1 the probability of a value is the mass within half a spacing of
    it, and the outermost two reach to infinity; with None it is a density.

    Args:
        x0: [B, …] in [−1, 1] where there are levels.
        mean: of x0's shape. std: positive, of x0's shape or what broadcasts to it.

    Raises:
        ValueError: x0 is not [B, …] of floating point numbers, or not in [−1, 1] where there are levels; mean or std
            does not fit; or levels is not a whole number of at least 2.
    """
    check_batch(x0)
    spread = std.ndim <= x0.ndim and all(n in (1, m) for n, m in zip(reversed(std.shape), reversed(x0.shape)))
    if mean.shape != x0.shape or not spread:
        raise ValueError(
            f"mean must have the shape of x0, {tuple(x0.shape)}, and std one that broadcasts to it, got "
            f"{tuple(mean.shape)} and {tuple(std.shape)}"
        )
    if levels is None:
        log_p = -0.5 * (((x0 - mean) / std) ** 2 + math.log(2 * math.pi)) - std.log()
        return -log_p.flatten(1).sum(1)
    if not isinstance(levels, Integral) or levels < 2:
        raise ValueError(f"levels must be a whole number of at least 2, got {levels}; None for data without levels")
    if not bool((x0.abs() <= 1 + 1e-6).all()):  # nor NaN
        raise ValueError(f"values with levels must lie in [−1, 1], got {x0.min().item():.4g} … {x0.max().item():.4g}")
    dtype, half = x0.dtype, 1 / (levels - 1)
    # In float32 the gradient of log_ndtr is 4 % off at −1000 and nothing at −100,000, where a bad mean can be.
    x0, mean, std = x0.double(), mean.double(), std.double()
    # By symmetry the tail that is computed is the small one, so that no probability rounds to 1 − 1.
    offset = -(x0 - mean).abs()
    near, far = torch.special.log_ndtr((offset + half) / std), torch.special.log_ndtr((offset - half) / std)
    inside = near + torch.log(-torch.expm1((far - near).clamp(max=-1e-16)))
    edge = torch.special.log_ndtr((half - x0.sign() * (x0 - mean)) / std)
    return -torch.where(x0.abs() > 1 - half, edge, inside).flatten(1).sum(1).to(dtype)


def hybrid_loss(
    network: Callable[..., Tensor],
    schedule: Discrete,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    prediction: Prediction = "eps",
    y: Tensor | None = None,
    vlb_weight: float = 0.001,
    levels: int | None = 256,
    **conditions: Tensor | None,
) -> Tensor:
    """L_simple + vlb_weight · T · (the bound's term at t) for a learned variance.

    The network returns [B, 2C, …]: the prediction and v (`process.learned_std`). The second part teaches only v: the
    mean is held fixed in it. Returned per example, as a mean over dimensions, in nats (Nichol and Dhariwal 2021,
    section 3.1). Chapter 4.

    Raises:
        ValueError: as for `simple_loss` and `reconstruction`; the output has other than twice the channels; the
            schedule has no steps; or vlb_weight is negative or not finite.
    """
    check_discrete(schedule)
    _check_examples(x0, t)
    if not 0 <= vlb_weight < math.inf:
        raise ValueError(f"vlb_weight must be finite and not negative, got {vlb_weight}; 0.001 is usual")
    xt = add_noise(schedule, x0, t, eps)
    output = run_network(network, prediction, schedule, xt, t, y=y, **conditions).to(x0)
    wanted = (len(x0), 2 * x0.shape[1], *x0.shape[2:])
    if output.shape != wanted:
        raise ValueError(f"for a learned variance the network must return {wanted}, got {tuple(output.shape)}")
    output, v = output.chunk(2, dim=1)
    simple = ((output - target(prediction, schedule, x0, eps, t)) ** 2).flatten(1).mean(1)
    with torch.no_grad():
        mean = posterior(schedule, xt, to_x0(prediction, output, schedule, xt, t), t).mean
    std = learned_std(schedule, v, t)
    bound = _bound_at(schedule, xt, x0, mean, std, t, levels)
    return simple + vlb_weight * schedule.T * bound / x0[0].numel()


def draw_times(schedule: Schedule, batch_size: int, generator: torch.Generator) -> Tensor:
    """Noisy times, uniform over 1 … T or (0, T], [B], on the generator's device. Chapter 6.

    Source: Ho et al. 2020, algorithm 1; Kingma et al. 2021, section 5, for continuous time.

    t = 0 is data and has nothing to learn.
    """
    _check_draw(batch_size, generator)
    if isinstance(schedule, Discrete):
        return torch.randint(1, schedule.T + 1, (batch_size,), generator=generator, device=generator.device)
    u = torch.rand(batch_size, generator=generator, device=generator.device, dtype=torch.float64)
    return schedule.T * (1 - u)


def draw_logit_normal_times(
    schedule: Schedule, batch_size: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0
) -> Tensor:
    """t = T · sigmoid(N(mean, std²)): more of the middle, where flows are hard (Esser et al. 2024, equation 19).

    Chapter 15 uses it.
    """
    _check_draw(batch_size, generator, mean, std)
    z = torch.randn(batch_size, generator=generator, device=generator.device, dtype=torch.float64)
    t = schedule.T * torch.sigmoid(mean + std * z)
    return t.ceil().long().clamp(1, schedule.T) if isinstance(schedule, Discrete) else t


def draw_sigma_times(
    schedule: Schedule, batch_size: int, generator: torch.Generator, mean: float = -1.2, std: float = 1.2
) -> Tensor:
    """The times at which ln σ ~ N(mean, std²), cut off at T (Karras et al. 2022, table 1). Chapter 4."""
    _check_draw(batch_size, generator, mean, std)
    z = torch.randn(batch_size, generator=generator, device=generator.device, dtype=torch.float64)
    return schedule.time_at(-2 * (mean + std * z))


def by_time(losses: Tensor, t: Tensor, T: float, bins: int = 10) -> Tensor:
    """[bins] mean loss of the examples in each of `bins` equal parts of (0, T]; NaN where there was none.

    For monitoring: a mean over all times hides a network that has given up on one end. Chapters 4 and 11.

    Raises:
        ValueError: losses and t are not [B] both; t is outside 0 … T; T is not positive; or there are no bins.
    """
    if losses.shape != t.shape or losses.ndim != 1:
        raise ValueError(f"give one time for each loss, got {tuple(t.shape)} times and {tuple(losses.shape)} losses")
    _positive("T", T)
    at_least(1, bins=bins)
    if not bool(((t >= 0) & (t <= T)).all()):
        raise ValueError(f"t must lie in 0 … T = {T:g}, got {t.min().item():.6g} … {t.max().item():.6g}")
    part = (t.to(losses.device).double() * bins / T).ceil().long().clamp(1, bins) - 1
    total = torch.zeros(bins, dtype=torch.float64, device=losses.device).index_add_(0, part, losses.detach().double())
    return total / torch.bincount(part, minlength=bins)


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")


def _check_examples(x0: Tensor, t: Tensor) -> None:
    """One time for all would do for x_t, but times [B, 1] make losses [B, B] of a weight in silence."""
    check_batch(x0)
    if not isinstance(t, Tensor) or t.shape != x0.shape[:1]:
        got = f"shape {tuple(t.shape)}" if isinstance(t, Tensor) else repr(t)
        raise ValueError(f"t must be a tensor of one time for each of the {len(x0)} examples, got {got}")


def _check_draw(batch_size: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0) -> None:
    if not isinstance(batch_size, Integral) or batch_size < 0:
        raise ValueError(f"batch_size must be a whole number, not negative, got {batch_size}")
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"times need one torch.Generator, such as torch.Generator().manual_seed(0), got {generator!r:.40}"
        )
    if not math.isfinite(mean):
        raise ValueError(f"mean must be finite, got {mean}")
    _positive("std", std)
