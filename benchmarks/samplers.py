"""What one step of a sampler costs beside the network: ours over diffusers', with a network that does nothing.

Both loops run on the same times with the same batch, turn by turn in one process. Ours is timed twice: with a denoiser
that hands x̂0 back, and with `denoise.from_network`, which reads x̂0 off a predicted ε, as a scheduler's step also does.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from torch import Tensor

from diffusion_book import denoise, schedules
from diffusion_book.samplers import ddim, dpm_solver, unipc

RESULTS = Path(__file__).parent / "results"
STEPS = 50
SHAPE = (3, 32, 32)
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "timestep_spacing": "trailing"}
PAIRS = {
    "DDIM": (ddim, lambda: DDIMScheduler(**LINEAR, clip_sample=False)),
    "DPM-Solver++(2M)": (dpm_solver, lambda: DPMSolverMultistepScheduler(**LINEAR, final_sigmas_type="zero")),
    "UniPC-2": (unipc, lambda: UniPCMultistepScheduler(**LINEAR, final_sigmas_type="zero")),
}


def nothing(xt: Tensor, t: Tensor) -> Tensor:
    """The network, and the denoiser, that does nothing."""
    return xt


def theirs(scheduler, x: Tensor) -> Tensor:
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        x = scheduler.step(nothing(x, t), t, x, return_dict=False)[0]
    return x


def per_step(function: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) / STEPS


def measure(batch: int, rounds: int) -> list[tuple[str, float, float, float, float, float]]:
    """(name, their µs, our µs, ratio, our µs with from_network, ratio) of each sampler: medians over rounds."""
    schedule = schedules.linear()
    x = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(0))
    network = denoise.from_network(nothing, schedule, "eps")
    rows = []
    for name, (sampler, make) in PAIRS.items():
        scheduler = make()
        scheduler.set_timesteps(STEPS)
        times = [int(t) + 1 for t in scheduler.timesteps] + [0]
        loops = (
            lambda scheduler=scheduler: theirs(scheduler, x),
            lambda sampler=sampler, times=times: sampler(nothing, schedule, x, times),
            lambda sampler=sampler, times=times: sampler(network, schedule, x, times),
        )
        for loop in loops:
            loop()
        seconds = [tuple(per_step(loop) for loop in loops) for _ in range(rounds)]
        peer, bare, full = (1e6 * statistics.median(column) for column in zip(*seconds))
        ratios = (statistics.median(row[k] / row[0] for row in seconds) for k in (1, 2))
        rows.append((name, peer, bare, next(ratios), full, next(ratios)))
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="3 rounds instead of 25; writes nothing")
    quick = parser.parse_args(arguments).quick
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    lines = [
        f"Microseconds a step of {STEPS}, network and denoiser do nothing; one thread, medians.",
        "The goal is for a denoiser that does nothing, which hands the sampler x̂0. With `from_network` x̂0 is also read "
        "off ε, as a scheduler's step does: a column for comparison, which has no goal.\n",
        "| sampler | batch of 3×32×32 | diffusers | ours | ratio | ours with `from_network` | ratio | goal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with torch.no_grad():
        for batch in (1, 64):
            for name, peer, bare, ratio, full, full_ratio in measure(batch, 3 if quick else 25):
                numbers = f"{peer:.0f} | {bare:.0f} | {ratio:.2f} | {full:.0f} | {full_ratio:.2f}"
                lines.append(f"| {name} | {batch} | {numbers} | ≤ 0.30 |")
    table = "\n".join(lines) + "\n"
    print(table)
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "samplers.md").write_text(table + "\n![ratios](samplers.png)\n", encoding="utf-8")


if __name__ == "__main__":
    main()
