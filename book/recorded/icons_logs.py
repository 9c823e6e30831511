"""The short run of chapter 11 as it should be, and spoilt in three ways: what each writes into its log."""

from typing import Any

import torch
from record import record
from small_run import HeldOut, draw, network, pictures, strip, train
from torch import Tensor

FEW = 24  # pictures of the run that has too few


def one(x: Tensor, y: Tensor, held_out: HeldOut, steps: int, rate: float, seed: int) -> dict[str, Any]:
    """A run's log, with the held-out loss of its average, of one that is too long and not warmed up, and pictures."""
    log: dict[str, list[Any]] = {name: [] for name in ("step", "loss", "held out", "grad_norm", "long average")}
    last: dict[str, Any] = {}

    def look(step: int, line: dict[str, Any]) -> None:
        good, long = line.pop("averages")
        row = {"step": step, "held out": held_out(good).mean().item(), "long average": held_out(long).mean().item()}
        for name, value in {**row, "loss": line["loss"], "grad_norm": line["grad_norm"]}.items():
            log[name].append(value)
        last.update(by_time=line["by_time"], long=long)

    average = train(
        network(seed), x, y, steps=steps, rate=rate, decays=(0.99, 0.9999), warm=False, look=look, seed=seed
    )
    tenths = torch.arange(10)
    return {
        "log": log,
        "by time": last["by_time"],
        "drawn": strip(draw(average, tenths)),
        "drawn by the long average": strip(draw(last["long"], tenths)),
    }


def measure(runs: list[str], steps: int, rate: float, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    (x, y), (x_held, y_held) = pictures("train"), pictures("test")
    numbers: dict[str, Any] = {}
    shown: dict[str, Tensor] = {}
    for run in runs:
        few = torch.arange(0, len(x), -(-len(x) // FEW)) if run == "few pictures" else torch.arange(len(x))
        halved = run == "wrong range"  # [0, 1] where [−1, 1] was meant, in training and in the held-out set alike
        scale = (lambda pixels: (pixels + 1) / 2) if halved else (lambda pixels: pixels)
        held_out = HeldOut(scale(x_held), y_held, draws=2)
        factor = 10.0 if run == "rate too high" else 1.0
        found = one(scale(x[few]), y[few], held_out, steps, factor * rate, seed)
        shown[run] = found.pop("drawn")
        long = found.pop("drawn by the long average")
        if run == "healthy":
            shown["long average"] = long
            numbers["first loss"] = found["log"]["loss"][0]
        numbers[run] = found
    return {**numbers, "few": FEW, "rate": rate, "pictures": shown}


if __name__ == "__main__":
    record(
        measure,
        "The log of the page's short run, and of three that are sick.",
        seed=0,
        full={"runs": ["healthy", "rate too high", "wrong range", "few pictures"], "steps": 400, "rate": 4e-3},
        small={"runs": ["healthy"], "steps": 2, "rate": 4e-3},
        tolerance={"first loss": 0.02},
    )
