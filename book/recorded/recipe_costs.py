"""What the recipes of chapter 11 cost: weights, memory, multiplications counted, the speed of a CPU thread measured."""

import time
from typing import Any

import torch
from record import record
from torch.utils.flop_counter import FlopCounterMode

from diffusion_book import losses, schedules
from diffusion_book.nn import UNet, UNetConfig

# name: side, pictures, network, batch, learning rate, decay of the average, steps, dropout
RECIPES: dict[str, dict[str, Any]] = {
    "1,000 at 32": {
        "side": 32,
        "network": {"channels": 32, "channel_mults": (1, 2, 3), "attention_levels": (1, 2), "patch": 2},
        "settings": [32, 1.5e-3, 0.999, 10_000, 0.1],
    },
    "5,000 at 32": {
        "side": 32,
        "network": {"channels": 64, "channel_mults": (1, 2, 2), "attention_levels": (1, 2), "patch": 2},
        "settings": [64, 1e-3, 0.999, 20_000, 0.1],
    },
    "1,000 at 64": {
        "side": 64,
        "network": {"channels": 32, "channel_mults": (1, 2, 3, 4), "attention_levels": (2, 3), "patch": 2},
        "settings": [32, 1e-3, 0.999, 10_000, 0.2],
    },
    "5,000 at 64": {
        "side": 64,
        "network": {"channels": 64, "channel_mults": (1, 2, 3, 4), "attention_levels": (2, 3), "patch": 2},
        "settings": [64, 5e-4, 0.9995, 24_000, 0.1],
    },
    "50,000 at 64": {
        "side": 64,
        "network": {"channels": 96, "channel_mults": (1, 2, 3, 4), "blocks": 2, "attention_levels": (2, 3), "patch": 2},
        "settings": [128, 3e-4, 0.9999, 100_000, 0.0],
    },
    "5,000 at 128": {
        "side": 128,
        "network": {"channels": 64, "channel_mults": (1, 2, 3, 4), "attention_levels": (3,), "patch": 4},
        "settings": [32, 5e-4, 0.9995, 48_000, 0.1],
    },
}


def cost(recipe: dict[str, Any], batch: int, repeats: int) -> dict[str, Any]:
    """Count and time some training steps without the optimiser, which is no part of what grows with the picture."""
    *_, dropout = recipe["settings"]
    torch.manual_seed(0)
    network = UNet(UNetConfig(image_channels=3, dropout=dropout, **recipe["network"])).train()
    schedule, generator = schedules.cosine(), torch.Generator().manual_seed(0)
    x0 = torch.randn(batch, 3, recipe["side"], recipe["side"], generator=generator)
    t = losses.draw_times(schedule, batch, generator)

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return losses.simple_loss(network, schedule, x0, t, torch.randn_like(x0), "v").mean()

    with FlopCounterMode(display=False) as counter:
        forward()
    kept: dict[int, int] = {}

    def keep(saved: torch.Tensor) -> torch.Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    own = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        loss = forward()
        activations = sum(size for place, size in kept.items() if place not in own)
    loss.backward()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        forward().backward()
        seconds.append(time.perf_counter() - start)
    return {
        "weights": sum(weight.numel() for weight in network.parameters()),
        "multiplications": counter.get_total_flops() / 2 / batch,  # of one picture, forwards
        "bytes": activations / batch,  # kept for the gradient of one picture
        "pictures a second": batch / min(seconds),  # the step that others on the machine disturbed least
    }


def measure(names: list[str], repeats: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name in names:
        recipe = RECIPES[name]
        batch = 32 if recipe["side"] == 32 else 8
        found[name] = {**cost(recipe, batch, repeats), "side": recipe["side"], "network": recipe["network"]}
        found[name]["settings"] = recipe["settings"]
    first = found[names[0]]
    return {"recipes": found, "weights": first["weights"], "multiplications": first["multiplications"]}


if __name__ == "__main__":
    record(
        measure,
        "The weights, memory, multiplications and speed of six recipes.",
        seed=0,
        full={"names": list(RECIPES), "repeats": 8},
        small={"names": ["1,000 at 32"], "repeats": 1},
        tolerance={"weights": 0, "multiplications": 0.5},
    )
