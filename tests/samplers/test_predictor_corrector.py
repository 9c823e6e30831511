"""Predictor–corrector: what Langevin steps keep, what they mend, and the step that keeps them stable."""

import math

import pytest
import torch

from diffusion_book import denoise, process, schedules
from diffusion_book.data import ring_of_gaussians
from diffusion_book.samplers import Step, ddpm, predictor_corrector, start_noise, uniform_times

SCHEDULE = schedules.linear()


def gaussian(variance: float):
    """The exact denoiser of N(0, variance) data."""

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        _, a, b = SCHEDULE.at(t).like(xt)
        return a * variance / (a**2 * variance + b**2) * xt

    return denoiser


def marginal_variance(variance: float, t: int) -> float:
    return float(SCHEDULE.at(t).a) ** 2 * variance + float(SCHEDULE.at(t).b) ** 2


@pytest.mark.parametrize("dimensions", [1, 2, 50])
@pytest.mark.parametrize("variance", [0.0, 0.2, 1.0, 5.0])
def test_the_corrector_keeps_the_marginal_of_gaussian_data(variance, dimensions, generator):
    """Its fixed point is known: x ← (1 − δ/v) x + √(2δ) z keeps v/(1 − δ/2v), with v the marginal's variance.

    That is off by at most snr²/(1 − snr²), reached for data at one point, where v = b².
    """
    n, t, s, snr, corrections = 40_000 // dimensions, 600, 300, 0.16, 40
    v = marginal_variance(variance, s)
    x = marginal_variance(variance, t) ** 0.5 * start_noise((n, dimensions), generator, torch.float64)
    steps: list[Step] = []
    predictor_corrector(
        gaussian(variance),
        SCHEDULE,
        x,
        [t, s, 0],
        generator=generator,
        corrections=corrections,
        snr=snr,
        callback=steps.append,
    )
    delta = 2 * (snr * float(SCHEDULE.at(s).b)) ** 2
    # The predictor arrives with a variance that is known too; each correction takes it on towards the fixed point.
    c_0, c_t, std = (float(c) for c in process.posterior_coefficients(SCHEDULE, t, s))
    gain = c_0 * float(SCHEDULE.at(t).a) * variance / marginal_variance(variance, t) + c_t
    expected = gain**2 * marginal_variance(variance, t) + std**2
    for _ in range(corrections):
        expected = (1 - delta / v) ** 2 * expected + 2 * delta
    found = steps[0].xs.var().item()
    assert found == pytest.approx(expected, rel=4 * (2 / (n * dimensions)) ** 0.5)
    # Forty corrections leave (1 − δ/v)^80 of the predictor's error.
    left = (1 - delta / v) ** (2 * corrections) * abs(gain**2 * marginal_variance(variance, t) + std**2 - v)
    assert abs(expected - v) <= v * (1 / (1 - snr**2) - 1) + left + 1e-12


def test_corrections_mend_a_predictor_that_arrives_with_the_wrong_variance(generator):
    """Started twice too wide at t, the predictor hands its error on; the corrector lets it decay as e^{−2δk/v}."""
    n, t, s, variance = 40_000, 400, 350, 0.5
    v = marginal_variance(variance, s)
    errors = []
    for corrections in (0, 5, 20, 80):
        x = 2 * marginal_variance(variance, t) ** 0.5 * start_noise((n, 1), generator, torch.float64)
        steps: list[Step] = []
        predictor_corrector(
            gaussian(variance),
            SCHEDULE,
            x,
            [t, s, 0],
            generator=generator,
            corrections=corrections,
            snr=0.16,
            callback=steps.append,
        )
        errors.append(abs(steps[0].xs.var().item() / v - 1))
    assert errors[0] > 1.5
    delta = 2 * (0.16 * float(SCHEDULE.at(s).b)) ** 2
    for corrections, error in zip((5, 20), errors[1:3]):
        expected = errors[0] * (1 - delta / v) ** (2 * corrections)
        assert error == pytest.approx(expected, abs=0.03 + 0.02 * expected)
    assert errors[3] < 0.05  # its own bias, at most 0.026, and four standard errors of 40,000 draws


def test_without_corrections_it_is_ancestral_sampling(generator):
    denoiser = denoise.exact(ring_of_gaussians(), SCHEDULE)
    x = start_noise((5, 2), generator, torch.float64)
    times = uniform_times(SCHEDULE, 8)
    one, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    found = predictor_corrector(denoiser, SCHEDULE, x, times, generator=one, corrections=0)
    assert torch.equal(found, ddpm(denoiser, SCHEDULE, x, times, generator=other))


def test_a_corrector_step_is_the_langevin_step_of_the_score(generator):
    """x + δ score + √(2δ) z, with the score of the noised mixture from its own closed form."""
    data = ring_of_gaussians()
    x = start_noise((6, 2), generator, torch.float64)
    arrived: list[Step] = []
    for corrections in (0, 1):
        predictor_corrector(
            denoise.exact(data, SCHEDULE),
            SCHEDULE,
            x,
            [500, 200, 0],
            generator=torch.Generator().manual_seed(4),
            corrections=corrections,
            snr=0.3,
            callback=arrived.append,
        )
    before, after = arrived[0].xs, arrived[2].xs
    noise = torch.Generator().manual_seed(4)
    torch.randn(6, 2, generator=noise, dtype=torch.float64)  # the predictor's
    z = torch.randn(6, 2, generator=noise, dtype=torch.float64)
    _, a, b = SCHEDULE.at(200)
    delta = 2 * (0.3 * b) ** 2
    torch.testing.assert_close(after, before + delta * data.score(before, a, b) + (2 * delta).sqrt() * z)


def test_it_corrects_once_at_the_usual_snr_unless_said(generator):
    """The 0.16 that the paper has for images, and one Langevin step at each time."""
    denoiser = denoise.exact(ring_of_gaussians(), SCHEDULE)
    x = start_noise((5, 2), generator, torch.float64)
    found, usual = (
        predictor_corrector(denoiser, SCHEDULE, x, [500, 200, 0], generator=torch.Generator().manual_seed(1), **said)
        for said in ({}, {"corrections": 1, "snr": 0.16})
    )
    assert torch.equal(found, usual)


def test_in_two_dimensions_no_example_is_thrown_away(generator):
    """With the norms of one example's own score the step has no bound: a few in a thousand flew off to 50 and more."""
    data = ring_of_gaussians()
    x = start_noise((4000, 2), generator, torch.float64)
    times = uniform_times(SCHEDULE, 50)
    found = predictor_corrector(denoise.exact(data, SCHEDULE), SCHEDULE, x, times, generator=generator, corrections=4)
    assert found.norm(dim=1).max().item() < 2 + 6 * 0.15
    true = data.log_prob(data.sample(4000, generator))
    # The last, uncorrected step leaves the blobs too narrow, as all ancestral sampling does at 50: too probable.
    assert found.norm(dim=1).mean().item() == pytest.approx(
        data.sample(4000, generator).norm(dim=1).mean().item(), abs=0.02
    )
    assert true.mean() - 0.05 < data.log_prob(found).mean() < true.mean() + 0.6


@pytest.mark.parametrize("snr", [0.0, -0.1, 1.0, math.nan, math.inf])
def test_a_step_that_is_not_stable_is_refused(snr):
    with pytest.raises(ValueError, match=r"snr must lie between 0 and 1, .* got .*; 0\.16 is usual"):
        predictor_corrector(lambda xt, t: xt, SCHEDULE, torch.zeros(1, 1), [9, 0], generator=torch.Generator(), snr=snr)


@pytest.mark.parametrize("corrections", [-1, 1.5, None])
def test_a_number_of_corrections_that_is_none_is_refused(corrections):
    with pytest.raises(ValueError, match=f"corrections must be a whole number of at least 0, got {corrections}"):
        predictor_corrector(
            lambda xt, t: xt, SCHEDULE, torch.zeros(1, 1), [9, 0], generator=torch.Generator(), corrections=corrections
        )
