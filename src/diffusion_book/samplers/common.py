"""What the samplers share: the starting noise, and what a callback is told."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffusion_book.denoise import Denoiser


class Step(NamedTuple):
    """One step of a sampler, as a callback sees it: x_s [B, …] at the time s it arrived at, and the x̂0 it used."""

    t: int
    s: int
    xs: Tensor
    x0_hat: Tensor


Callback = Callable[[Step], None]


def start_noise(
    shape: Sequence[int],
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """x_T ~ N(0, I), where the reverse process starts (chapter 3).

    It is drawn on the generator's device and then moved, so that a CPU seed gives the same picture on any machine.
    """
    x = torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=dtype)
    return x if device is None else x.to(device)


def denoise_at(denoiser: Denoiser, xt: Tensor, t: int) -> Tensor:
    """x̂0 at one time for the whole batch; a NaN or infinity is reported where it first appears."""
    x0_hat = denoiser(xt, torch.full((len(xt),), t, dtype=torch.long, device=xt.device))
    if x0_hat.shape != xt.shape:
        raise ValueError(
            f"the denoiser must return x̂0 of shape {tuple(xt.shape)}, got {tuple(x0_hat.shape)} at t = {t}"
        )
    if not bool(torch.isfinite(x0_hat).all()):
        raise FloatingPointError(f"the denoiser returned NaN or infinity at t = {t}; look at its output at that time")
    return x0_hat
