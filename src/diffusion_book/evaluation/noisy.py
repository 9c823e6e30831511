"""A classifier of noisy images, measured: what it names rightly, by the level of noise. Chapter 8."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_book import data
from diffusion_book.evaluation.of_model import classifier_metrics
from diffusion_book.process import add_noise
from diffusion_book.schedules import Schedule

NOISE = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0)
"""b/a at which it is measured."""


def noisy_metrics(network: nn.Module, schedule: Schedule, images: data.Images) -> dict[str, Any]:
    """What a classifier of noisy images names rightly and how sure it is of it, by the level of noise.

    Each image at each of `NOISE` with noise from seed 0, by the time at which b/a is that.

    Raises:
        ValueError: the images have no labels.
    """
    clean, generator = classifier_metrics(network, images), torch.Generator().manual_seed(0)
    by_noise = {}
    for sigma in NOISE:
        t = schedule.time_at(torch.tensor(-2 * math.log(sigma), dtype=torch.float64))
        log_p = noisy_log_prob(network, schedule, images, t, generator)
        share = float((log_p.argmax(1) == images.conditions["y"]).double().mean())
        by_noise[f"{sigma:g}"] = {
            "t": t.item(),
            "accuracy": share,
            "standard error": math.sqrt(share * (1 - share) / len(images)),
            "cross-entropy": float(-log_p.gather(1, images.conditions["y"][:, None]).mean()),
        }
    notes = "Noise is b/a; chance is the largest class. " + clean["notes"]
    return {**clean, "accuracy by noise": by_noise, "notes": notes}


@torch.no_grad()
def noisy_log_prob(
    network: nn.Module, schedule: Schedule, images: data.Images, t: Tensor, generator: torch.Generator
) -> Tensor:
    """log p(y|x_t) [N, classes] of images that get the noise of one time t, on the CPU."""
    device = next(network.parameters()).device
    found = []
    for x0 in images.x.split(500):
        times = t.expand(len(x0))
        xt = add_noise(schedule, x0, times, torch.randn(x0.shape, generator=generator))
        found.append(network(xt.to(device), schedule.clock(times).to(xt)).log_softmax(1).cpu())
    return torch.cat(found)
