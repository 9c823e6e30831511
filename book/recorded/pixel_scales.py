"""Digits learned on [−1, 1] and on [0, 1]: errors of x̂0, in one unit, at one log-SNR of the picture (chapter 10)."""

import math

import torch
from record import record
from torch.nn import functional as F

from diffusion_book import data, denoise, process, samplers, schedules, training
from diffusion_book.nn import UNet, UNetConfig

SCALES = {"minus one": (1.0, 0.0), "zero": (0.5, 0.5)}
LOG_SNRS = [-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0]


class Scaled:
    """Digits of half the size, as c x + d."""

    def __init__(self, x: torch.Tensor, c: float, d: float):
        self.x = c * F.avg_pool2d(x, 2) + d

    def batch(self, size: int, generator: torch.Generator) -> tuple[torch.Tensor, dict]:
        return self.x[torch.randint(len(self.x), (size,), generator=generator)], {}


def measure(steps: int, seeds: int, seed: int) -> dict:
    digits, held_out = data.load("mnist-5k"), data.load("mnist-5k", "test")
    cosine, test = schedules.cosine(), F.avg_pool2d(held_out.x, 2)
    eps = torch.randn(test.shape, generator=torch.Generator().manual_seed(seed))
    errors, losses, drawn = {}, {}, {}
    for number in range(seeds):
        config = training.TrainConfig(
            steps=steps, batch_size=64, learning_rate=4e-3, warmup=30, ema_decay=0.99, seed=number
        )
        for name, (c, d) in SCALES.items():
            torch.manual_seed(number)  # the two networks of a pair begin with the same weights
            network = UNet(UNetConfig(channels=16, channel_mults=(1, 2), attention_levels=()))
            result = training.train(network, Scaled(digits.x, c, d), training.Denoising(cosine), config)
            losses[name, number] = float(result.losses[-30:].mean())
            denoiser = denoise.from_network(result.ema, cosine, "v")
            squares = []
            for log_snr in LOG_SNRS:
                t = int(cosine.time_at(log_snr - 2 * math.log(c)).round())
                xt = process.add_noise(cosine, c * test + d, t, eps)
                with torch.no_grad():
                    x0_hat = denoiser(xt, torch.full((len(xt),), t))
                squares.append(float((((x0_hat - d) / c - test) ** 2).mean()))
            errors[name, number] = squares
            if number == 0:
                noise = samplers.start_noise((10, 1, 14, 14), torch.Generator().manual_seed(seed + 1))
                drawn[name] = samplers.ddim(denoiser, cosine, noise, samplers.uniform_times(cosine, 50))
    first = errors["minus one", 0]
    pm, zero = drawn["minus one"], drawn["zero"]
    rows = [pm, 2 * zero - 1, zero, 2 * pm.clamp(0, 1) - 1]
    return {
        "log-SNR": LOG_SNRS,
        "error on [−1, 1]": first,
        "[0, 1] over it": [
            [errors["zero", n][i] / errors["minus one", n][i] for n in range(seeds)] for i in range(len(LOG_SNRS))
        ],
        "another seed over it": [
            [errors["minus one", n][i] / first[i] for n in range(1, seeds)] for i in range(len(LOG_SNRS))
        ],
        "ratio of losses": losses["zero", 0] / losses["minus one", 0],
        "error at log-SNR 0": first[3],
        "pictures": {str(i): torch.cat(list(row.clamp(-1, 1)), dim=2) for i, row in enumerate(rows)},
    }


if __name__ == "__main__":
    record(
        measure,
        "The error of denoised digits on two scales of their pixels, three seeds each.",
        seed=4,
        full={"steps": 120, "seeds": 3},
        small={"steps": 5, "seeds": 1},
        tolerance={"ratio of losses": 0.01, "error at log-SNR 0": 0.01},
    )
