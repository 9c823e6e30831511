"""DDIM against diffusers, closed forms and DDPM."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from diffusion_book import denoise, process, schedules
from diffusion_book.data import GaussianMixture
from diffusion_book.samplers import ddim, ddpm, start_noise, uniform_times

LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def network(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.sin(xt + t[:, None] / 500)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("prediction", "name"), [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_each_step_is_that_of_diffusers(spacing, prediction, name, eta, generator):
    theirs = DDIMScheduler(**LINEAR, clip_sample=False, prediction_type=name, timestep_spacing=spacing)
    theirs.set_timesteps(50)
    schedule = schedules.linear()
    times = [int(i) + 1 for i in theirs.timesteps] + [0]
    assert times[0] == {"leading": 981, "trailing": 1000}[spacing]
    steps = []
    x = start_noise((4, 3), generator)
    noise = torch.Generator().manual_seed(7)
    denoiser = denoise.from_network(network, schedule, prediction)
    ours = ddim(denoiser, schedule, x, times, eta, torch.Generator().manual_seed(7), steps.append)
    for step in steps:
        output = network(x, torch.full((4,), step.t))
        found = theirs.step(output, step.t - 1, x, eta=eta, generator=noise)
        # Single precision in both; x̂0 is magnified by 1/a, up to 157 at the noisy end, and so are its roundings.
        magnified = 1e-4 * max(1.0, 1 / schedule.a(step.t).item())
        torch.testing.assert_close(step.x0_hat, found.pred_original_sample, rtol=magnified, atol=magnified)
        torch.testing.assert_close(step.xs, found.prev_sample, rtol=2e-4, atol=2e-4)
        x = step.xs
    assert torch.equal(ours, x)


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
    for sample in (ddpm, lambda *args, callback: ddim(*args[:4], 1.0, args[4], callback)):
        steps = []
        noise = torch.Generator().manual_seed(seed)
        sample(lambda xt, t: x0, schedule, x, [t, s, 0], noise, callback=steps.append)
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
    ddim(lambda xt, t: torch.full_like(xt, x0), schedule, x, [t, s, 0], eta, generator, steps.append)
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


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_eta_outside_its_range_is_refused(eta):
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 1\] \(0 deterministic, 1 ancestral\), got"):
        ddim(lambda xt, t: xt, schedules.linear(100), torch.zeros(1, 1), [100, 0], eta, torch.Generator())


def test_noise_without_a_generator_is_refused():
    with pytest.raises(ValueError, match=r"eta > 0 draws noise, so pass a torch\.Generator; eta = 0 needs none"):
        ddim(lambda xt, t: xt, schedules.linear(100), torch.zeros(1, 1), [100, 0], 0.5)
