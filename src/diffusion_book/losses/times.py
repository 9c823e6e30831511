"""At which times a network is trained, and how its loss differs between them. Chapters 4, 6 and 11."""

import math

import torch
from torch import Tensor

from diffusion_book._checks import at_least, positive
from diffusion_book._double import in_double, real_on
from diffusion_book.schedules import Discrete, Schedule


def draw_times(schedule: Schedule, batch_size: int, generator: torch.Generator) -> Tensor:
    """Noisy times, uniform over 1 … T or (0, T], [B], on the generator's device. Chapter 6.

    Source: Ho et al. 2020, algorithm 1; Kingma et al. 2021, section 5, for continuous time.

    t = 0 is data and has nothing to learn.
    """
    _check_draw(batch_size, generator)
    if isinstance(schedule, Discrete):
        return torch.randint(1, schedule.T + 1, (batch_size,), generator=generator, device=generator.device)
    u = torch.rand(batch_size, generator=generator, device=generator.device, dtype=real_on(generator.device))
    return schedule.T * (1 - u)


def draw_logit_normal_times(
    schedule: Schedule, batch_size: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0
) -> Tensor:
    """t = T · sigmoid(N(mean, std²)): more of the middle, where flows are hard (Esser et al. 2024, equation 19).

    Chapter 15 uses it.
    """
    _check_draw(batch_size, generator, mean, std)
    z = torch.randn(batch_size, generator=generator, device=generator.device, dtype=real_on(generator.device))
    t = schedule.T * torch.sigmoid(mean + std * z)
    return t.ceil().long().clamp(1, schedule.T) if isinstance(schedule, Discrete) else t


def draw_sigma_times(
    schedule: Schedule, batch_size: int, generator: torch.Generator, mean: float = -1.2, std: float = 1.2
) -> Tensor:
    """The times at which ln σ ~ N(mean, std²), cut off at T (Karras et al. 2022, table 1). Chapter 4."""
    _check_draw(batch_size, generator, mean, std)
    z = torch.randn(batch_size, generator=generator, device=generator.device, dtype=real_on(generator.device))
    t = schedule.time_at(-2 * (mean + std * z))
    return t.to(z.device, z.dtype if t.is_floating_point() else t.dtype)


def by_time(losses: Tensor, t: Tensor, T: float, bins: int = 10) -> Tensor:
    """[bins] mean loss of the examples in each of `bins` equal parts of (0, T]; NaN where there was none.

    For monitoring: a mean over all times hides a network that has given up on one end. Chapters 4 and 11.

    Raises:
        ValueError: losses and t are not [B] both; t is outside 0 … T; T is not positive; or there are no bins.
    """
    _check_losses(losses, t, T, bins)
    losses = in_double(losses.detach())
    part = (in_double(t).to(losses.device) * bins / T).ceil().long().clamp(1, bins) - 1
    total = losses.new_zeros(bins).index_add_(0, part, losses)
    return total / torch.bincount(part, minlength=bins)


def _check_losses(losses: Tensor, t: Tensor, T: float, bins: int) -> None:
    if losses.shape != t.shape or losses.ndim != 1:
        raise ValueError(f"give one time for each loss, got {tuple(t.shape)} times and {tuple(losses.shape)} losses")
    positive("T", T)
    at_least(1, bins=bins)
    if not bool(((t >= 0) & (t <= T)).all()):
        raise ValueError(f"t must lie in 0 … T = {T:g}, got {t.min().item():.6g} … {t.max().item():.6g}")


def _check_draw(batch_size: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0) -> None:
    at_least(0, batch_size=batch_size)
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"times need one torch.Generator().manual_seed(…), got {generator!r:.40}")
    if not math.isfinite(mean):
        raise ValueError(f"mean must be finite, got {mean}")
    positive("std", std)
