"""Digits of `mnist-unet`, told nothing and steered by a classifier of noisy digits, or of clean ones. Chapter 8."""

from functools import partial
from typing import Any

import torch
from asked_digits import CLASSIFIER, MODEL, table
from record import record
from torch import Tensor
from torch.nn import functional

from diffusion_book import guidance, models
from diffusion_book.denoise import Denoiser
from diffusion_book.training.precision import Precision

NOTHING = 10


def measure(strengths: list[float], clean: float, count: int, steps: int, precision: Precision, seed: int) -> Any:
    model = models.load(MODEL)
    of_noisy = models.load_classifier("mnist-noisy-classifier").network
    of_clean = models.load_classifier(CLASSIFIER).network

    def noisy(xt: Tensor, t: Tensor) -> Tensor:
        return of_noisy(xt, model.schedule.clock(t))

    def steered(logits: Any, w: float, y: Tensor) -> Denoiser:
        def log_prob(xt: Tensor, t: Tensor) -> Tensor:
            return functional.log_softmax(logits(xt, t), dim=1)[torch.arange(len(y)), y]

        plain = model.denoiser({"y": torch.full_like(y, NOTHING)})
        return guidance.threshold(guidance.classifier(plain, model.schedule, log_prob, w))

    rows: dict[str, Any] = {"told the class": lambda y: model.denoiser({"y": y})}
    rows |= {f"a classifier of noisy digits, w = {w:g}": partial(steered, noisy, w) for w in strengths}
    rows[f"a classifier of clean digits, w = {clean:g}"] = partial(steered, lambda xt, t: of_clean(xt), clean)
    return table(rows, count, steps, precision, seed)


if __name__ == "__main__":
    record(
        measure,
        "Digits of a model that is told nothing, steered by classifiers: how many are what was asked for.",
        seed=500_000,
        full={"strengths": [1.0, 4.0, 10.0], "clean": 4.0, "count": 250, "steps": 6, "precision": "fp32"},
        small={"strengths": [4.0], "clean": 4.0, "count": 20, "steps": 3, "precision": "fp32"},
        tolerance={"mean pixel, a classifier of noisy digits, w = 4": 1e-2},
    )
