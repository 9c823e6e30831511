"""How good the digits of mnist-unet are, by sampler and number of evaluations: the table of chapter 12.

    DIFFUSION_BOOK_DATA=… python benchmarks/quality.py --samples 300 --processes 2
    DIFFUSION_BOOK_DATA=… python benchmarks/quality.py --close 1000

Every row draws the same digits of the same noise, without guidance. The Fréchet distance is in the features of
`mnist-classifier`, to the whole training set. The numbers go into the model's card, where the page finds
them, and into `results/quality.md`. A process computes on one thread.

The second command asks one question of many more digits: how do fifteen evaluations compare with DDPM's thousand? It
takes hours, and keeps each hundred digits in `runs/quality`, so that it can be stopped and goes on where it was.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from diffusion_book import data, evaluation, models, samplers, zoo
from diffusion_book.evaluation.of_model import extractor_of
from diffusion_book.models import Card, Model
from diffusion_book.models.card import hardware
from diffusion_book.schedules import Discrete, Schedule
from diffusion_book.training.precision import Precision, autocast

RESULTS = Path(__file__).parent / "results"
KEPT = Path("runs/quality")
MODEL = "mnist-unet"
SAMPLERS = {
    "DDPM": samplers.by_name("ddpm"),
    "DDIM": samplers.by_name("ddim"),
    "Euler": samplers.by_name("euler"),
    "Euler ancestral": samplers.by_name("euler_ancestral"),
    "Heun": samplers.by_name("heun"),
    "DPM-Solver++(2M)": samplers.by_name("dpm_solver"),
    "DPM-Solver++(3M)": samplers.by_name("dpm_solver_3m"),
    "SDE-DPM-Solver++(2M)": samplers.by_name("dpm_solver_sde"),
    "UniPC": samplers.by_name("unipc"),
    "predictor-corrector": samplers.by_name("predictor_corrector"),
}
UNEVEN = ("Heun", "predictor-corrector")  # that ask more than once in some steps
EVALUATIONS = [5, 10, 15, 20, 50, 100, 250, 1000]
FLOW = "probability flow"
TOLERANCES = [0.3, 0.1, 0.03, 0.01, 0.001]
Cell = tuple[str, float]


def digits(name: str, evaluations: int, numbers: range) -> tuple[Tensor, float]:
    """Pictures with these numbers [N, 1, 28, 28], and the evaluations that one of them took.

    Number i is of class i mod 10, and drawn from seed i.
    """
    torch.set_num_threads(1)
    model = models.load(MODEL)
    sampler = SAMPLERS[name]
    times = sampler.grid(model.schedule, evaluations)
    if name in UNEVEN:  # as many steps as may be had for so many evaluations
        grids = [sampler.grid(model.schedule, steps) for steps in range(1, evaluations + 1)]
        times = max((g for g in grids if cost(sampler, model.schedule, g) <= evaluations), key=len)
    return _drawn(model, model.schedule, numbers, partial(sampler, times=times))


def flowing(tolerance: float, numbers: range) -> tuple[Tensor, float]:
    """The same by the adaptive solver, which takes as many evaluations as its tolerance needs."""
    torch.set_num_threads(1)
    model = models.load(MODEL)
    assert isinstance(model.schedule, Discrete)
    schedule = model.schedule.continuous()
    model = dataclasses.replace(model, schedule=schedule)
    # In float32: the solver would take bfloat16's rounding for error, and halve its steps in vain.
    sample = partial(samplers.probability_flow, rtol=tolerance, atol=tolerance)
    return _drawn(model, schedule, numbers, lambda *start, generator: sample(*start), precision="fp32")


def _drawn(
    model: Model,
    schedule: Schedule,
    numbers: range,
    sample: Callable[..., Tensor],
    precision: Precision = "auto",
    batch: int = 25,
) -> tuple[Tensor, float]:
    asked = []
    hook = model.network.register_forward_hook(lambda network, inputs, output: asked.append(len(output)))
    parts = []
    for few in (numbers[i : i + batch] for i in range(0, len(numbers), batch)):
        generators = samplers.seeded(few)
        x_T = samplers.start_noise((len(few), 1, 28, 28), generators)
        with autocast(precision, x_T.device):
            x0 = sample(model.denoiser({"y": torch.tensor(few) % 10}), schedule, x_T, generator=generators)
        parts.append(x0.clamp(-1, 1))
    hook.remove()
    return torch.cat(parts), sum(asked) / len(numbers)


def kept(cell: Cell, part: int) -> tuple[Tensor, float]:
    """A hundred digits of a cell, number 100 part and on, from the file in which an earlier run has left them.

    Args:
        cell: a sampler and its evaluations, or "probability flow" and its tolerance.
    """
    name, amount = cell
    path = KEPT / Card.beside(zoo.weights(MODEL)).sha256[:12] / f"{name}-{amount:g}-{part}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        numbers = range(100 * part, 100 * part + 100)
        x, nfe = flowing(amount, numbers) if name == FLOW else digits(name, int(amount), numbers)
        unfinished = path.with_suffix(".part")
        save_file({"x": x, "nfe": torch.tensor(nfe)}, unfinished)
        unfinished.rename(path)
    found = load_file(path)
    return found["x"], found["nfe"].item()


def cost(sampler: samplers.Sampler, schedule: Schedule, times: Any) -> int:
    """The evaluations of a sampler on these times, counted."""
    asked: list[Tensor] = []

    def denoiser(xt: Tensor, t: Tensor) -> Tensor:
        asked.append(t)
        return xt

    sampler(denoiser, schedule, torch.zeros(1, 1), times, generator=torch.Generator().manual_seed(0))
    return len(asked)


def dealt(y: Tensor, count: int, seed: int) -> Tensor:
    """Some of them at random, with as many of each class as the samples have: a floor is drawn as the samples were."""
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[y[order] == digit][: count // 10] for digit in range(10)])


def drawn(cells: list[Cell], count: int, processes: int) -> dict[Cell, tuple[Tensor, float]]:
    """So many digits for each cell, and the evaluations of one, computed side by side or read from files."""
    jobs = [(cell, part) for cell in cells for part in range(-(-count // 100))]
    jobs.sort(key=lambda job: -work(job[0]))  # the longest first, so that no process waits for them in the end
    found: dict[Cell, dict[int, tuple[Tensor, float]]] = {cell: {} for cell in cells}
    with (
        ProcessPoolExecutor(processes, get_context("spawn")) as pool,
        tqdm(total=round(sum(work(cell) for cell, _ in jobs))) as bar,
    ):
        running = {pool.submit(kept, *job): job for job in jobs}
        for future in as_completed(running):
            cell, part = running[future]
            found[cell][part] = future.result()
            bar.update(round(work(cell)))
    whole = {cell: [parts[i] for i in sorted(parts)] for cell, parts in found.items()}
    return {
        cell: (torch.cat([x for x, _ in parts])[:count], sum(nfe for _, nfe in parts) / len(parts))
        for cell, parts in whole.items()
    }


def work(cell: Cell) -> float:
    """About how many evaluations a digit of it takes."""
    name, amount = cell
    return 30 / amount**0.35 if name == FLOW else amount


def ratio(x: Tensor, y: Tensor, distance: Callable[[Tensor], float], parts: int = 20) -> tuple[float, float]:
    """distance(x)/distance(y) and its standard error, by leaving out one part of both after the other (jackknife).

    The parts of x and y have the same labels and the same starting noise.
    """
    r = torch.tensor([distance(without(x, i, parts)) / distance(without(y, i, parts)) for i in range(parts)])
    return distance(x) / distance(y), math.sqrt((parts - 1) * r.var(correction=0).item())


def without(x: Tensor, i: int, parts: int) -> Tensor:
    n = len(x) // parts
    return torch.cat([x[: i * n], x[(i + 1) * n :]])


def into_card(card: Card, title: str, found: dict[str, Any]) -> None:
    dataclasses.replace(card, studies={**card.studies, title: found}).write(zoo.weights(MODEL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--close", type=int, metavar="N", help="fifteen evaluations beside DDPM's thousand, N digits")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="few digits and evaluations; writes nothing")
    parser.add_argument("--only", choices=[*SAMPLERS, FLOW], nargs="+", help="these again; the card keeps the others")
    parser.add_argument("--at", type=int, nargs="+", default=EVALUATIONS, help="these alone; the card keeps the others")
    arguments = parser.parse_args()
    card = Card.beside(zoo.weights(MODEL))

    train, test = data.load("mnist"), data.load("mnist", "test")
    extractor = extractor_of("mnist-classifier", train.shape)
    reference = evaluation.moments(extractor, train.x, "mnist/train")

    def distance(x: Tensor) -> float:
        return evaluation.frechet_distance(evaluation.moments(extractor, x), reference)

    def real(count: int, draws: int = 10) -> dict[str, float]:
        floor = torch.tensor([distance(test.x[dealt(test.conditions["y"], count, seed)]) for seed in range(draws)])
        return {"mean": floor.mean().item(), "sd": floor.std().item(), "draws": draws}

    made: dict[str, Any] = {
        "reference": "mnist/train",
        "extractor": f"mnist-classifier, SHA-256 {extractor.sha256}",
        "guidance": 1.0,
        "hardware": hardware(torch.device("cpu")),
    }
    if arguments.close:
        count = arguments.close
        cells: list[Cell] = [("DDPM", 1000), *((name, 15) for name in SAMPLERS)]
        x = {cell: x for cell, (x, _) in drawn(cells, count, arguments.processes).items()}
        patient = x["DDPM", 1000]
        found = {
            "command": f"python benchmarks/quality.py --close {count}",
            "N": count,
            **made,
            "held-out digits": real(count),
            "DDPM, 1000 evaluations": distance(patient),
            "15 evaluations": {
                name: dict(zip(("FCD-MNIST", "ratio", "standard error"), (distance(y), *ratio(y, patient, distance))))
                for (name, n), y in x.items()
                if n == 15
            },
        }
        print(json.dumps(found, indent=1))
        into_card(card, "fifteen evaluations beside a thousand", found)
        return

    evaluations, count = ([5, 10, 15], 60) if arguments.quick else (arguments.at, arguments.samples)
    rows: dict[str, dict[int, float]] = {name: {} for name in SAMPLERS}
    flow: list[dict[str, float]] = []
    names = arguments.only or [*SAMPLERS, FLOW]
    if not arguments.quick and (arguments.only or evaluations != EVALUATIONS):
        old = card.studies["quality by evaluations"]
        if old["N"] != count:
            parser.error(f"the card's rows are of {old['N']} samples; measure with as many, got {count}")
        rows |= {name: {int(n): x for n, x in row.items()} for name, row in old["FCD-MNIST"].items()}
        flow = old.get(FLOW, [])
    cells = [(name, n) for name in names if name != FLOW for n in evaluations]
    tolerances = TOLERANCES[: 2 if arguments.quick else None] if FLOW in names else []
    cells += [(FLOW, tolerance) for tolerance in tolerances]
    results = drawn(cells, count, arguments.processes)
    for (name, amount), (x, _) in results.items():
        if name != FLOW:
            rows[name][int(amount)] = distance(x)
    if tolerances:
        flow = [
            {"tolerance": amount, "evaluations": nfe, "FCD-MNIST": distance(x)}
            for (name, amount), (x, nfe) in results.items()
            if name == FLOW
        ]
    table: dict[str, Any] = {
        "command": f"python benchmarks/quality.py --samples {count}",
        "N": count,
        **made,
        "held-out digits": real(count),
        "FCD-MNIST": {name: dict(sorted(row.items())) for name, row in rows.items()},
        FLOW: flow,
    }
    text = markdown(table, sorted({n for row in rows.values() for n in row}))
    print(text)
    if arguments.quick:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "quality.md").write_text(text, encoding="utf-8")
    into_card(card, "quality by evaluations", table)


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
    if table[FLOW]:
        lines += ["", f"| {FLOW}, adaptive: tolerance | evaluations | FCD-MNIST |", "|---|---|---|"]
        lines += [f"| {r['tolerance']:g} | {r['evaluations']:.0f} | {r['FCD-MNIST']:.2f} |" for r in table[FLOW]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
