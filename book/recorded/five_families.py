"""Five families of generative models on the ring of eight blobs, compared (chapter 1).

The models are the page's own: its cells with the tag `program` are run here as they stand there.
"""

import math
import re
import time
from itertools import pairwise
from typing import Any

import torch
from record import ROOT, record
from torch import Tensor, nn

from diffusion_book import data

PAGE = ROOT / "book" / "01-generative-models.md"
FAMILIES = {  # the names of the figures, and of the page's classes
    "autoregression": "Autoregression",
    "flow": "Flow",
    "VAE": "VAE",
    "GAN": "GAN",
    "diffusion": "Diffusion",
}


def programs() -> dict[str, Any]:
    """What the page's programs define."""
    cells = re.findall(r"^```\{code-cell\}\n:tags: \[(.*?)\]\n(.*?)^```$", PAGE.read_text("utf8"), re.M | re.S)
    names = {"math": math, "torch": torch, "nn": nn, "pairwise": pairwise, "truth": data.ring_of_gaussians()}
    for tags, code in cells:
        if "program" in tags.split(", "):
            exec(code, names)
    return names


def describe(page: dict[str, Any], points: Tensor, real: Tensor) -> dict[str, float]:
    """What the page measures of one cloud of points."""
    on_blob, rarest = page["quality"](points)
    return {"energy": page["energy_distance"](points, real), "on blob": on_blob, "rarest": rarest}


@torch.no_grad()
def draw(model: nn.Module, points: int, seed: int, **options: int) -> tuple[Tensor, float]:
    """Points, and the milliseconds that a thousand of them take: the median of five."""
    seconds = []
    for _ in range(5):
        generator = torch.Generator().manual_seed(seed)
        start = time.process_time()
        drawn = model.sample(points, generator, **options)
        seconds.append(time.process_time() - start)
    return drawn, 1e6 * sorted(seconds)[2] / points


def measure(seeds: int, steps: int, points: int, walks: list[int], seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    page = programs()
    real = [page["ring"](points, torch.Generator().manual_seed(1000 + i)) for i in range(seeds + 1)]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ["data", *FAMILIES]}
    by_steps: dict[int, list[dict[str, float]]] = {count: [] for count in walks}
    clouds = {}
    for i in range(seeds):
        rows["data"].append(describe(page, real[i + 1], real[i]))
        for name, family in FAMILIES.items():
            torch.manual_seed(seed + i)
            model, generator = page[family](), torch.Generator().manual_seed(seed + i)
            start = time.process_time()
            (page["train_gan"] if name == "GAN" else page["train"])(model, steps, generator)
            seconds = time.process_time() - start
            drawn, milliseconds = draw(model, points, seed + i)
            rows[name].append(describe(page, drawn, real[i]) | {"seconds": seconds, "ms": milliseconds})
            if i == 0:
                clouds[name] = [[round(v, 3) for v in point] for point in drawn[:1500].tolist()]
            print(name, rows[name][-1], flush=True)
            if name == "diffusion":
                for count in walks:
                    drawn, milliseconds = draw(model, points, seed + i, steps=count)
                    by_steps[count].append(describe(page, drawn, real[i]) | {"ms": milliseconds})
    energies = {f"energy of {name}": rows[name][0]["energy"] for name in rows}
    return {"rows": rows, "by steps": by_steps, "clouds": clouds, **energies}


if __name__ == "__main__":
    record(
        measure,
        "Five families of generative models on the ring, each trained with three seeds.",
        seed=1,
        full={"seeds": 3, "steps": 3000, "points": 4000, "walks": [1, 2, 3, 5, 10, 20, 50, 100]},
        small={"seeds": 1, "steps": 20, "points": 300, "walks": [2]},
        tolerance={f"energy of {name}": 0.02 for name in ["data", *FAMILIES]},
    )
