"""Digits of `mnist-unet` in 5, 10, 20 and 1000 evaluations, by three samplers from the same noise. Chapter 7."""

import torch
from record import record

from diffusion_book import models, samplers


def measure(counts: list[int], digits: int, seed: int) -> dict:
    model = models.load("mnist-unet")
    noises = samplers.seeded(range(seed, seed + digits))
    x_T = samplers.start_noise((digits, 1, 28, 28), noises)
    denoiser = model.denoiser({"y": torch.arange(digits) % 10})
    found: dict = {"pictures": {}}
    for name in ("ddpm", "ddim", "dpm_solver"):
        for count in counts:
            again = samplers.seeded(range(1000 + seed, 1000 + seed + digits))
            times = samplers.uniform_times(model.schedule, count)
            with torch.inference_mode():
                x = samplers.by_name(name)(denoiser, model.schedule, x_T, times, generator=again).clamp(-1, 1)
            grid = x.reshape(2, digits // 2, 28, 28).permute(0, 2, 1, 3).reshape(1, 56, 14 * digits)
            found["pictures"][f"{name} {count}"] = grid
            found[f"mean pixel, {name} {count}"] = x.mean().item()
    return found


if __name__ == "__main__":
    record(
        measure,
        "Digits in few evaluations: DDPM, DDIM and DPM-Solver++(2M) on even times.",
        seed=0,
        full={"counts": [5, 10, 20, 1000], "digits": 10},
        small={"counts": [5], "digits": 10},
        tolerance={f"mean pixel, {name} 5": 1e-3 for name in ("ddpm", "ddim", "dpm_solver")},
    )
