"""Annealed Langevin dynamics: what a level keeps, that all levels together draw, and what one level cannot do."""

import math

import pytest
import torch

from diffusion_book import denoise, schedules
from diffusion_book.data import GaussianMixture, ring_of_gaussians
from diffusion_book.samplers import Step, langevin, log_snr_times, start_noise

RING = ring_of_gaussians()


def two_far_blobs(share: float) -> GaussianMixture:
    return GaussianMixture(
        torch.tensor([share, 1 - share], dtype=torch.float64),
        torch.tensor([[-4.0], [4.0]], dtype=torch.float64),
        torch.full((2, 1, 1), 0.25, dtype=torch.float64),
    )


def test_a_level_comes_to_its_gaussian_and_a_little_wider(generator):
    """x ← (1 − δ/v) x + √(2δ) z goes to v/(1 − δ/2v), from whatever variance, at the known rate."""
    schedule, n, snr, count = schedules.EDM(), 40_000, 0.3, 25
    std, b = 0.5, 2.0
    one = torch.ones(1, dtype=torch.float64)
    data = GaussianMixture(one, 0 * one[:, None], std**2 * one[:, None, None])
    v, delta = std**2 + b**2, 2 * (snr * b) ** 2
    x = 5 * start_noise((n, 1), generator, torch.float64)
    seen: list[Step] = []
    langevin(
        denoise.exact(data, schedule), schedule, x, [b, 0.1, 0.0], corrections=count, snr=snr, generator=generator,
        callback=seen.append,
    )  # fmt: skip
    variance = 25.0
    for _ in range(count):
        variance = (1 - delta / v) ** 2 * variance + 2 * delta
    assert seen[0].xs.var().item() == pytest.approx(variance, rel=4 * math.sqrt(2 / n))
    assert abs(variance / (v / (1 - delta / (2 * v))) - 1) < 0.01


def test_many_levels_draw_the_ring(generator):
    schedule, n = schedules.EDM(sigma_max=20.0), 4000
    x = start_noise((n, 2), generator, torch.float64, schedule=schedule)
    times = log_snr_times(schedule, 40, sigma_min=0.02)
    found = langevin(denoise.exact(RING, schedule), schedule, x, times, corrections=20, generator=generator)
    nearest, which = torch.cdist(found, RING.mean).min(1)
    share = torch.bincount(which, minlength=8) / n
    assert (share - 1 / 8).abs().max().item() < 4.5 * math.sqrt(1 / 8 * 7 / 8 / n)
    assert nearest.max().item() < 6 * 0.15


def test_one_level_does_not_find_the_weights_and_falling_levels_do(generator):
    """Nothing crosses a valley in which there are no data: the start decides, and the shares are its halves."""
    schedule, n, share = schedules.EDM(sigma_max=20.0), 4000, 0.2
    data = two_far_blobs(share)
    denoiser = denoise.exact(data, schedule)
    x = 4 * start_noise((n, 1), generator, torch.float64)
    alone = langevin(denoiser, schedule, x, [0.3, 0.0], corrections=300, snr=0.5, generator=generator)
    assert (alone < 0).double().mean().item() == pytest.approx(0.5, abs=0.05)
    x = start_noise((n, 1), generator, torch.float64, schedule=schedule)
    times = log_snr_times(schedule, 40, sigma_min=0.05)
    annealed = langevin(denoiser, schedule, x, times, corrections=20, snr=0.3, generator=generator)
    assert (annealed < 0).double().mean().item() == pytest.approx(share, abs=0.05)


def test_each_level_asks_as_often_as_it_steps_and_the_end_once_more():
    asked: list[float] = []
    schedule = schedules.EDM()
    langevin(
        lambda xt, t: asked.append(float(t[0])) or 0 * xt,
        schedule,
        torch.ones(2, 3),
        [5.0, 1.0, 0.0],
        corrections=3,
        generator=torch.Generator(),
    )
    assert asked == [5.0] * 3 + [1.0] * 4


@pytest.mark.parametrize("corrections", [0, -1, 1.5, None])
def test_a_number_of_corrections_that_is_none_is_refused(corrections):
    with pytest.raises(ValueError, match=f"corrections must be a whole number of at least 1, got {corrections}"):
        langevin(
            lambda xt, t: xt, schedules.VP(), torch.zeros(1, 1), [0.5, 0.0], generator=torch.Generator(),
            corrections=corrections,
        )  # fmt: skip


@pytest.mark.parametrize("snr", [0.0, 1.0, math.nan])
def test_a_step_that_is_not_stable_is_refused(snr):
    with pytest.raises(ValueError, match=r"snr must lie between 0 and 1, .* got .*; 0\.16 is usual"):
        langevin(lambda xt, t: xt, schedules.VP(), torch.zeros(1, 1), [0.5, 0.0], snr=snr, generator=torch.Generator())
