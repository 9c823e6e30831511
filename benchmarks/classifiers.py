"""Is a distance one classifier's opinion? mnist-classifier trained again, and mnist-unet measured by each.

    DIFFUSION_BOOK_DATA=… python benchmarks/classifiers.py --seeds 1 2

The same recipe from other seeds, and the same digits seen by each: the model's card says how they are drawn. Chapter 12
shows the table, which goes into the classifier's card. A seed takes half an hour; what lies in `runs/classifiers`
is not computed again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffusion_book import models, zoo
from diffusion_book.models import Card
from diffusion_book.models.card import hardware

KEPT = Path("runs/classifiers")
CLASSIFIER, MODEL = "mnist-classifier", "mnist-unet"
RECIPE = zoo.recipe(CLASSIFIER)


def diffusion_book(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "diffusion_book.cli", *map(str, words)], check=True)


def trained_again(seed: int) -> dict[str, Any]:
    """Its accuracy, and what it says of the model and of real digits."""
    run, accuracy, report = (KEPT / name for name in (f"{seed}", f"accuracy-{seed}.json", f"{MODEL}-{seed}.json"))
    if not accuracy.exists():
        resume = ["--resume"] if run.exists() else []
        diffusion_book("train", "--config", RECIPE, "--seed", str(seed), "-o", run, *resume)
        diffusion_book("evaluate", "--model", run, "-o", accuracy)
    if not report.exists():
        as_in_card = shlex.split(models.load(MODEL).card.metrics["measured by"]["command"])[1:]
        diffusion_book(*as_in_card, "--seeds", "1", "--no-accuracy", "--extractor", run, "-o", report)
    said = json.loads(accuracy.read_text(encoding="utf-8"))["summary"]
    weights = said["measured by"]["classifier"]["weights_sha256"]
    return row(said["accuracy"], json.loads(report.read_text(encoding="utf-8"))["summary"], weights)


def row(accuracy: float | None, metrics: Mapping[str, Any], weights: str) -> dict[str, Any]:
    """Of the model's digits the first ten thousand alone, which all classifiers saw."""
    fcd = metrics["FCD-MNIST"]
    return {
        "accuracy": accuracy,
        "FCD-MNIST": fcd["each"][0],
        "real against real": fcd["real against real"]["mean"],
        "held-out images with noise": metrics["held-out images with noise"],
        "weights_sha256": weights,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    seeds = parser.parse_args().seeds
    card, model = (Card.beside(zoo.weights(name)) for name in (CLASSIFIER, MODEL))
    rows = {f"{card.seed}": row(card.accuracy, model.metrics, card.weights_sha256)}
    rows |= {f"{seed}": trained_again(seed) for seed in seeds}
    accuracies = torch.tensor([found["accuracy"] for found in rows.values()], dtype=torch.float64)
    found = {
        "command": f"python benchmarks/classifiers.py --seeds {' '.join(map(str, seeds))}",
        "hardware": hardware(torch.device("cpu")),
        "accuracy": {"mean": accuracies.mean().item(), "sd": accuracies.std().item()},
        "measured": {"model": MODEL, "sha256": model.sha256, "N": model.metrics["FCD-MNIST"]["N"]},
        "by seed of training": rows,
    }
    print(json.dumps(found, indent=1))
    replace(card, studies={**card.studies, "trained again": found}).write(zoo.weights(CLASSIFIER))


if __name__ == "__main__":
    main()
