"""Orders of convergence: the error of each solver of the probability-flow ODE against its number of evaluations.

Two problems whose denoiser is exact: Gaussian data, where the ODE has a closed form, and a ring of eight Gaussians,
compared with a much finer run. Each starts at σ = 20 on times even in log σ and is compared at σ = 0.05, with three
steps still to come, since the last one, to σ = 0, is of first order whatever the solver.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

from diffusion_book import denoise, schedules
from diffusion_book.data import GaussianMixture, ring_of_gaussians
from diffusion_book.samplers import Step, ddim, dpm_solver, heun, unipc

RESULTS = Path(__file__).parent / "results"
SCHEDULE = schedules.EDM(sigma_max=100.0)
HIGH, LOW = 20.0, 0.05
MEAN, VARIANCE = 0.5, 0.3

# The sampler, its order, its evaluations a step, and the length in log σ of the first step where it must be shorter: a
# multistep method starts with a step of lower order, which happens once and must leave no more than all others do.
SOLVERS: dict[str, tuple[Callable[..., Tensor], int, int, Callable[[float], float]]] = {
    "Euler (DDIM)": (ddim, 1, 1, lambda h: h),
    "Heun": (heun, 2, 2, lambda h: h),
    "DPM-Solver++(2M)": (dpm_solver, 2, 1, lambda h: h),
    "DPM-Solver++(3M)": (partial(dpm_solver, order=3), 3, 1, lambda h: h**1.5),
    "UniPC-2": (unipc, 3, 1, lambda h: h),
    "UniPC-3": (partial(unipc, order=3), 4, 1, lambda h: h ** (4 / 3)),
}


def arrive(sampler: Callable[..., Tensor], data: GaussianMixture, x: Tensor, steps: int, first: float) -> Tensor:
    """x at σ = LOW after `steps` steps, the first of them `first` long in log σ."""
    start, end = math.log(HIGH), math.log(LOW)
    log_sigma = torch.full((steps + 3,), start, dtype=torch.float64)
    log_sigma[1 : steps + 1] = torch.linspace(start - first, end, steps, dtype=torch.float64)
    log_sigma[steps + 1 :] = end - (start - end) / steps * torch.tensor([1.0, 2.0])
    times = [*SCHEDULE.time_at(-2 * log_sigma).tolist(), 0.0]
    seen: list[Step] = []
    sampler(denoise.exact(data, SCHEDULE), SCHEDULE, x, times, callback=seen.append)
    return seen[steps - 1].xs


def errors(data: GaussianMixture, x: Tensor, exact: Tensor, counts: list[int]) -> dict[str, list[float]]:
    """The mean distance from the exact answer, for each solver and number of steps."""
    found = {}
    for name, (sampler, _, _, first) in SOLVERS.items():
        lengths = [math.log(HIGH / LOW) / n for n in counts]
        ends = [arrive(sampler, data, x, n, min(h, first(h))) for n, h in zip(counts, lengths)]
        found[name] = [(end - exact).norm(dim=1).mean().item() for end in ends]
    return found


def slope(counts: list[int], error: list[float]) -> float:
    """The order: how fast the error falls over the last three numbers of steps, as far as rounding lets it."""
    kept = [(n, e) for n, e in zip(counts, error) if e > 1e-12][-3:]
    n, e = torch.tensor(kept, dtype=torch.float64).log().T
    return -(((n - n.mean()) * (e - e.mean())).sum() / ((n - n.mean()) ** 2).sum()).item()


def plot(tables: dict[str, dict[str, list[float]]], counts: list[int], path: Path) -> None:
    figure, axes = plt.subplots(1, len(tables), figsize=(9, 4), layout="constrained")
    for axis, (problem, table) in zip(axes, tables.items()):
        for name, error in table.items():
            axis.loglog([SOLVERS[name][2] * n for n in counts], error, marker="o", markersize=3, label=name)
        axis.set(title=problem, xlabel="evaluations of the denoiser (NFE)", ylabel="mean error at σ = 0.05")
        axis.grid(alpha=0.3)
    axes[-1].legend(fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps; writes nothing")
    quick = parser.parse_args(arguments).quick
    torch.set_num_threads(1)
    counts = [20, 40, 80] if quick else [10, 20, 40, 80, 160, 320, 640, 1280]
    generator = torch.Generator().manual_seed(0)
    eye = torch.eye(2, dtype=torch.float64)
    gaussian = GaussianMixture(
        torch.ones(1, dtype=torch.float64), torch.full((1, 2), MEAN, dtype=torch.float64), VARIANCE * eye[None]
    )
    ring = ring_of_gaussians()
    x = HIGH * torch.randn(16, 2, generator=generator, dtype=torch.float64)
    finest = counts[-1] * 4
    exact = {
        "Gaussian": MEAN + (x - MEAN) * math.sqrt((VARIANCE + LOW**2) / (VARIANCE + HIGH**2)),
        "ring": arrive(partial(unipc, order=3), ring, x, finest, (math.log(HIGH / LOW) / finest) ** (4 / 3)),
    }
    tables = {
        problem: errors(data, x, exact[problem], counts) for problem, data in (("Gaussian", gaussian), ("ring", ring))
    }
    lines = [
        f"Slope of log error against log steps, over the last three of {counts[0]} … {counts[-1]} steps.\n",
        "| solver | evaluations a step | expected order | Gaussian | ring |",
        "|---|---|---|---|---|",
    ]
    for name, (_, order, cost, _) in SOLVERS.items():
        found = " | ".join(f"{slope(counts, tables[problem][name]):.2f}" for problem in tables)
        lines.append(f"| {name} | {cost} | {order} | {found} |")
    table = "\n".join(lines) + "\n"
    print(table)
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "orders.md").write_text(table + "\n![error against NFE](orders.png)\n", encoding="utf-8")
        plot(tables, counts, RESULTS / "orders.png")


if __name__ == "__main__":
    main()
