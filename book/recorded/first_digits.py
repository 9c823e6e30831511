"""The digits that chapter 6 begins with. The program is the page's own: its cells that are tagged `program`."""

import math
import re
import time
from typing import Any

import torch
from record import ROOT, record
from torch import Tensor

from diffusion_book import data, models

PAGE = ROOT / "book" / "06-building-the-model.md"
COLUMNS = 8


def program() -> dict[str, Any]:
    """The names that the cells of the page make."""
    text = PAGE.read_text("utf8")
    cells = re.findall(r"^```\{code-cell\}\n:tags: \[[^\]\n]*\bprogram\b[^\]\n]*\]\n(.*?)^```$", text, re.M | re.S)
    names: dict[str, Any] = {}
    exec(compile("\n".join(cells), PAGE, "exec"), names)
    return names


def grid(pictures: Tensor) -> Tensor:
    """[10 · COLUMNS, 1, 28, 28], a class after the other → one picture [1, 280, COLUMNS · 28]."""
    rows = pictures.reshape(10, COLUMNS, 28, 28)
    return rows.permute(0, 2, 1, 3).reshape(1, 280, COLUMNS * 28)


def measure(steps: int, size: int, rate: float, each: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    page, digits = program(), data.load("mnist-5k")
    zoo, reader = models.load("mnist-unet"), models.load_any("mnist-classifier").network
    labels = torch.arange(10).repeat_interleave(each)

    torch.manual_seed(seed)
    unet = page["UNet"]()
    average = page["EMA"](unet, 0.999)
    start = time.process_time()
    losses = page["train"](unet, digits, steps, rate, size, averages=[average])
    seconds = time.process_time() - start

    drawn = {
        "this page": page["draw"](average.network, labels),
        "the zoo": models.draw(zoo, labels.tolist(), range(len(labels))),
    }
    cost = {
        "this page": (unet, len(digits), steps * size, seconds),
        "the zoo": (zoo.network, 60_000, zoo.card.images_seen, zoo.card.wall_time),
    }
    numbers: dict[str, Any] = {"loss": losses[-20:].mean().item()}
    for name, (network, count, images, time_of_it) in cost.items():
        read = (reader(drawn[name]).argmax(1) == labels).double().mean().item()
        numbers[name] = {
            "weights": sum(math.prod(p.shape) for p in network.parameters()),
            "set": count,
            "images": images,
            "training seconds": time_of_it,
            "read": read,
        }
    chosen = torch.cat([torch.arange(COLUMNS) + each * digit for digit in range(10)]) % len(labels)
    numbers["pictures"] = {name: grid(pictures[chosen]) for name, pictures in drawn.items()}
    return numbers


if __name__ == "__main__":
    record(
        measure,
        "Digits by the program of this page, and by `mnist-unet` of the zoo.",
        seed=0,
        full={"steps": 1080, "size": 32, "rate": 3e-3, "each": 40},
        small={"steps": 20, "size": 16, "rate": 3e-3, "each": 1},
        tolerance={"loss": 0.02},
    )
