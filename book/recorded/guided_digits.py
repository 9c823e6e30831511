"""Digits of `mnist-unet` by the strength of classifier-free guidance. Chapter 8."""

from functools import partial
from typing import Any

from asked_digits import MODEL, table
from record import record

from diffusion_book import models
from diffusion_book.training.precision import Precision


def measure(strengths: list[float], count: int, steps: int, precision: Precision, seed: int) -> dict[str, Any]:
    model = models.load(MODEL)
    rows = {f"w = {w:g}": partial(lambda w, y: model.denoiser({"y": y}, w), w) for w in strengths}
    return table(rows, count, steps, precision, seed)


if __name__ == "__main__":
    record(
        measure,
        "Digits by the strength of guidance: how many are what was asked for, how varied they are, how near to real.",
        seed=500_000,
        full={"strengths": [1.0, 2.0, 4.0, 8.0], "count": 250, "steps": 6, "precision": "bf16"},
        small={"strengths": [4.0], "count": 20, "steps": 3, "precision": "fp32"},
        tolerance={"mean pixel, w = 4": 1e-3},
    )
