"""Fine-tune or from scratch: the same steps on few pictures of one class, from other classes' weights and from none."""

from typing import Any

import torch
from record import record
from small_run import HeldOut, draw, network, pictures, strip, train
from torch import Tensor, nn

from diffusion_book import data

NEW = data.icons.CLASSES.index("food")


def measure(before: int, steps: list[int], rate: float, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    (x, y), (x_held, y_held) = pictures("train"), pictures("test")
    old, new = y != NEW, y == NEW
    held_out = HeldOut(x_held[y_held == NEW], y_held[y_held == NEW], draws=24)
    base = train(network(seed), x[old], y[old], steps=before, rate=rate, seed=seed)

    def start(name: str) -> nn.Module:
        fresh = network(seed)
        if name == "fine-tuned":
            fresh.load_state_dict(base.state_dict())
        return fresh

    found: dict[str, Any] = {"new pictures": int(new.sum()), "steps": steps, "before": before}
    shown: dict[str, Tensor] = {}
    each: dict[str, list[Tensor]] = {name: [] for name in ("fine-tuned", "from scratch")}
    for name in each:
        for count in steps:
            average = train(start(name), x[new], y[new], steps=count, rate=rate, warmup=20, seed=seed + 1)
            each[name].append(held_out(average).double())
            shown[f"{name}, {count}"] = strip(draw(average, torch.full((10,), NEW)))
        found[name] = [losses.mean().item() for losses in each[name]]
    gap = [b - a for a, b in zip(*each.values())]
    found["not at all"] = held_out(base).mean().item()
    found["gained"] = [g.mean().item() for g in gap]
    found["error"] = [g.std().item() / len(g) ** 0.5 for g in gap]
    return {**found, "first": found["from scratch"][0], "pictures": shown}


if __name__ == "__main__":
    record(
        measure,
        "Held-out loss on one class of icons, fine-tuned from the other nine and from scratch.",
        seed=0,
        full={"before": 500, "steps": [60, 240], "rate": 4e-3},
        small={"before": 1, "steps": [2], "rate": 4e-3},
        tolerance={"first": 0.02},
    )
