"""Training objectives. Chapter 4 derives them, chapter 6 trains with the first."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffusion_book.process import Prediction, add_noise, target
from diffusion_book.schedules import Schedule


def simple_loss(
    network: Callable[..., Tensor],
    schedule: Schedule,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    prediction: Prediction = "eps",
    y: Tensor | None = None,
) -> Tensor:
    """L_simple per example: the mean squared error of the prediction at one time each (Ho et al. 2020, equation 14).

    Args:
        network: called as network(x_t, t) or network(x_t, t, y).
        x0: [B, …] data. t: [B] integers in 1 … T. eps: [B, …] standard normal noise.
        prediction: what the network outputs. y: [B] class labels, or None.

    Returns:
        [B] losses, averaged over each example's dimensions; take `.mean()` to train, or keep them to see loss by time.
    """
    xt = add_noise(schedule, x0, t, eps)
    output = network(xt, t) if y is None else network(xt, t, y)
    if output.shape != x0.shape:
        raise ValueError(
            f"the network must return the shape of its input, {tuple(x0.shape)}, got {tuple(output.shape)}"
        )
    error = output.to(x0) - target(prediction, schedule, x0, eps, t)  # the output may be bfloat16, x0 is not
    return (error**2).flatten(1).mean(1)


def draw_times(schedule: Schedule, batch_size: int, generator: torch.Generator) -> Tensor:
    """t uniform over 1 … T, [B], on the generator's device: t = 0 is data and has nothing to learn (chapter 6)."""
    return torch.randint(1, schedule.T + 1, (batch_size,), generator=generator, device=generator.device)
