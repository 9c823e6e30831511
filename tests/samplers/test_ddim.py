"""DDIM against diffusers, closed forms and DDPM."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import EulerAncestralDiscreteScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st

from diffusion_book import denoise, process, schedules
from diffusion_book.data import GaussianMixture, ring_of_gaussians
from diffusion_book.samplers import (
    by_name,
    ddim,
    ddim_invert,
    ddpm,
    karras_times,
    start_noise,
    uniform_times,
)

LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def network(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.sin(xt + t[:, None] / 500)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("prediction", "name"), [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_the_loop_is_that_of_diffusers(spacing, prediction, name, eta, double, generator):
    """A step that disagrees with its own grid would show: both walk the times of their scheduler, index k = t − 1."""
    theirs = double(DDIMScheduler)(**LINEAR, clip_sample=False, prediction_type=name, timestep_spacing=spacing)
    theirs.set_timesteps(50)
    schedule = schedules.linear()
    times = [int(k) + 1 for k in theirs.timesteps] + [0]
    assert times[0] == {"leading": 981, "trailing": 1000}[spacing]
    x = start = start_noise((4, 3), generator, torch.float64)
    noise = torch.Generator().manual_seed(7)
    for k in theirs.timesteps:
        output = network(x, torch.full((4,), int(k) + 1))
        x = theirs.step(output, k, x, eta=eta, generator=noise).prev_sample
    denoiser = denoise.from_network(network, schedule, prediction)
    found = ddim(denoiser, schedule, start, times, eta=eta, generator=torch.Generator().manual_seed(7))
    # Double precision in both; x̂0 is magnified by up to 1/a = 157, and their ᾱ is a product of a thousand roundings.
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, EulerAncestralDiscreteScheduler])
def test_euler_and_its_ancestral_form_are_those_of_diffusers(scheduler, steps, double, generator):
    """In x/a and σ, where they live: d(x/a) = ε̂ dσ, which is DDIM with η = 0 or 1."""
    theirs = double(scheduler)(**LINEAR, timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    schedule = schedules.linear()
    start = start_noise((4, 3), generator, torch.float64)
    x = start / schedule.at(1000).a
    noise = torch.Generator().manual_seed(7)
    for k in theirs.timesteps:
        output = network(theirs.scale_model_input(x, k), torch.full((4,), int(k) + 1))
        x = theirs.step(output, k, x, generator=noise).prev_sample
    denoiser, times = denoise.from_network(network, schedule, "eps"), uniform_times(schedule, steps)
    assert [int(k) + 1 for k in theirs.timesteps] == times[:-1]
    if scheduler is EulerDiscreteScheduler:
        found = by_name("euler")(denoiser, schedule, start, times)
    else:
        found = by_name("euler_ancestral")(denoiser, schedule, start, times, generator=torch.Generator().manual_seed(7))
    # Theirs adds and subtracts numbers of size σ_T = 157.
    torch.testing.assert_close(found, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_the_ancestral_euler_of_k_diffusion_is_ddim(eta, generator):
    """`get_ancestral_step` and `sample_euler_ancestral`, as printed there, on σ = 80 … 0."""
    schedule = schedules.EDM()
    denoiser, sigmas = denoise.exact(ring_of_gaussians(), schedule), karras_times(schedule, 12)
    x = start = start_noise((5, 2), generator, torch.float64, schedule=schedule)
    noise = torch.Generator().manual_seed(7)
    for sigma_from, sigma_to in pairwise(sigmas):
        denoised = denoiser(x, torch.full((5,), sigma_from, dtype=torch.float64))
        sigma_up = min(sigma_to, eta * (sigma_to**2 * (sigma_from**2 - sigma_to**2) / sigma_from**2) ** 0.5)
        sigma_down = (sigma_to**2 - sigma_up**2) ** 0.5
        if sigma_down == 0:
            x = denoised
        else:
            d = (x - denoised) / sigma_from
            x = x + d * (sigma_down - sigma_from)
            x = x + torch.randn(5, 2, generator=noise, dtype=x.dtype) * sigma_up * (eta > 0)
    found = ddim(denoiser, schedule, start, sigmas, eta=eta, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(found, x, rtol=1e-10, atol=1e-10)


def test_euler_is_of_first_order(order_of):
    assert order_of(ddim, [40, 80, 160, 320]) == pytest.approx(1, abs=0.05)


@given(
    name=st.sampled_from(sorted(schedules.SCHEDULES)),
    seed=st.integers(0, 2**31),
    times=st.integers(2, 100).flatmap(lambda t: st.tuples(st.just(t), st.integers(1, t - 1))),
)
def test_with_eta_one_a_step_is_the_step_of_ddpm(name, seed, times):
    """The same mean and the same standard deviation, exactly: with the same noise the same x_s, on any grid."""
    schedule, (t, s) = schedules.by_name(name, 100), times
    generator = torch.Generator().manual_seed(seed)
    x, x0 = (torch.randn(3, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    found = []
    for sample in (ddpm, partial(ddim, eta=1.0)):
        steps = []
        noise = torch.Generator().manual_seed(seed)
        sample(lambda xt, t: x0, schedule, x, [t, s, 0], generator=noise, callback=steps.append)
        found.append(steps[0].xs)
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("t", "s"), [(100, 60), (60, 20), (2, 1), (50, 49)])
def test_every_eta_keeps_the_marginals(eta, t, s, generator):
    """If x_t ~ N(a_t x0, b_t²) and x̂0 = x0 then x_s ~ N(a_s x0, b_s²) whatever η: DDIM's defining property."""
    schedule, n, x0 = schedules.linear(100), 40_000, 0.8
    x = process.marginal(schedule, torch.full((n, 1), x0, dtype=torch.float64), t).sample(
        torch.randn(n, 1, generator=generator, dtype=torch.float64)
    )
    steps = []
    ddim(
        lambda xt, t: torch.full_like(xt, x0),
        schedule,
        x,
        [t, s, 0],
        eta=eta,
        generator=generator,
        callback=steps.append,
    )
    b = math.sqrt(1 - schedule.alpha_bar[s].item())
    mean = math.sqrt(schedule.alpha_bar[s].item()) * x0
    assert steps[0].xs.mean().item() == pytest.approx(mean, abs=4 * b / n**0.5)
    assert steps[0].xs.std().item() == pytest.approx(b, rel=4 / (2 * n) ** 0.5)


def test_without_noise_it_solves_the_ode_of_gaussian_data_at_first_order(generator):
    """It keeps standardised coordinates, (x_0 − μ)/s = (x_T − a μ)/√(a²s² + b²): twice the steps, half the error."""
    mu, s, schedule = 0.5, 0.4, schedules.linear()
    data = GaussianMixture(
        torch.ones(1, dtype=torch.float64),
        torch.full((1, 1), mu, dtype=torch.float64),
        torch.full((1, 1, 1), s**2, dtype=torch.float64),
    )
    x = start_noise((50, 1), generator, torch.float64)
    alpha_bar = schedule.alpha_bar[-1]
    exact = mu + s * (x - alpha_bar.sqrt() * mu) / (alpha_bar * s**2 + 1 - alpha_bar).sqrt()
    errors = [
        (ddim(denoise.exact(data, schedule), schedule, x, uniform_times(schedule, n)) - exact).abs().max().item()
        for n in (50, 100, 200)
    ]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert errors[-1] < 0.02
    assert orders == pytest.approx([1, 1], abs=0.25)  # 1 + O(step): the second-order term is still seen at 50 steps


def test_without_noise_no_generator_is_used(generator):
    x = start_noise((3, 2), generator, torch.float64)
    state = generator.get_state()
    schedule = schedules.linear(100)
    first = ddim(lambda xt, t: xt.tanh(), schedule, x, uniform_times(schedule, 9), generator=generator)
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(first, ddim(lambda xt, t: xt.tanh(), schedule, x, uniform_times(schedule, 9)))


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan"), float("inf")])
def test_eta_outside_its_range_is_refused(eta):
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\] \(0 deterministic, 1 ancestral\), got"):
        ddim(lambda xt, t: xt, schedules.linear(100), torch.zeros(1, 1), [100, 0], eta=eta, generator=torch.Generator())


def test_noise_without_a_generator_is_refused():
    with pytest.raises(ValueError, match=r"eta > 0 draws noise, so pass a torch\.Generator; eta = 0 needs none"):
        ddim(lambda xt, t: xt, schedules.linear(100), torch.zeros(1, 1), [100, 0], eta=0.5)


def gaussian(schedule: schedules.Schedule, variance: float):
    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        _, a, b = schedule.at(t).like(xt)
        return a * variance / (a**2 * variance + b**2) * xt

    return denoiser


@pytest.mark.parametrize("schedule", [schedules.linear(), schedules.VP(), schedules.EDM()], ids=repr)
def test_inversion_by_enough_iterations_undoes_the_sampler(schedule, generator):
    """The fixed point inverts the sampler's own steps, so the round trip is exact, however few the steps."""
    denoiser, times = gaussian(schedule, 0.3), [schedule.T * k / 1000 for k in (1000, 600, 300, 100, 20, 0)]
    times = [int(t) for t in times] if isinstance(schedule, schedules.Discrete) else times
    x0 = start_noise((5, 2), generator, torch.float64)
    seen = []
    xt = ddim_invert(denoiser, schedule, x0, times, iterations=500, callback=seen.append)
    torch.testing.assert_close(ddim(denoiser, schedule, xt, times), x0, rtol=1e-8, atol=1e-8)
    assert [(step.t, step.s) for step in seen] == [(s, t) for t, s in reversed(list(pairwise(times)))]
    assert torch.equal(seen[-1].xs, xt)


def test_each_iteration_of_the_inversion_leaves_the_share_of_the_error_that_the_closed_form_says(generator):
    """For Gaussian data the iteration is x ← c + k x, with k = (1 − a_t b_s/(a_s b_t)) b_t²/(a_t² s² + b_t²)."""
    schedule, variance, t = schedules.linear(), 0.3, 300
    denoiser = gaussian(schedule, variance)
    x0 = start_noise((5, 2), generator, torch.float64)
    _, a, b = map(float, schedule.at(t))
    share = b**2 / (a**2 * variance + b**2)  # at s = 0, where b_s is 0
    exact = x0 * (a**2 * variance + b**2) / (a * variance)  # of which the one step makes x0
    for iterations in (1, 2, 5, 20):
        found = ddim_invert(denoiser, schedule, x0, [t, 0], iterations=iterations)
        # The first guess is x_s = x0 itself.
        torch.testing.assert_close(found - exact, share**iterations * (x0 - exact), rtol=1e-9, atol=1e-12)


def test_one_iteration_is_of_first_order(generator):
    """As inversions usually run: twice the steps, half the error of the round trip."""
    schedule = schedules.Cosine()
    denoiser, x0 = gaussian(schedule, 0.3), start_noise((5, 2), generator, torch.float64)
    errors = []
    for steps in (100, 200, 400):
        times = [0.9 * t for t in uniform_times(schedule, steps)]
        there = ddim_invert(denoiser, schedule, x0, times)
        errors.append((ddim(denoiser, schedule, there, times) - x0).abs().max().item())
    assert [math.log2(coarse / fine) for coarse, fine in pairwise(errors)] == pytest.approx([1, 1], abs=0.1)


def test_inversion_from_where_nothing_is_left_is_refused():
    schedule = schedules.Flow()
    with pytest.raises(ValueError, match=r"no signal left \(a = 0\), so no x_T leads back to x0; start lower"):
        ddim_invert(lambda xt, t: xt, schedule, torch.zeros(1, 1), uniform_times(schedule, 4))


@pytest.mark.parametrize("iterations", [0, -1, float("nan"), 1.5])
def test_inversion_without_an_iteration_is_refused(iterations):
    with pytest.raises(ValueError, match="iterations must be a whole number of at least 1, got"):
        ddim_invert(lambda xt, t: xt, schedules.linear(), torch.zeros(1, 1), [9, 0], iterations=iterations)
