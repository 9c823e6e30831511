"""Whether the rate of learning favours one side when chapter 5 sets its U-Net beside a DiT: both, at other rates."""

from typing import Any

import torch
from record import record
from unet_parts import TIMES, network, programs


def measure(steps: int, rates: list[float], seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    page = programs()
    losses: dict[str, dict[str, float]] = {"U-Net": {}, "DiT": {}}
    for name, by_rate in losses.items():
        for rate in rates:
            torch.manual_seed(seed)
            trained = page["train"](network(page, name), steps, seed, rate=rate)
            by_rate[str(rate)] = sum(page["unseen_loss"](trained, t) for t in TIMES) / len(TIMES)
            print(name, rate, by_rate[str(rate)], flush=True)
    return {"losses": losses, **{f"loss of {name}": min(by_rate.values()) for name, by_rate in losses.items()}}


if __name__ == "__main__":
    record(
        measure,
        "The loss of the small U-Net and of the DiT beside it at three other rates of learning, one seed each.",
        seed=0,
        full={"steps": 200, "rates": [7.5e-4, 1.5e-3, 6e-3]},
        small={"steps": 4, "rates": [1.5e-3]},
        tolerance={"loss of U-Net": 0.02, "loss of DiT": 0.02},
    )
