"""Ancestral sampling against diffusers, and against the distribution that it must draw from."""

from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from diffusion_book import denoise, process, schedules
from diffusion_book.data import GaussianMixture
from diffusion_book.samplers import ddpm, start_noise, uniform_times

FACES = [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")]
SCHEDULES = [
    (schedules.linear(), {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}),
    (
        schedules.scaled_linear(),
        {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    ),
]


def network(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Any function will do to compare two samplers; this one is smooth and bounded."""
    return torch.sin(xt + t[:, None] / 500)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize(("prediction", "name"), FACES)
@pytest.mark.parametrize(("schedule", "options"), SCHEDULES, ids=["linear", "scaled-linear"])
def test_the_loop_is_that_of_diffusers(schedule, options, prediction, name, variance, double, generator):
    """50 steps of 20 on their leading grid, whose index k is our k + 1, with the same noise on both sides."""
    theirs = double(DDPMScheduler)(
        **options,
        clip_sample=False,
        prediction_type=name,
        variance_type=f"fixed_{variance}",
        timestep_spacing="leading",
    )
    theirs.set_timesteps(50)
    times = [int(k) + 1 for k in theirs.timesteps] + [0]
    assert times[:2] == [981, 961]
    x = start = start_noise((4, 3), generator, torch.float64)
    noise = torch.Generator().manual_seed(7)
    for k in theirs.timesteps:
        x = theirs.step(network(x, torch.full((4,), int(k) + 1)), k, x, generator=noise).prev_sample
    denoiser = denoise.from_network(network, schedule, prediction)
    found = ddpm(denoiser, schedule, start, times, generator=torch.Generator().manual_seed(7), variance=variance)
    # Double precision in both; x̂0 is magnified by up to 1/a = 157, and their ᾱ is a product of a thousand roundings.
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


def two_heads(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Twice the channels: the prediction, and a v in [−1, 1] that differs from number to number."""
    return torch.cat([network(xt, t), torch.cos(3 * xt)], 1)


@pytest.mark.parametrize("steps", [2, 50])
def test_the_learned_variance_is_that_of_diffusers(steps, double, generator):
    """On their leading grid, which ends at k = 0; on their trailing one, their last step leaves noise."""
    theirs = double(DDPMScheduler)(
        **SCHEDULES[0][1], clip_sample=False, variance_type="learned_range", timestep_spacing="leading"
    )
    theirs.set_timesteps(steps)
    schedule, times = schedules.linear(), [int(k) + 1 for k in theirs.timesteps] + [0]
    x = start = start_noise((4, 3), generator, torch.float64)
    noise = torch.Generator().manual_seed(7)
    for k in theirs.timesteps:
        x = theirs.step(two_heads(x, torch.full((4,), int(k) + 1)), k, x, generator=noise).prev_sample
    denoiser = denoise.from_network(two_heads, schedule, "eps", learned_variance=True)
    found = ddpm(denoiser, schedule, start, times, generator=torch.Generator().manual_seed(7), variance="learned")
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", [schedules.linear(), schedules.Flow(), schedules.VP()], ids=repr)
@pytest.mark.parametrize(("v", "variance"), [(-1.0, "small"), (1.0, "large")])
def test_the_ends_of_the_learned_variance_are_the_small_and_the_large(v, variance, schedule, generator):
    exact = denoise.exact(MIXTURE, schedule)
    x, times = start_noise((4, 2), generator, torch.float64), uniform_times(schedule, 9)
    one, other = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)

    def with_variance(xt: torch.Tensor, t: torch.Tensor) -> denoise.Estimate:
        return denoise.Estimate(exact(xt, t), torch.full_like(xt, v))

    learned = ddpm(with_variance, schedule, x, times, generator=one, variance="learned")
    torch.testing.assert_close(
        learned, ddpm(exact, schedule, x, times, generator=other, variance=variance), rtol=1e-10, atol=1e-10
    )
    # A denoiser that says a variance may be sampled without it.
    again = ddpm(with_variance, schedule, x, times, generator=torch.Generator().manual_seed(3), variance=variance)
    assert torch.equal(
        again, ddpm(exact, schedule, x, times, generator=torch.Generator().manual_seed(3), variance=variance)
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_learned_variance_that_is_not_finite_is_blamed_on_its_step(bad):
    def denoiser(xt, t):
        v = torch.zeros_like(xt)
        v[0, 0] = bad if t[0] <= 3 else 0.0
        return denoise.Estimate(torch.zeros_like(xt), v)

    with pytest.raises(FloatingPointError, match=r"NaN or infinity at t = 3 \(step 2 of 3\)"):
        ddpm(
            denoiser,
            schedules.linear(),
            torch.zeros(2, 2),
            [5, 3, 1, 0],
            generator=torch.Generator(),
            variance="learned",
        )


def test_a_learned_variance_of_another_shape_is_called_by_its_name():
    def denoiser(xt, t):
        return denoise.Estimate(xt, torch.zeros(2, 1))

    with pytest.raises(ValueError, match=r"the denoiser must return v of shape \(2, 2\), got \(2, 1\) at t = 5"):
        ddpm(
            denoiser, schedules.linear(), torch.zeros(2, 2), [5, 3, 0], generator=torch.Generator(), variance="learned"
        )


def test_a_learned_variance_needs_a_denoiser_that_says_one():
    with pytest.raises(ValueError, match=r"make it with denoise\.from_network\(…, learned_variance=True\)"):
        ddpm(
            lambda xt, t: xt,
            schedules.linear(),
            torch.zeros(1, 1),
            [5, 3, 0],
            generator=torch.Generator(),
            variance="learned",
        )


MIXTURE = GaussianMixture(
    torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
    torch.tensor([[-1.5, 0.0], [1.0, 1.0], [0.5, -1.5]], dtype=torch.float64),
    torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.2, 0.0], [0.0, 0.2]], [[0.4, -0.2], [-0.2, 0.3]]], dtype=torch.float64),
)


def variance_after_all_steps(schedule: schedules.Schedule, times: list[int], variance: float) -> float:
    """Of DDPM with the exact denoiser of N(0, variance) data: every step is linear, so it follows by recursion.

    With K = a_t · variance / (a_t² · variance + b_t²) the denoiser is K x_t, and x_s = gain · x_t + std · noise, where
    the gain is Bayes' rule for two Gaussians: precision 1/b_s² around a_s x̂0, and α_{t|s}/(1 − α_{t|s}) around
    x_t/√α_{t|s}.
    """
    found = 1.0
    for t, s in pairwise(times):
        alpha_t, alpha_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        alpha_ts = alpha_t / alpha_s
        k = alpha_t**0.5 * variance / (alpha_t * variance + 1 - alpha_t)
        if s == 0:
            return k**2 * found
        prior, likelihood = 1 / (1 - alpha_s), alpha_ts / (1 - alpha_ts)
        gain = (prior * alpha_s**0.5 * k + likelihood / alpha_ts**0.5) / (prior + likelihood)
        found = gain**2 * found + 1 / (prior + likelihood)
    raise AssertionError("the grid does not end in 0")


@pytest.mark.parametrize("steps", [5, 50])
@pytest.mark.parametrize("variance", [0.05, 1.0, 4.0])
def test_gaussian_data_end_with_the_variance_of_the_linear_recursion(variance, steps, generator):
    schedule, n = schedules.linear(), 20_000
    times = uniform_times(schedule, steps)
    data = GaussianMixture(
        torch.ones(1, dtype=torch.float64),
        torch.zeros(1, 1, dtype=torch.float64),
        torch.full((1, 1, 1), variance, dtype=torch.float64),
    )
    x = start_noise((n, 1), generator, torch.float64)
    x = ddpm(denoise.exact(data, schedule), schedule, x, times, generator=generator)
    expected = variance_after_all_steps(schedule, times, variance)
    assert x.var().item() == pytest.approx(expected, rel=4 * (2 / n) ** 0.5)


def test_exact_denoising_draws_from_the_data(generator):
    """Mean, covariance and log-likelihood of 200 steps agree with those of as many draws from the mixture itself."""
    schedule, n = schedules.linear(), 4000
    times = uniform_times(schedule, 200)
    x = start_noise((n, 2), generator, torch.float64)
    x = ddpm(denoise.exact(MIXTURE, schedule), schedule, x, times, generator=generator)
    mean = MIXTURE.weight @ MIXTURE.mean
    offset = MIXTURE.mean - mean
    cov = torch.einsum("k,kij->ij", MIXTURE.weight, MIXTURE.cov + offset[:, :, None] * offset[:, None, :])

    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    true = MIXTURE.log_prob(MIXTURE.sample(n, generator))
    found = MIXTURE.log_prob(x)
    # Steps of five leave the narrowest direction of a component too narrow, by this share of its variance.
    narrow = torch.linalg.eigvalsh(MIXTURE.cov).min().item()
    bias = 1 - variance_after_all_steps(schedule, times, narrow) / narrow
    assert 0 < bias < 0.1
    # Four standard errors throughout. A variance that is off by a share shifts the mean log-density by half of it
    # in each of two dimensions.
    standard_error = ((true.var() + found.var()) / n).sqrt()
    assert bool(((x.mean(0) - mean).abs() < 4 * x.std(0) / n**0.5).all())
    assert bool(((products.mean(0) - cov).abs() < 4 * products.std(0) / n**0.5 + bias * narrow).all())
    assert abs(found.mean() - true.mean()) < 4 * standard_error + bias


@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_two_variances_bound_that_of_unit_gaussian_data(variance, generator):
    """For one step of white noise to x_s the large variance is right and the small one too small: known in closed form.

    With x̂0 = a x_t the mean of the step is √α_{t|s} x_t, so the variance of x_s is α_{t|s} plus that of the step.
    """
    schedule, n, t, s = schedules.linear(), 40_000, 1000, 600
    steps = []
    x = start_noise((n, 1), generator, torch.float64)
    ddpm(
        lambda xt, t: schedule.at(t).like(xt).a * xt,
        schedule,
        x,
        [t, s, 0],
        generator=generator,
        variance=variance,
        callback=steps.append,
    )
    alpha_ts = (schedule.alpha_bar[t] / schedule.alpha_bar[s]).item()
    step = 1 - alpha_ts
    if variance == "small":
        step *= (1 - schedule.alpha_bar[s].item()) / (1 - schedule.alpha_bar[t].item())
    expected = alpha_ts + step
    assert steps[0].xs.var().item() == pytest.approx(expected, abs=4 * expected * (2 / n) ** 0.5)
    assert (expected == 1) is (variance == "large")


def test_one_step_draws_from_the_posterior(generator):
    """The mean and standard deviation of x_s are those of q(x_s | x_t, x̂0), by Monte Carlo."""
    schedule, n = schedules.cosine(100), 40_000
    x = torch.full((n, 1), 0.7, dtype=torch.float64)
    x0 = torch.full((n, 1), -0.4, dtype=torch.float64)
    steps = []
    ddpm(lambda xt, t: x0, schedule, x, [60, 40, 0], generator=generator, callback=steps.append)
    q = process.posterior(schedule, x[:1], x0[:1], 60, 40)
    assert steps[0].xs.mean().item() == pytest.approx(q.mean.item(), abs=4 * q.std.item() / n**0.5)
    assert steps[0].xs.std().item() == pytest.approx(q.std.item(), rel=4 / (2 * n) ** 0.5)


def test_an_unknown_variance_is_refused_with_the_list_of_known_ones():
    with pytest.raises(ValueError, match="variance must be 'small', 'large' or 'learned', got 'fixed_small'"):
        ddpm(
            lambda xt, t: xt,
            schedules.linear(),
            torch.zeros(1, 1),
            [5, 0],
            generator=torch.Generator(),
            variance="fixed_small",
        )
