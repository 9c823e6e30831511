"""When the words of a caption are heard, by the moments of the run scenes-unet: what a wrong word costs, by its kind.

The run itself is `diffusion-book train --config src/diffusion_book/zoo/recipes/scenes-unet.toml --out runs/scenes-unet
--set 'keep_steps=[1000, 2000, 4000, 8000, 12000, 17000]'`. Where its folder lies elsewhere, $SCENES_RUN says where.
"""

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from record import ROOT, record

from diffusion_book import data
from diffusion_book.evaluation.heard import heard
from diffusion_book.models import Card, Model
from diffusion_book.training import RunConfig, Trainer, checkpoint
from diffusion_book.training.config import build_network

RECIPE = ROOT / "src" / "diffusion_book" / "zoo" / "recipes" / "scenes-unet.toml"
RUN = Path(os.environ.get("SCENES_RUN", ROOT / "runs" / "scenes-unet"))


def moment(config: RunConfig, step: int) -> Model:
    """The averaged network of one step."""
    _, parts = checkpoint.load(RUN / "checkpoints" / checkpoint.name_of(step), only=["ema"])
    network = build_network(config, data.load("scenes"))
    network.load_state_dict(parts["ema"])
    schedule, prediction = config.denoising.build_schedule(), config.denoising.prediction
    return Model.of(network.eval().requires_grad_(False), schedule, prediction, Card(recipe=config))


def first_losses(steps: int) -> list[float]:
    """The losses of the run's first steps, which this trains again."""
    config = dataclasses.replace(
        RunConfig.from_file(RECIPE), steps=steps, warmup=300, log_every=1, checkpoint_every=steps, held_out=None
    )
    with tempfile.TemporaryDirectory() as folder:
        Trainer(config, folder).run()
        lines = (Path(folder) / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def measure(count: int, again: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    numbers: dict[str, Any] = {f"loss of step {step}": loss for step, loss in enumerate(first_losses(again), start=1)}
    if not count:
        return numbers
    config = RunConfig.from_file(RUN / "config.json")
    kept = [step for step in config.keep_steps if (RUN / "checkpoints" / checkpoint.name_of(step)).exists()]
    moments = [
        {
            "step": step,
            "pictures seen": step * config.batch_size,
            "gaps": heard(moment(config, step), count, seed=seed),
        }
        for step in kept
    ]
    return {**numbers, "pictures measured": count, "moments": moments}


if __name__ == "__main__":
    record(
        measure,
        "What a wrong word costs the run scenes-unet, by its kind, the noise, and the pictures seen.",
        seed=0,
        full={"count": 96, "again": 2},
        small={"count": 0, "again": 2},
        tolerance={"loss of step 1": 0.01, "loss of step 2": 0.02},
    )
