"""Digits of `mnist-unet` guided in an interval of noise levels, and away from a younger self. Chapter 8."""

from functools import partial
from typing import Any

from asked_digits import MODEL, table
from record import record

from diffusion_book import models
from diffusion_book.models import Guidance
from diffusion_book.training.precision import Precision


def measure(intervals: list[float], young: list[float], count: int, steps: int, precision: Precision, seed: int) -> Any:
    model, bad = models.load(MODEL), models.load(f"{MODEL}-early")
    how = {f"w = {w:g}, 0.6 < σ ≤ 9": Guidance(w, (0.6, 9.0)) for w in intervals}
    how |= {f"w = {w:g}, away from a younger self": Guidance(w, bad=bad) for w in young}
    rows = {name: partial(lambda guidance, y: model.denoiser({"y": y}, guidance), how[name]) for name in how}
    return table(rows, count, steps, precision, seed)


if __name__ == "__main__":
    record(
        measure,
        "Digits guided in an interval of noise levels, and away from the same network at an earlier step.",
        seed=500_000,
        full={"intervals": [2.0, 4.0, 8.0], "young": [2.0], "count": 250, "steps": 6, "precision": "bf16"},
        small={"intervals": [4.0], "young": [2.0], "count": 20, "steps": 3, "precision": "fp32"},
        tolerance={"mean pixel, w = 4, 0.6 < σ ≤ 9": 1e-3, "mean pixel, w = 2, away from a younger self": 1e-3},
    )
