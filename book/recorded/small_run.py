"""The short run that chapter 11 trains in view, for the records that change one thing about it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_book import data, denoise, losses, samplers, schedules
from diffusion_book.data.augment import flip_half
from diffusion_book.nn import UNet, UNetConfig
from diffusion_book.training import EMA

SIDE, CLASSES = 16, len(data.icons.CLASSES)
SCHEDULE = schedules.cosine()


def pictures(split: str) -> tuple[Tensor, Tensor]:
    """The icons of a split, in [−1, 1], and their classes."""
    x, y = data.icons.pictures(split, SIDE)
    return x.float() / 127.5 - 1, y


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return UNet(
        UNetConfig(image_channels=3, channels=32, channel_mults=(1, 2), attention_levels=(1,), patch=2, classes=CLASSES)
    )


class HeldOut:
    """A validation set: pictures, times and noise that are drawn once and never again."""

    def __init__(self, x0: Tensor, y: Tensor, draws: int = 4, seed: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x0, self.y = x0.repeat(draws, 1, 1, 1), y.repeat(draws)
        self.t = losses.draw_times(SCHEDULE, len(self.x0), generator)
        self.eps = torch.randn(self.x0.shape, generator=generator)

    def __call__(self, model: nn.Module) -> Tensor:
        """[N] losses, always of the same examples."""
        with torch.no_grad():
            return losses.simple_loss(model, SCHEDULE, self.x0, self.t, self.eps, "v", {"y": self.y})


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    rate: float,
    batch: int = 32,
    warmup: int = 50,
    decays: tuple[float, ...] = (0.99,),
    warm: bool = True,
    look: Callable[[int, dict[str, Any]], None] | None = None,
    every: int = 25,
    seed: int = 0,
) -> nn.Module:
    """The loop of the page → the averaged network. `look` is told of every so many steps: loss, norm, averages."""
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    averages = [EMA(model, decay) for decay in decays]
    if not warm:
        averages[-1].updates = 10**9  # its decay is the final one from the first step on
    generator = torch.Generator().manual_seed(seed)
    total, by_time, model = 0.0, [], model.train()
    for step in range(steps):
        share = min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * step / steps)))
        optimiser.param_groups[0]["lr"] = rate * share
        index = torch.randint(len(x), (batch,), generator=generator)
        x0 = flip_half(x[index], generator)
        told = torch.where(torch.rand(batch, generator=generator) < 0.1, CLASSES, y[index])
        t = losses.draw_times(SCHEDULE, batch, generator)
        eps = torch.randn(x0.shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            each = losses.simple_loss(model, SCHEDULE, x0, t, eps, "v", {"y": told})
        optimiser.zero_grad()
        each.mean().backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        for average in averages:
            average.update(model)
        total += each.mean().item()
        by_time.append((each.detach(), t))
        if look and ((step + 1) % every == 0 or step == 0):
            found = torch.cat([pair[0] for pair in by_time]), torch.cat([pair[1] for pair in by_time])
            count = len(by_time)
            line = {"loss": total / count, "grad_norm": norm.item(), "averages": [a.network for a in averages]}
            line["by_time"] = losses.by_time(*found, SCHEDULE.T, 5).tolist()
            look(step + 1, line)
            total, by_time = 0.0, []
    return averages[0].network


def draw(model: nn.Module, y: Tensor, seed: int = 3) -> Tensor:
    """One picture of each class that is asked for, always from the same noise."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(y), 3, SIDE, SIDE, generator=generator)
    denoiser = denoise.from_network(model.eval(), SCHEDULE, "v", x0_max=1.0, conditions={"y": y})
    return samplers.dpm_solver(denoiser, SCHEDULE, noise, times=samplers.log_snr_times(SCHEDULE, 18)).clamp(-1, 1)


def strip(images: Tensor, columns: int = 10) -> Tensor:
    """[N, C, H, W] → one picture, row by row."""
    return torch.cat([torch.cat(list(row), dim=-1) for row in images.split(columns)], dim=-2)
