"""Which times a loss is trained at, and its mean over parts of time."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest, norm

from diffusion_book import losses, schedules
from diffusion_book.schedules import EDM, VP, Cosine, Flow

LINEAR = schedules.linear()


def test_times_are_uniform_over_one_to_T(generator):
    schedule = schedules.linear(20)
    t = losses.draw_times(schedule, 20_000, generator)
    counts = torch.bincount(t, minlength=21)
    assert len(counts) == 21
    assert counts[0] == 0
    assert chisquare(counts[1:].numpy()).pvalue > 1e-4  # a fair draw fails once in ten thousand seeds, and this is one
    assert t.dtype == torch.int64


def test_times_of_a_continuous_schedule_are_uniform_and_noisy(generator):
    t = losses.draw_times(EDM(sigma_max=10.0), 20_000, generator)
    assert t.dtype == torch.float64
    assert t.min().item() > 0
    assert t.max().item() <= 10
    assert kstest(t.numpy() / 10, "uniform").pvalue > 1e-4  # a fair draw fails once in ten thousand seeds


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.6)])
def test_logit_normal_times_are_logit_normal(mean, std, generator):
    t = losses.draw_logit_normal_times(Flow(), 20_000, generator, mean, std).numpy()
    assert kstest(np.log(t / (1 - t)), norm(mean, std).cdf).pvalue > 1e-4
    # Esser et al. 2024, equation 19, as a density: its integral up to t is what the KS test compared with.
    edges = torch.linspace(0, 1, 11, dtype=torch.float64).logit()
    steps = losses.draw_logit_normal_times(schedules.linear(10), 20_000, generator, mean, std)
    expected = 20_000 * np.diff(norm(mean, std).cdf(edges.numpy()))
    assert chisquare(torch.bincount(steps - 1, minlength=10).numpy(), expected).pvalue > 1e-4


@pytest.mark.parametrize("schedule", [EDM(sigma_max=1e6), VP(), Flow(), Cosine(0.5), LINEAR.continuous()], ids=repr)
def test_sigma_times_have_log_normal_noise(schedule, generator):
    """Karras et al. 2022, table 1: ln σ ~ N(−1.2, 1.2²), whatever the schedule calls the time."""
    t = losses.draw_sigma_times(schedule, 20_000, generator)
    assert t.min().item() > 0
    assert kstest(schedule.at(t).sigma.log().numpy(), norm(-1.2, 1.2).cdf).pvalue > 1e-4


def test_sigma_times_are_cut_off_at_the_ends(generator):
    t = losses.draw_sigma_times(EDM(sigma_max=1.0), 20_000, generator)
    share, expected = (t == 1).double().mean().item(), norm.sf(1.0)
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 20_000) ** 0.5)
    steps = losses.draw_sigma_times(schedules.linear(20, 0.05, 0.2), 20_000, generator)
    assert (steps.min().item(), steps.max().item(), steps.dtype) == (1, 20, torch.int64)


def test_no_times_are_drawn_for_no_examples_and_one_for_one():
    for draw in (losses.draw_times, losses.draw_logit_normal_times, losses.draw_sigma_times):
        assert [draw(LINEAR, n, torch.Generator()).shape for n in (0, 1)] == [(0,), (1,)]


def test_draws_are_those_of_their_seed():
    for draw in (losses.draw_times, losses.draw_logit_normal_times, losses.draw_sigma_times):
        for schedule in (Flow(), LINEAR):
            one, two, other = (draw(schedule, 9, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
            assert torch.equal(one, two)
            assert not torch.equal(one, other)


def test_losses_by_time_are_means_of_bins():
    t = torch.tensor([1, 250, 251, 1000, 750])
    found = losses.by_time(torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]), t, T=1000, bins=4)
    assert found[[0, 1, 2, 3]].tolist() == [2, 5, 9, 7]
    assert math.isnan(losses.by_time(torch.tensor([1.0]), torch.tensor([0.9]), T=1.0, bins=2)[0].item())
    # A half-precision sum of many losses would stop growing; the mean is taken in float64 and outside the graph.
    many = torch.ones(5000, dtype=torch.bfloat16, requires_grad=True)
    found = losses.by_time(many, torch.full((5000,), 0.5), T=1.0, bins=1)
    assert found.item() == 1
    assert not found.requires_grad


@pytest.mark.parametrize(("T", "bins"), [(1000, 10), (50, 50), (49, 49), (300, 100), (1.0, 10)])
def test_the_edge_of_a_bin_belongs_to_it(T, bins):
    """k T/bins is the last time of bin k − 1; t/T · bins in floating point is above k for some."""
    k = torch.arange(1, bins + 1)
    edges = k * int(T) // bins if T > 1 else k.double() / bins
    found = losses.by_time(k.double(), edges, T, bins)
    assert found.tolist() == k.tolist()


def test_both_ends_of_time_have_a_bin():
    assert losses.by_time(torch.tensor([1.0, 3.0]), torch.tensor([0, 10]), T=10, bins=2).tolist() == [1, 3]


def test_losses_and_times_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match=r"one time for each loss, got \(3,\) times and \(2,\) losses"):
        losses.by_time(torch.zeros(2), torch.ones(3), 10)
    with pytest.raises(ValueError, match=r"one time for each loss, got \(2, 1\) times and \(2, 1\) losses"):
        losses.by_time(torch.zeros(2, 1), torch.ones(2, 1), 10)


@pytest.mark.parametrize(
    ("t", "T", "bins", "message"),
    [
        *(([1.0, 2.0], T, 4, f"T must be positive and finite, got {T}") for T in (0, -1, math.nan, math.inf)),
        *(([1.0, 2.0], 2, bins, f"bins must be a whole number of at least 1, got {bins}") for bins in (0, -1, 2.5)),
        ([1.0, 3.0], 2, 4, r"t must lie in 0 … T = 2, got 1 … 3"),
        ([-1.0, 2.0], 2, 4, r"t must lie in 0 … T = 2, got -1 … 2"),
        ([math.nan, 2.0], 2, 4, r"t must lie in 0 … T = 2, got nan … nan"),
    ],
)
def test_times_that_belong_to_no_bin_are_refused(t, T, bins, message):
    """Times beyond T would be counted as the last bin's, and those of another schedule look like a mean."""
    with pytest.raises(ValueError, match=message):
        losses.by_time(torch.zeros(2), torch.tensor(t), T, bins)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *(
            (
                lambda draw=draw, std=std: draw(Flow(), 2, torch.Generator(), std=std),
                f"std must be positive .*, got {std}",
            )
            for draw in (losses.draw_logit_normal_times, losses.draw_sigma_times)
            for std in (0, -1, math.nan, math.inf)
        ),
        *(
            (lambda draw=draw, mean=mean: draw(Flow(), 2, torch.Generator(), mean), f"mean must be finite, got {mean}")
            for draw in (losses.draw_logit_normal_times, losses.draw_sigma_times)
            for mean in (math.nan, -math.inf)
        ),
        *(
            (lambda draw=draw, n=n: draw(Flow(), n, torch.Generator()), f"batch_size must be a whole number.*, got {n}")
            for draw in (losses.draw_times, losses.draw_logit_normal_times, losses.draw_sigma_times)
            for n in (-1, 2.5)
        ),
        *(
            (
                lambda draw=draw, source=source: draw(Flow(), 2, source),
                "times need one torch.Generator.*, got",
            )
            for draw in (losses.draw_times, losses.draw_logit_normal_times, losses.draw_sigma_times)
            for source in (None, [torch.Generator()])
        ),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_defaults_are_the_published_ones():
    """Karras et al. −1.2 ± 1.2; Esser et al. N(0, 1)."""

    def draw(function, **options):
        return function(schedules.EDM(), 100, torch.Generator().manual_seed(0), **options)

    logit_normal, sigma = losses.draw_logit_normal_times, losses.draw_sigma_times
    assert torch.equal(draw(logit_normal), draw(logit_normal, mean=0.0, std=1.0))
    assert torch.equal(draw(sigma), draw(sigma, mean=-1.2, std=1.2))
