"""Bits per dimension, where they are known: Gaussian data, one image, and bytes that nobody can predict."""

import math

import pytest
import torch

from diffusion_book import denoise, losses, process, schedules
from diffusion_book.data import GaussianMixture
from diffusion_book.data.images import from_uint8, to_uint8
from diffusion_book.evaluation import bits_by_bound, bits_by_ode
from diffusion_book.evaluation.likelihood import unit_gaussian_shares

SHAPE = (1, 2, 3)
D = 6


def gaussian(std: float, schedule: schedules.Schedule, mean: float = 0.1) -> denoise.Denoiser:
    """The exact denoiser of N(mean, std²) in each pixel."""
    cov = std**2 * torch.eye(D, dtype=torch.float64)[None]
    data = GaussianMixture(torch.ones(1, dtype=torch.float64), torch.full((1, D), mean, dtype=torch.float64), cov)
    exact = denoise.exact(data, schedule)
    return lambda xt, t: exact(xt.flatten(1), t).reshape(xt.shape)


def random_bytes(n: int, generator: torch.Generator) -> torch.Tensor:
    return from_uint8(torch.randint(256, (n, *SHAPE), generator=generator).byte())


def gaussian_images(n: int, std: float, generator: torch.Generator) -> torch.Tensor:
    return from_uint8(to_uint8(0.1 + std * torch.randn(n, *SHAPE, generator=generator)))


def test_the_ode_is_exact_for_gaussian_data(generator):
    """−log₂ N(x + u; 0.1, s²) for each pixel, less log₂ of a bin's width. Flow ends in pure noise, a(T) = 0."""
    schedule, std = schedules.Flow(), 0.3
    x = gaussian_images(12, std, generator)
    found = bits_by_ode(
        gaussian(std, schedule), schedule, x, torch.Generator().manual_seed(3), "exact", rtol=1e-7, atol=1e-7
    )
    u = torch.rand(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    density = torch.distributions.Normal(0.1, std).log_prob(x.double() + (u - 0.5) * 2 / 255)
    expected = -density.flatten(1).mean(1) / math.log(2) - math.log2(2 / 255)
    torch.testing.assert_close(found.each, expected, rtol=0, atol=1e-4)
    assert found.mean == pytest.approx(float(expected.mean()), abs=1e-4)
    assert found.standard_error == pytest.approx(float(expected.std()) / math.sqrt(12), abs=1e-4)
    assert "exact divergence" in found.how


def test_hutchinson_is_right_on_average(generator):
    """For a Gaussian the divergence is the same along every sign vector, so even one draw is exact."""
    schedule, std = schedules.Flow(), 0.3
    x = gaussian_images(4, std, generator)
    denoiser = gaussian(std, schedule)
    one = bits_by_ode(denoiser, schedule, x, torch.Generator().manual_seed(3), "exact", rtol=1e-7, atol=1e-7)
    two = bits_by_ode(denoiser, schedule, x, torch.Generator().manual_seed(3), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(one.each, two.each, rtol=0, atol=1e-4)
    assert "hutchinson" in two.how


def test_nobody_predicts_random_bytes(generator):
    """They have 8 bits, so no model has fewer on average; one that is not too bad has not many more."""
    x = random_bytes(60, generator)
    discrete, std = schedules.cosine(100), 2 / math.sqrt(12)
    bound = bits_by_bound(gaussian(std, discrete), discrete, x, generator)
    ode = bits_by_ode(gaussian(std, schedules.VP()), schedules.VP(), x, generator, rtol=1e-4, atol=1e-4)
    for found in (bound, ode):
        assert found.mean > 8 - 4 * found.standard_error
        assert found.mean < 9.5


def test_an_image_that_is_known_costs_the_last_step_only(generator):
    """x̂0 = x0: the steps cost nothing, the prior b_T and the last bin what they cost in one dimension."""
    schedule = schedules.linear(1000)
    x = random_bytes(1, generator).clamp(-0.9, 0.9)
    x = from_uint8(to_uint8(x))
    found = bits_by_bound(lambda xt, t: x.expand_as(xt), schedule, x, generator)
    half, std = 1 / 255, float(schedule.at(1).b)
    inside = math.erf(half / std / math.sqrt(2))  # the mass of N(x0, std²) within half a level
    expected = -math.log2(inside) + float(process.prior_kl(schedule, x)[0]) / (D * math.log(2))
    assert found.mean == pytest.approx(expected, rel=1e-4)
    assert math.isnan(found.standard_error)


def test_the_bound_is_that_of_the_losses_in_batches(generator):
    schedule = schedules.linear(20)
    x = gaussian_images(5, 0.3, generator)
    denoiser = gaussian(0.3, schedule)
    found = bits_by_bound(denoiser, schedule, x, torch.Generator().manual_seed(1), batch_size=2)
    again = torch.Generator().manual_seed(1)
    expected = [losses.vlb(denoiser, schedule, part, again).bits_per_dim(D) for part in x.split(2)]
    torch.testing.assert_close(found.each, torch.cat(expected).double())
    assert "T = 20" in found.how


def test_a_few_steps_of_a_learned_variance_are_right_on_average(generator):
    """It scores itself, in a few of the steps as in all of them; a constant v, far from the posterior's variance."""
    schedule = schedules.linear(12)
    x = gaussian_images(6000, 0.3, generator)
    exact = gaussian(0.3, schedule)

    def denoiser(xt, t):
        return denoise.Estimate(exact(xt, t), torch.full_like(xt, 0.8))

    found = bits_by_bound(denoiser, schedule, x, generator, draws=3)
    gap = found.each - bits_by_bound(denoiser, schedule, x, generator).each
    error = float(gap.std()) / math.sqrt(6000)
    assert abs(float(gap.mean())) < 4 * error
    plain = bits_by_bound(exact, schedule, x, generator)
    assert abs(found.mean - plain.mean) > 20 * error  # v is not left aside


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_steps_are_drawn_where_the_generator_is():
    schedule = schedules.linear(12)
    x = gaussian_images(5, 0.3, torch.Generator().manual_seed(0)).cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    found = bits_by_bound(lambda xt, t: 0 * xt, schedule, x, generator, draws=2)
    assert bool(found.each.isfinite().all())


@pytest.mark.parametrize("draws", [1, 5])
def test_a_few_steps_are_right_on_average(draws, generator):
    """Beside all steps of the same images; the data's variance is far from the 1 for which steps are drawn."""
    schedule = schedules.cosine(50)
    x = gaussian_images(6000, 0.3, generator)
    asked = []
    exact = gaussian(0.3, schedule)

    def denoiser(xt, t):
        asked.append(len(xt))
        return exact(xt, t)

    found = bits_by_bound(denoiser, schedule, x, generator, draws=draws)
    assert sum(asked) == 6000 * (draws + 1)
    gap = found.each - bits_by_bound(exact, schedule, x, generator).each
    error = float(gap.std()) / math.sqrt(6000)
    assert abs(float(gap.mean())) < 4 * error
    assert error < 0.05  # a quarter of what the fifth step costs: one that is left out would be seen
    assert f"{draws} of the steps drawn" in found.how


def test_steps_are_drawn_by_what_they_cost_unit_gaussian_data(generator):
    schedule = schedules.linear(12)
    x = torch.randn(4000, *SHAPE, generator=generator)
    steps = losses.vlb(gaussian(1.0, schedule, mean=0.0), schedule, x, generator, levels=None).steps.double()
    shares = unit_gaussian_shares(schedule)
    assert float(shares.sum()) == pytest.approx(1)
    total = float(steps.sum(1).mean())
    error = steps.std(0) / math.sqrt(4000) / total
    assert bool(((steps.mean(0) / total - shares).abs() < 5 * error).all())


def test_on_gaussian_data_the_bound_is_above_the_ode_and_both_above_the_entropy(generator):
    """h(x) of N(·, s²) is log₂(s √(2πe)); in levels of width 2/255 that many bits. The bound has 1,000 steps."""
    std = 0.25
    x = gaussian_images(40, std, generator)
    discrete = schedules.cosine(1000)
    bound = bits_by_bound(gaussian(std, discrete), discrete, x, generator)
    ode = bits_by_ode(gaussian(std, schedules.VP()), schedules.VP(), x, generator, rtol=1e-4, atol=1e-4)
    entropy = math.log2(std * math.sqrt(2 * math.pi * math.e) * 255 / 2)
    assert abs(ode.mean - entropy) < 4 * ode.standard_error
    gap = bound.each - ode.each
    assert -4 * float(gap.std()) / math.sqrt(40) < float(gap.mean()) < 1


def test_bad_input_is_told(generator):
    schedule = schedules.linear(3)
    x = random_bytes(2, generator)
    with pytest.raises(ValueError, match="256 levels"):
        bits_by_bound(lambda xt, t: xt, schedule, 0.99 * x, generator)
    with pytest.raises(ValueError, match="uint8"):
        bits_by_bound(lambda xt, t: xt, schedule, to_uint8(x), generator)
    for draws in (0, 1.5):
        with pytest.raises(ValueError, match=f"draws must be a whole number of at least 1, got {draws}"):
            bits_by_bound(lambda xt, t: xt, schedule, x, generator, draws=draws)
    for batch_size in (0, 1.5):
        with pytest.raises(ValueError, match=f"batch_size must be a whole number of at least 1, got {batch_size}"):
            bits_by_ode(lambda xt, t: xt, schedule.continuous(), x, generator, batch_size=batch_size)
