"""How many evaluations each sampler needs to be as good as 1,000 steps of ancestral sampling, on a ring of Gaussians.

The denoiser is exact, so that only the sampler errs. The measure is the energy distance to as many draws from the ring
itself, without bias, by seed. A sampler is as good where its mean over seeds is within the noise of the 1,000 steps,
there and at every larger number of evaluations that was tried. Two readings of their noise: one standard deviation over
seeds, which is how much one batch differs from another, and two standard errors of the mean over seeds, which is how
well the mean is known, and the stricter.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from diffusion_book import denoise, samplers, schedules
from diffusion_book.data import ring_of_gaussians
from diffusion_book.samplers import Sampler, karras_times, log_snr_times, start_noise, uniform_times, unipc
from diffusion_book.samplers.grids import Times

RESULTS = Path(__file__).parent / "results"
GRIDS = {"uniform": uniform_times, "Karras": karras_times, "log-SNR": log_snr_times}
SAMPLERS: dict[str, Sampler] = {
    "DDPM": samplers.by_name("ddpm"),
    "DDIM": samplers.by_name("ddim"),
    "Heun": samplers.by_name("heun"),
    "DPM-Solver++(2M)": samplers.by_name("dpm_solver"),
    "DPM-Solver++(3M)": samplers.by_name("dpm_solver_3m"),
    "SDE-DPM-Solver++(2M)": samplers.by_name("dpm_solver_sde"),
    "UniPC-2": samplers.by_name("unipc"),
    "UniPC-3": Sampler(partial(unipc, order=3), log_snr_times, False),
}
GOAL = 12
EVALUATIONS = [5, 7, 8, 9, 10, 11, 12, 15, 21, 31, 51]


def within(x: Tensor) -> Tensor:
    """Mean distance between two different rows."""
    return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))


def energy_distance(x: Tensor, y: Tensor, within_y: Tensor) -> float:
    """2 E|X − Y| − E|X − X'| − E|Y − Y'|: 0 on average where both are drawn from one distribution."""
    return (2 * torch.cdist(x, y).mean() - within(x) - within_y).item()


def evaluations_of(name: str) -> list[int]:
    """Those that a sampler can spend: Heun's method takes two a step, but one in the last."""
    return [n for n in EVALUATIONS if name != "Heun" or n % 2]


def first_good(means: dict[tuple[str, str, int], float], name: str, grid: str, limit: float) -> float:
    """The least number of evaluations from which on every mean is within the limit."""
    good = float("inf")
    for evaluations in reversed(evaluations_of(name)):
        if not means.get((name, grid, evaluations), float("inf")) <= limit:
            break
        good = evaluations
    return good


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few draws, 100 ancestral steps; writes nothing")
    quick = parser.parse_args(arguments).quick
    torch.set_num_threads(1)
    seeds, draws, ancestral = (3, 200, 100) if quick else (16, 500, 1000)
    schedule, ring = schedules.linear(), ring_of_gaussians()
    denoiser = denoise.exact(ring, schedule)
    generator = torch.Generator().manual_seed(1)
    truths = [ring.sample(draws, generator).float() for _ in range(seeds)]
    truths_within = [within(truth) for truth in truths]

    def distances(sampler: Sampler, times: Times) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        x = start_noise((seeds * draws, 2), generator)
        x = sampler(denoiser, schedule, x, times, generator=generator)
        batches = x.float().split(draws)
        return torch.tensor([energy_distance(*each) for each in zip(batches, truths, truths_within)])

    reference = distances(SAMPLERS["DDPM"], uniform_times(schedule, ancestral))
    mean, deviation = reference.mean().item(), reference.std().item()
    limits = {"one deviation": mean + deviation, "two standard errors": mean + 2 * deviation / seeds**0.5}
    means: dict[tuple[str, str, int], float] = {}
    for name, sampler in SAMPLERS.items():
        for grid, times in GRIDS.items():
            for evaluations in reversed(evaluations_of(name)):
                steps = (evaluations + 1) // 2 if name == "Heun" else evaluations
                found = distances(sampler, times(schedule, steps)).mean().item()
                means[name, grid, evaluations] = found
                if not found <= max(limits.values()):
                    break

    least = {
        (noise, name): min(first_good(means, name, grid, limit) for grid in GRIDS)
        for noise, limit in limits.items()
        for name in SAMPLERS
    }
    strict = [name for name in SAMPLERS if least["two standard errors", name] <= GOAL]
    lines = [
        f"{ancestral} steps of DDPM: energy distance {mean:.5f} ± {deviation:.5f} "
        f"({seeds} seeds of {draws} draws each).",
        "Evaluations from which on a sampler's mean is no further above theirs than their noise; the goal is "
        f"{GOAL}. By the stricter reading of noise, two standard errors, {' and '.join(strict) or 'nobody'} alone "
        f"{'reach' if len(strict) > 1 else 'reaches'} it.",
    ]
    for noise, limit in limits.items():
        lines += [
            f"\nNoise of {noise}, {limit - mean:.5f}:\n",
            "| sampler | " + " | ".join(f"{name} times" for name in GRIDS) + " | best |",
            "|---|" + "---|" * (len(GRIDS) + 1),
        ]
        for name in SAMPLERS:
            needed = [*(first_good(means, name, grid, limit) for grid in GRIDS), least[noise, name]]
            shown = [f"> {EVALUATIONS[-1]}" if n == float("inf") else f"{n:.0f}" for n in needed]
            lines.append(f"| {name} | " + " | ".join(shown) + " |")
    table = "\n".join(lines) + "\n"
    print(table)
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "nfe.md").write_text(table + "\n![evaluations needed](nfe.png)\n", encoding="utf-8")


if __name__ == "__main__":
    main()
