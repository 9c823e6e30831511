"""The variational bound, term by term, and the loss that trains a variance with it. Chapters 3 and 4."""

import math
from collections.abc import Callable
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_book._checks import check_batch
from diffusion_book._double import in_double
from diffusion_book._random import Generators, randn_like
from diffusion_book.conditions import Conditions
from diffusion_book.denoise import Denoiser, run_network, v_of, x0_of
from diffusion_book.losses.denoising import check_examples
from diffusion_book.predictions import Prediction, target, to_x0
from diffusion_book.process import add_noise, check_discrete, learned_std, posterior, posterior_kl, prior_kl
from diffusion_book.schedules import Discrete, expand


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
    denoiser: Denoiser,
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
        denoiser: (x_t, t) → x̂0; or x̂0 and v, as a `denoise.Estimate`.
        x0: [B, …] in [−1, 1] where there are levels.
        generator: the source of the noise; or one for each example.
        levels: of each pixel; its probability is then that of its bin, as in `reconstruction`. None for densities.

    Raises:
        ValueError: the schedule has no steps; x0 is not [B, …] of floating point numbers, or not in [−1, 1] where
            there are levels; or the denoiser returns another shape.
    """
    check_discrete(schedule)
    check_batch(x0)
    times = (torch.full((len(x0),), t, device="cpu") for t in range(1, schedule.T + 1))
    terms = [vlb_at(denoiser, schedule, x0, t, generator, levels) for t in times]  # L_0, L_1, …
    return VLB(prior_kl(schedule, x0), torch.stack(terms[1:], 1), terms[0])


@torch.no_grad()
def vlb_at(
    denoiser: Denoiser,
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
    check_examples(x0, t)
    xt = add_noise(schedule, x0, t, randn_like(x0, generator))
    answer = denoiser(xt, t.to(x0.device))
    x0_hat, v = x0_of(answer), v_of(answer)
    for part in (x0_hat, v):
        if part is not None and part.shape != x0.shape:
            raise ValueError(f"the denoiser must return the shape of x_t, {tuple(x0.shape)}, got {tuple(part.shape)}")
    if v is not None:
        mean, std = posterior(schedule, xt, x0_hat, t).mean, learned_std(schedule, v.to(x0), t)
        return _bound_at(schedule, xt, x0, mean, std, t, levels)
    last = t == 1  # the reconstruction costs more than the rest, and is left out where it is not asked for
    term = x0.new_empty(len(x0))
    term[~last] = posterior_kl(schedule, x0[~last], x0_hat[~last], t[~last]).to(x0)
    b_1 = schedule.at(1).like(x0).b.expand_as(x0[last])
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
    _check_reconstruction(x0, mean, std, levels)
    if levels is None:
        log_p = -0.5 * (((x0 - mean) / std) ** 2 + math.log(2 * math.pi)) - std.log()
        return -log_p.flatten(1).sum(1)
    like, half = x0, 1 / (levels - 1)
    # In float32 the gradient of log_ndtr is 4 % off at −1000 and nothing at −100,000, where a bad mean can be.
    x0, mean, std = in_double(x0), in_double(mean), in_double(std)
    # By symmetry the tail that is computed is the small one, so that no probability rounds to 1 − 1.
    offset = -(x0 - mean).abs()
    near, far = torch.special.log_ndtr((offset + half) / std), torch.special.log_ndtr((offset - half) / std)
    inside = near + torch.log(-torch.expm1((far - near).clamp(max=-1e-16)))
    edge = torch.special.log_ndtr((half - x0.sign() * (x0 - mean)) / std)
    return -torch.where(x0.abs() > 1 - half, edge, inside).flatten(1).sum(1).to(like)


def _check_reconstruction(x0: Tensor, mean: Tensor, std: Tensor, levels: int | None) -> None:
    check_batch(x0)
    spread = std.ndim <= x0.ndim and all(n in (1, m) for n, m in zip(reversed(std.shape), reversed(x0.shape)))
    if mean.shape != x0.shape or not spread:
        raise ValueError(
            f"mean must have the shape of x0, {tuple(x0.shape)}, and std one that broadcasts to it, got "
            f"{tuple(mean.shape)} and {tuple(std.shape)}"
        )
    if levels is None:
        return
    if not isinstance(levels, Integral) or levels < 2:
        raise ValueError(f"levels must be a whole number of at least 2, got {levels}; None for data without levels")
    if not bool((x0.abs() <= 1 + 1e-6).all()):  # nor NaN
        raise ValueError(f"values with levels must lie in [−1, 1], got {x0.min().item():.4g} … {x0.max().item():.4g}")


def hybrid_loss(
    network: Callable[..., Tensor],
    schedule: Discrete,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    prediction: Prediction = "eps",
    conditions: Conditions | None = None,
    vlb_weight: float = 0.001,
    levels: int | None = 256,
) -> Tensor:
    """L_simple + vlb_weight · T · (the bound's term at t) for a learned variance.

    The network returns [B, 2C, …]: the prediction and v (`process.learned_std`). The second part teaches only v: the
    mean is held fixed in it. Returned per example, as a mean over dimensions, in nats (Nichol and Dhariwal 2021,
    section 3.1). Chapter 4.

    Raises:
        ValueError: as for `simple_loss` and `reconstruction`; the output has other than twice the channels; the
            schedule has no steps; or vlb_weight is negative or not finite.
    """
    check_examples(x0, t)
    _check_hybrid(schedule, vlb_weight)
    xt = add_noise(schedule, x0, t, eps)
    output = run_network(network, prediction, schedule, xt, t, conditions).to(x0)
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


def _check_hybrid(schedule: Discrete, vlb_weight: float) -> None:
    check_discrete(schedule)
    if not 0 <= vlb_weight < math.inf:
        raise ValueError(f"vlb_weight must be finite and not negative, got {vlb_weight}; 0.001 is usual")
