"""The long run of chapter 11, read from its folder: what each of its five moments had learned, copied and cost.

The run itself is `diffusion-book train --config src/diffusion_book/zoo/recipes/icons-unet.toml --out runs/icons-unet
--set 'keep_steps=[625, 1250, 2500, 5000, 10000]'`. Where its folder lies elsewhere, $ICONS_RUN says where.
"""

import dataclasses
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from record import ROOT, record

from diffusion_book import data, losses
from diffusion_book.data import Images
from diffusion_book.evaluation import nearest
from diffusion_book.models import Card, Model, draw
from diffusion_book.training import RunConfig, Trainer, checkpoint
from diffusion_book.training.config import build_network

RECIPE = ROOT / "src" / "diffusion_book" / "zoo" / "recipes" / "icons-unet.toml"
RUN = Path(os.environ.get("ICONS_RUN", ROOT / "runs" / "icons-unet"))
DRAWS = 8  # of times and noise, for each picture


def losses_of(model: Model, part: Images, seed: int) -> tuple[float, float, list[float]]:
    """Mean, standard error and tenths of time; the same pictures, times and noise whichever network is asked."""
    generator, each, times = torch.Generator().manual_seed(seed), [], []
    schedule = model.schedule
    for _ in range(DRAWS):
        x0, conditions = part.take(torch.arange(len(part)))
        t = losses.draw_times(schedule, len(x0), generator)
        eps = torch.randn(x0.shape, generator=generator)
        with torch.no_grad():
            each.append(losses.simple_loss(model.network, schedule, x0, t, eps, model.prediction, conditions))
        times.append(t)
    all_losses, all_times = torch.cat(each), torch.cat(times)
    tenths = losses.by_time(all_losses, all_times, schedule.T).tolist()
    error = all_losses.std().item() / len(all_losses) ** 0.5
    return all_losses.mean().item(), error, tenths


def moment(config: RunConfig, step: int, train: Images, test: Images, seed: int) -> tuple[dict[str, Any], torch.Tensor]:
    """What the averaged network of one step has learned, and twenty pictures by it: each class twice."""
    _, parts = checkpoint.load(RUN / "checkpoints" / checkpoint.name_of(step), only=["ema"])
    network = build_network(config, train)
    network.load_state_dict(parts["ema"])
    schedule = config.denoising.build_schedule()
    model = Model.of(network.eval().requires_grad_(False), schedule, config.denoising.prediction, Card(recipe=config))
    some = Images(*train.take(torch.arange(0, len(train), 9)[: len(test)]), "some of the training set")
    seen = torch.cat([train.x, train.x.flip(-1)])  # flipped half of the time
    drawn = draw(model, range(train.classes), range(100))
    apart = nearest(drawn, seen).distance[:, 0] / drawn[0].numel() ** 0.5
    held_out, error, tenths = losses_of(model, test, seed)
    numbers = {
        "step": step,
        "held out": held_out,
        "error": error,
        "training": losses_of(model, some, seed)[0],
        "held out by time": tenths,
        "distance to the nearest training picture, median": apart.median().item(),
        "smallest": apart.min().item(),
        "copies of a hundred": int((apart < 0.1).sum()),
    }
    return numbers, drawn[:20]


def strip(images: torch.Tensor, columns: int = 10) -> torch.Tensor:
    """[N, C, H, W] → one picture, row by row."""
    rows = [torch.cat(list(row), dim=-1) for row in images.split(columns)]
    return torch.cat(rows, dim=-2)


def first_losses(steps: int) -> list[float]:
    """The losses of the run's first steps, which this trains again."""
    config = dataclasses.replace(
        RunConfig.from_file(RECIPE), steps=steps, log_every=1, checkpoint_every=steps, preview_every=0
    )
    with tempfile.TemporaryDirectory() as folder:
        Trainer(config, folder).run()
        lines = (Path(folder) / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def measure(kept: list[int], again: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    first = first_losses(again)
    numbers: dict[str, Any] = {f"loss of step {step}": loss for step, loss in enumerate(first, start=1)}
    if not kept:
        return numbers
    config = RunConfig.from_file(RUN / "config.json")
    train, test = data.load("icons"), data.load("icons", "test")
    log = [json.loads(line) for line in (RUN / "log.jsonl").read_text().splitlines()]
    speed = statistics.median(line["images_per_second"] for line in log if line["images_per_second"] > 150)
    moments = [moment(config, step, train, test, seed) for step in kept]
    nearest_real = nearest(test.x, torch.cat([train.x, train.x.flip(-1)])).distance[:, 0] / 3072**0.5
    return {
        **numbers,
        "pictures in training": len(train),
        "pictures held out": len(test),
        "batch": config.batch_size,
        "pictures a second, undisturbed": speed,
        "minutes": config.steps * config.batch_size / speed / 60,
        "moments": [found for found, _ in moments],
        "real pictures, smallest distance": nearest_real.min().item(),
        "real pictures, median distance": nearest_real.median().item(),
        "log": {name: [line[name] for line in log] for name in ("step", "loss", "grad_norm", "loss_by_time")},
        "pictures": {f"step {found['step']}": strip(drawn) for found, drawn in moments},
    }


if __name__ == "__main__":
    record(
        measure,
        "What the run icons-unet had learned at five moments.",
        seed=1,
        full={"kept": [625, 1250, 2500, 5000, 10000], "again": 2},
        small={"kept": [], "again": 2},
        tolerance={"loss of step 1": 0.01, "loss of step 2": 0.02},
    )
