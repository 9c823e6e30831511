"""DDIM: the same marginals with less noise, or none (Song et al. 2021a, equation 12). Chapter 6 uses it."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from diffusion_book.denoise import Denoiser
from diffusion_book.process import from_x0, posterior, randn_like
from diffusion_book.samplers.common import Callback, Step, denoise_at
from diffusion_book.samplers.grids import check_times
from diffusion_book.schedules import Schedule


def ddim(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    times: Sequence[int],
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Step from x_t to x_s = a_s x̂0 + √(b_s² − std²) ε̂ + std · noise, with std = η × the posterior's.

    Args:
        denoiser: (x_t, t) → x̂0.
        xt: [B, …] the start, at times[0].
        times: falling integers that end in 0.
        eta: 0 is deterministic, 1 is ancestral sampling (`ddpm` with the small variance, on any grid).
        generator: needed where eta > 0.
        callback: told of each step.

    Returns:
        x_0 [B, …], without noise.

    Raises:
        ValueError: eta is negative or above 1, or eta > 0 without a generator.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1] (0 deterministic, 1 ancestral), got {eta}")
    if eta > 0 and generator is None:
        raise ValueError("eta > 0 draws noise, so pass a torch.Generator; eta = 0 needs none")
    for t, s in pairwise(check_times(schedule, times)):
        x0_hat = denoise_at(denoiser, xt, t)
        eps_hat = from_x0("eps", x0_hat, schedule, xt, t)
        a, b = schedule.a(s, like=xt), schedule.b(s, like=xt)
        std = eta * posterior(schedule, xt, x0_hat, t, s).std
        xt = a * x0_hat + (b**2 - std**2).clamp(min=0).sqrt() * eps_hat
        if generator is not None and eta > 0:
            xt = xt + std * randn_like(xt, generator)
        if callback is not None:
            callback(Step(t, s, xt, x0_hat))
    return xt
