"""Bits per dimension: how many bits a model needs for each value of a real image, two ways. Chapters 12 and 15.

Data have 256 levels, a model of [−1, 1] has a density, and the two meet in one of two ways. The bound (VLB) gives
each level the probability of its bin in the last step. The ODE gives the exact density at x + noise that is uniform
over a bin of width 2/255; since −log is convex, that too is an upper bound on average, of the same unit.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffusion_book._checks import at_least
from diffusion_book.data.images import check_images, from_uint8, to_uint8
from diffusion_book.denoise import Denoiser
from diffusion_book.losses import vlb, vlb_at
from diffusion_book.process import prior_kl
from diffusion_book.samplers import log_likelihood
from diffusion_book.schedules import Discrete, Schedule


@dataclass(frozen=True)
class Bits:
    """Bits per dimension, an upper bound on the code length of an image with 256 levels, over its number of values.

    Attributes:
        mean: over the images. standard_error: of that mean, over the images.
        each: [N], for each image.
        how: what was computed, in words.
    """

    mean: float
    standard_error: float
    each: Tensor
    how: str

    @staticmethod
    def of(each: Tensor, how: str) -> "Bits":
        """From the bits per dimension [N] of each image."""
        error = float(each.std()) / math.sqrt(len(each)) if len(each) > 1 else math.nan
        return Bits(float(each.mean()), error, each, how)


def bits_by_bound(
    denoiser: Denoiser,
    schedule: Discrete,
    images: Tensor,
    generator: torch.Generator,
    batch_size: int = 100,
    draws: int | None = None,
) -> Bits:
    """By the variational bound, `losses.vlb`: the model is the discrete chain with T steps (chapter 3).

    With `draws` the sum over the T − 1 steps before the last is estimated from a few of them, without bias. A step's
    chance of being drawn is its share of the cost of Gaussian data of variance 1, which is known. The standard error
    then holds both: that of the images and that of the draws.

    Args:
        denoiser: (x_t, t) → x̂0; or x̂0 and v, as a `denoise.Estimate`.
        images: [N, C, H, W] in [−1, 1], of 256 levels; T evaluations each, or draws + 1.
        generator: one draw of x_t for each time and image.
        draws: steps for each image; None for all of them.

    Raises:
        ValueError: the images are not of 256 levels, or draws is no whole number above 0.

    Source: Ho et al. 2020, section 3.3; steps drawn by importance as in Nichol and Dhariwal 2021, section 3.3.
    """
    if draws is not None:
        at_least(1, draws=draws)
    parts = [
        vlb(denoiser, schedule, x, generator).total()
        if draws is None
        else _drawn_bound(denoiser, schedule, x, generator, draws)
        for x in _batches(images, batch_size)
    ]
    each = torch.cat(parts).double() / (images[0].numel() * math.log(2))
    drawn = "one draw for each time" if draws is None else f"{draws} of the steps drawn for each image"
    return Bits.of(each, f"variational bound over T = {schedule.T} steps, 256 levels, {drawn}")


def _drawn_bound(denoiser: Denoiser, schedule: Discrete, x0: Tensor, generator: torch.Generator, draws: int) -> Tensor:
    """`vlb(…).total()`, [B] nats, with the sum over t = 2 … T from a few t for each image."""
    last = torch.ones(len(x0), dtype=torch.int64)
    total = prior_kl(schedule, x0) + vlb_at(denoiser, schedule, x0, last, generator)
    chance = unit_gaussian_shares(schedule)
    for _ in range(draws):
        there = chance.to(generator.device)
        t = 2 + torch.multinomial(there, len(x0), replacement=True, generator=generator).cpu()
        total = total + vlb_at(denoiser, schedule, x0, t, generator) / (draws * chance[t - 2]).to(x0)
    return total


def unit_gaussian_shares(schedule: Discrete) -> Tensor:
    """[T − 1], for t = 2 … T: the share of L_{t−1} in their sum for data N(0, 1) and its exact denoiser.

    There E‖x0 − x̂0‖² = b_t² = 1/(1 + SNR(t)) for each value.
    """
    snr = schedule.at(range(1, schedule.T + 1)).log_snr.exp()
    cost = (snr[:-1] - snr[1:]) / (1 + snr[1:])
    return cost / cost.sum()


def bits_by_ode(
    denoiser: Denoiser,
    schedule: Schedule,
    images: Tensor,
    generator: torch.Generator,
    divergence: Literal["exact", "hutchinson"] = "hutchinson",
    batch_size: int = 100,
    sigma_min: float = 1e-3,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Bits:
    """By the exact likelihood of the probability-flow ODE, with uniform dequantisation (chapter 15).

    With u uniform over a bin, −log₂ P(level) ≤ E_u[−log₂ p(x + u)] − log₂(2/255) for each dimension.

    Args:
        denoiser: (x_t, t) → x̂0 for any real time, differentiable.
        schedule: continuous; for a discrete one, `schedule.continuous()`.
        images: [N, C, H, W] in [−1, 1], of 256 levels.
        generator: draws u, then Hutchinson's signs.
        divergence, sigma_min, rtol, atol: as in `samplers.log_likelihood`.

    Source: Song et al. 2021b, section 4.3; dequantisation as in Theis et al. 2016, section 3.1.
    """
    parts = []
    for x in _batches(images, batch_size):
        u = torch.rand(x.shape, generator=generator, device=generator.device, dtype=torch.float64).to(x.device)
        filled = (x.double() + (2 * u - 1) / 255).to(x.dtype)
        probe = generator if divergence == "hutchinson" else None
        solver = {"sigma_min": sigma_min, "rtol": rtol, "atol": atol}
        parts.append(log_likelihood(denoiser, schedule, filled, divergence=divergence, generator=probe, **solver))
    D = images[0].numel()
    each = -torch.cat(parts).double() / (D * math.log(2)) + math.log2(255 / 2)
    return Bits.of(each, f"exact ODE likelihood, {divergence} divergence, uniform dequantisation of 256 levels")


def _batches(images: Tensor, batch_size: int) -> Iterator[Tensor]:
    at_least(1, batch_size=batch_size)
    check_images(images)
    if float((images - from_uint8(to_uint8(images))).abs().max()) > 1e-4:
        raise ValueError("bits per dimension are of 256 levels, not of values between; use from_uint8(to_uint8(x))")
    yield from images.split(batch_size)
