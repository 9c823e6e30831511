"""Ancestral sampling (Ho et al. 2020, algorithm 2). Derived in chapter 3, built in chapter 6."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from diffusion_book.denoise import Denoiser
from diffusion_book.process import posterior, randn_like
from diffusion_book.samplers.common import Callback, Step, denoise_at
from diffusion_book.samplers.grids import check_times
from diffusion_book.schedules import Schedule

Variance = Literal["small", "large"]


def ddpm(
    denoiser: Denoiser,
    schedule: Schedule,
    xt: Tensor,
    times: Sequence[int],
    generator: torch.Generator,
    variance: Variance = "small",
    callback: Callback | None = None,
) -> Tensor:
    """Walk back from x_t to data, drawing each x_s from q(x_s | x_t, x̂0).

    Args:
        denoiser: (x_t, t) → x̂0.
        xt: [B, …] the start, at times[0]: `start_noise(shape, generator)` when that is T.
        times: falling integers that end in 0; `uniform_times(T, T)` visits every step, fewer skip.
        generator: the source of every random number of the walk.
        variance: "small" is the posterior's variance (right for data at one point), "large" is that of the forward
            step, 1 − α_{t|s} (right for data that is white noise): chapter 3 shows both bounds.
        callback: told of each step, for pictures of the way.

    Returns:
        x_0 [B, …], without noise: the last step returns x̂0 itself.
    """
    if variance not in ("small", "large"):
        raise ValueError(f"variance must be 'small' or 'large', got {variance!r}")
    for t, s in pairwise(check_times(schedule, times)):
        x0_hat = denoise_at(denoiser, xt, t)
        mean, std = posterior(schedule, xt, x0_hat, t, s)
        if variance == "large" and s > 0:
            std = (1 - (schedule.a(t) / schedule.a(s)) ** 2).sqrt().to(xt)
        xt = mean + std * randn_like(xt, generator)
        if callback is not None:
            callback(Step(t, s, xt, x0_hat))
    return xt
