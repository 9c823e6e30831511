"""Four learning rates for the short run of chapter 11: the losses of the same held-out examples after each."""

from typing import Any

import torch
from record import record
from small_run import HeldOut, network, pictures, train


def measure(rates: list[float], steps: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    (x, y), (x_held, y_held) = pictures("train"), pictures("test")
    held_out = HeldOut(x_held, y_held)
    found = [held_out(train(network(seed), x, y, steps=steps, rate=rate, seed=seed)).double() for rate in rates]
    best = min(range(len(rates)), key=lambda i: float(found[i].mean()))
    worse = [each - found[best] for each in found]
    root = len(held_out.x0) ** 0.5
    return {
        "rates": rates,
        "steps": steps,
        "examples": len(held_out.x0),
        "held out": [each.mean().item() for each in found],
        "error alone": [each.std().item() / root for each in found],
        "worse than the best": [each.mean().item() for each in worse],
        "error paired": [each.std().item() / root for each in worse],
        "first": found[0].mean().item(),
    }


if __name__ == "__main__":
    record(
        measure,
        "The held-out loss of the page's short run with four learning rates.",
        seed=0,
        full={"rates": [3e-4, 1e-3, 4e-3, 1.6e-2], "steps": 400},
        small={"rates": [1e-3], "steps": 3},
        tolerance={"first": 0.02},
    )
