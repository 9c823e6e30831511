"""How much guidance mnist-unet wants, and where: the choice behind the numbers of its card.

    DIFFUSION_BOOK_DATA=… python benchmarks/guidance.py --samples 1000 --processes 2

Each cell draws digits with one strength w, in one interval of noise levels, and measures their Fréchet distance to the
*training* digits, so that the test digits have no say. The pictures' seeds are none of those that the card measures.
The table goes into the card and into `results/guidance.md`. A process computes on one thread.
"""

import argparse
import math
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_book import data, evaluation, models, zoo
from diffusion_book.evaluation.of_model import extractor_of
from diffusion_book.models.card import GUIDANCE, hardware

RESULTS = Path(__file__).parent / "results"
MODEL = "mnist-unet"
STEPS = 14
FIRST_SEED = 1_000_000  # `evaluate` begins at 0
STRENGTHS = [1.25, 1.5, 2.0, 3.0]
INTERVALS = {
    "everywhere": (0.0, math.inf),
    "0.3 < σ ≤ 9": (0.3, 9.0),
    "0.6 < σ ≤ 9": (0.6, 9.0),
    "1 < σ ≤ 9": (1.0, 9.0),
}


def digits(w: float, interval: tuple[float, float], y: Tensor) -> Tensor:
    """[N, 1, 28, 28], picture i of class y_i and from seed FIRST_SEED + i."""
    torch.set_num_threads(1)
    guided = models.Guidance() if w == 1 else models.Guidance(w, interval)
    seeds = range(FIRST_SEED, FIRST_SEED + len(y))
    return models.draw(MODEL, y, seeds, steps=STEPS, guidance=guided, batch_size=100, precision="auto")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()

    train = data.load("mnist")
    drawn = torch.randint(len(train), (arguments.samples,), generator=torch.Generator().manual_seed(FIRST_SEED))
    y = train.conditions["y"][drawn]
    extractor = extractor_of("mnist-classifier", train.shape)
    reference = evaluation.moments(extractor, train.x, "mnist/train")
    cells = [("everywhere", 1.0), *((name, w) for name in INTERVALS for w in STRENGTHS)]
    found: dict[tuple[str, float], float] = dict.fromkeys(cells, math.inf)  # in this order
    with ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool, tqdm(total=len(cells)) as bar:
        running = {pool.submit(digits, w, INTERVALS[name], y): (name, w) for name, w in cells}
        for future in as_completed(running):
            features = evaluation.moments(extractor, future.result())
            found[running[future]] = evaluation.frechet_distance(features, reference)
            bar.update()
    none = found.pop(("everywhere", 1.0))
    # Of places that are equally good the widest, which comes first: where no time of the grid lies between their ends.
    place, w = min(found, key=lambda cell: found[cell])
    table: dict[str, Any] = {
        "command": f"python benchmarks/guidance.py --samples {arguments.samples}",
        "N": arguments.samples,
        "steps": STEPS,
        "reference": "mnist/train",
        "extractor": f"mnist-classifier, SHA-256 {extractor.sha256}",
        "hardware": hardware(torch.device("cpu")),
        "FCD-MNIST without guidance": none,
        "FCD-MNIST": {name: {f"{w:g}": found[name, w] for w in STRENGTHS} for name in INTERVALS},
        "best": {"w": w, "interval": INTERVALS[place]},
    }
    print(text := markdown(table))
    (RESULTS / "guidance.md").write_text(text, encoding="utf-8")
    card = models.load(MODEL).card
    replace(card, studies={**card.studies, GUIDANCE: table}).write(zoo.weights(MODEL))


def markdown(table: dict[str, Any]) -> str:
    lines = [
        f"FCD-MNIST of {table['N']} digits of {MODEL} against the training set, in {table['steps']} steps, by strength "
        f"of guidance w and where it acts. Without guidance: {table['FCD-MNIST without guidance']:.3f}.\n",
        "| guided | " + " | ".join(f"w = {w:g}" for w in STRENGTHS) + " |",
        "|---|" + "---|" * len(STRENGTHS),
    ]
    for name, row in table["FCD-MNIST"].items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row.values()) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
