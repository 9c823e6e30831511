"""How good the digits of mnist-unet are, by sampler and number of evaluations: the table of chapter 12.

    DIFFUSION_BOOK_DATA=… python benchmarks/quality.py --samples 300 --processes 2

Every row draws the same digits of the same noise, without guidance. The Fréchet distance is in the features of
`mnist-classifier`, to the whole training set. The numbers go into the model's card, where the page finds
them, and into `results/quality.md`. A process computes on one thread.
"""

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_book import data, evaluation, process, samplers, zoo
from diffusion_book.cli.cards import hardware, write_card
from diffusion_book.samplers import karras_times, log_snr_times, uniform_times
from diffusion_book.schedules import Schedule
from diffusion_book.training.loop import autocast

RESULTS = Path(__file__).parent / "results"
MODEL = "mnist-unet"
SAMPLERS: dict[str, tuple[Callable[..., Tensor], Callable[..., Any], bool]] = {  # with its grid; does it draw noise?
    "DDPM": (samplers.ddpm, uniform_times, True),
    "DDIM": (samplers.ddim, uniform_times, False),
    "Euler": (samplers.euler, karras_times, False),
    "Euler ancestral": (samplers.euler_ancestral, karras_times, True),
    "Heun": (samplers.heun, karras_times, False),
    "DPM-Solver++(2M)": (samplers.dpm_solver, log_snr_times, False),
    "DPM-Solver++(3M)": (partial(samplers.dpm_solver, order=3), log_snr_times, False),
    "SDE-DPM-Solver++(2M)": (partial(samplers.dpm_solver, eta=1.0), log_snr_times, True),
    "UniPC": (samplers.unipc, log_snr_times, False),
}
EVALUATIONS = [5, 10, 15, 20, 50, 100, 250, 1000]


def digits(name: str, evaluations: int, count: int) -> Tensor:
    """[count, 1, 28, 28], each class alike, picture i from seed i."""
    torch.set_num_threads(1)
    model = zoo.load(MODEL)
    assert model.schedule is not None
    sample, grid, draws_noise = SAMPLERS[name]
    times = grid(model.schedule, evaluations)
    if name == "Heun":  # as many steps as may be had for so many evaluations, one or two a step
        grids = [grid(model.schedule, steps) for steps in range(1, evaluations + 1)]
        times = max((g for g in grids if cost(model.schedule, g) <= evaluations), key=len)
    parts = []
    for start in range(0, count, 100):
        generators = process.seeded(range(start, min(start + 100, count)))
        x_T = samplers.start_noise((len(generators), 1, 28, 28), generators)
        y = torch.arange(start, start + len(generators)) % 10
        with autocast("auto", x_T.device):
            x0 = sample(
                model.denoiser(y), model.schedule, x_T, times, **({"generator": generators} if draws_noise else {})
            )
        parts.append(x0.clamp(-1, 1))
    return torch.cat(parts)


def cost(schedule: Schedule, times: Any) -> int:
    """The evaluations of Heun's method on these times, counted: two for some steps, one for the others."""
    asked: list[Tensor] = []

    def denoiser(xt: Tensor, t: Tensor) -> Tensor:
        asked.append(t)
        return xt

    samplers.heun(denoiser, schedule, torch.zeros(1, 1), times)
    return len(asked)


def dealt(y: Tensor, count: int, seed: int) -> Tensor:
    """Some of them at random, with as many of each class as the samples have: a floor is drawn as the samples were."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[y[order] == digit][: count // 10] for digit in range(10)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few digits and evaluations; writes nothing")
    parser.add_argument("--only", choices=SAMPLERS, nargs="+", help="measure these again; the card keeps the others")
    parser.add_argument("--at", type=int, nargs="+", default=EVALUATIONS, help="these alone; the card keeps the others")
    arguments = parser.parse_args()
    evaluations, count = ([5, 10, 15], 60) if arguments.quick else (arguments.at, arguments.samples)
    weights = zoo.WEIGHTS / f"{MODEL}.safetensors"
    card = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    found: dict[str, dict[int, float]] = {name: {} for name in SAMPLERS}
    if not arguments.quick and (arguments.only or evaluations != EVALUATIONS):
        kept = card["quality by evaluations"]
        if kept["N"] != count:
            parser.error(f"the card's rows are of {kept['N']} samples; measure with as many, got {count}")
        found |= {name: {int(n): x for n, x in row.items()} for name, row in kept["FCD-MNIST"].items()}

    train, test = data.load("mnist"), data.load("mnist", "test")
    classifier = zoo.load("mnist-classifier")
    extractor = evaluation.from_classifier(
        classifier.network, "mnist-classifier", accuracy=classifier.card["metrics"]["accuracy"]
    )
    reference = evaluation.moments(extractor, train.x, "mnist/train")

    def distance(x: Tensor) -> float:
        return evaluation.frechet_distance(evaluation.moments(extractor, x), reference)

    real = torch.tensor([distance(test.x[dealt(test.y, count, seed)]) for seed in range(10)])
    jobs = [(name, n) for name in arguments.only or SAMPLERS for n in evaluations]
    jobs.sort(key=lambda job: -job[1])  # the longest first, so that no process waits for them in the end
    with (
        ProcessPoolExecutor(arguments.processes, get_context("spawn")) as pool,
        tqdm(total=sum(n for _, n in jobs)) as bar,
    ):
        running = {pool.submit(digits, *job, count): job for job in jobs}
        for future in as_completed(running):
            name, n = running[future]
            found[name][n] = distance(future.result())
            bar.update(n)
    table: dict[str, Any] = {
        "command": f"python benchmarks/quality.py --samples {count}",
        "N": count,
        "reference": "mnist/train",
        "extractor": f"mnist-classifier, SHA-256 {extractor.sha256}",
        "guidance": 1.0,
        "hardware": hardware(torch.device("cpu")),
        "held-out digits": {"mean": real.mean().item(), "sd": real.std().item(), "draws": len(real)},
        "FCD-MNIST": {name: dict(sorted(row.items())) for name, row in found.items()},
    }
    text = markdown(table, sorted({n for row in found.values() for n in row}))
    print(text)
    if arguments.quick:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "quality.md").write_text(text, encoding="utf-8")
    write_card(weights, {**card, "quality by evaluations": table})


def markdown(table: dict[str, Any], columns: list[int]) -> str:
    real = table["held-out digits"]
    lines = [
        f"FCD-MNIST of {table['N']} digits of {MODEL} against the training set, by evaluations of the network for one "
        f"digit. As many held-out digits, of each class alike: {real['mean']:.2f} ± {real['sd']:.2f}.\n",
        "| sampler | " + " | ".join(map(str, columns)) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name, row in table["FCD-MNIST"].items():
        lines.append(f"| {name} | " + " | ".join(f"{row[n]:.2f}" if n in row else "" for n in columns) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
