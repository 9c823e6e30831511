"""Heun's method against EDM's algorithm 2 as the paper prints it, diffusers, and an ODE with a closed form."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_heun_discrete import HeunDiscreteScheduler

from diffusion_book import denoise, schedules
from diffusion_book.data import ring_of_gaussians
from diffusion_book.samplers import Step, heun, karras_times, start_noise, uniform_times

RING = ring_of_gaussians()
EDM = schedules.EDM()


def network(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.sin(xt + t[:, None] / 500)


def algorithm_2(D, x, t, generator, S_churn, S_min, S_max, S_noise):
    """Karras et al. 2022, algorithm 2, line by line; D(x, σ) is the denoiser and t = [t_0, …, t_N = 0] are σs."""
    N = len(t) - 1
    for i in range(N):
        gamma = min(S_churn / N, math.sqrt(2) - 1) if S_min <= t[i] <= S_max else 0
        t_hat = t[i] + gamma * t[i]
        if gamma > 0:
            epsilon = S_noise * torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x_hat = x + math.sqrt(t_hat**2 - t[i] ** 2) * epsilon
        else:
            x_hat = x
        d = (x_hat - D(x_hat, t_hat)) / t_hat
        x = x_hat + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0:
            d_prime = (x - D(x, t[i + 1])) / t[i + 1]
            x = x_hat + (t[i + 1] - t_hat) * (0.5 * d + 0.5 * d_prime)
    return x


@pytest.mark.parametrize("churn", [(0, 0, math.inf, 1), (5, 0.05, 50, 1.003), (40, 0, 50, 1), (100, 0.3, 2, 0.9)])
@pytest.mark.parametrize("steps", [1, 2, 12])
def test_it_is_algorithm_2_of_edm(steps, churn, generator):
    exact = denoise.exact(RING, EDM)
    times = karras_times(EDM, steps)
    start = start_noise((5, 2), generator, torch.float64, schedule=EDM)
    expected = algorithm_2(
        lambda x, sigma: exact(x, torch.full((5,), sigma, dtype=torch.float64)),
        start,
        times,
        torch.Generator().manual_seed(3),
        *churn,
    )
    options = dict(zip(("churn", "churn_from", "churn_to", "churn_noise"), churn))
    found = heun(exact, EDM, start, times, **options, max_fall=math.inf, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "schedule", [schedules.Flow(), schedules.VP(), schedules.Cosine(), schedules.linear().continuous()], ids=repr
)
@pytest.mark.parametrize("churn", [0.0, 10.0])
def test_on_any_schedule_it_is_algorithm_2_in_x_over_a(schedule, churn, generator):
    """The same σ and x/a give the same picture; the start is below T, where σ may be infinite."""
    sigmas = [30.0, 8.0, 3.0, 1.0, 0.3, 0.02]
    times = [*schedule.time_at(torch.tensor([-2 * math.log(sigma) for sigma in sigmas])).tolist(), 0.0]
    ve, ours = denoise.exact(RING, EDM), denoise.exact(RING, schedule)
    start = 30 * start_noise((5, 2), generator, torch.float64)
    expected = algorithm_2(
        lambda x, sigma: ve(x, torch.full((5,), sigma, dtype=torch.float64)),
        start,
        [*sigmas, 0.0],
        torch.Generator().manual_seed(3),
        *(churn, 0, math.inf, 1),
    )
    a = float(schedule.at(times[0]).a)
    again = torch.Generator().manual_seed(3)
    found = heun(ours, schedule, a * start, times, churn=churn, max_fall=math.inf, generator=again)
    # time_at is right to a few roundings of log σ, near 1e-14; the ring's modes magnify them.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("schedule", [schedules.Flow(), schedules.Cosine(), EDM], ids=repr)
def test_churn_leaves_noise_without_end_alone(schedule, generator):
    """At σ = ∞, or so near T that there is no time with more noise, a step goes without."""
    x = start_noise((5, 2), generator, torch.float64, schedule=schedule)
    steps: list[Step] = []
    times = uniform_times(schedule, 6)
    heun(denoise.exact(RING, schedule), schedule, x, times, churn=10.0, generator=generator, callback=steps.append)
    assert all(bool(torch.isfinite(step.xs).all()) for step in steps)
    assert [(step.t, step.s) for step in steps] == list(pairwise(times))  # the grid's, not the raised times


@pytest.mark.parametrize(("prediction", "name"), [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_the_loop_is_that_of_diffusers(steps, prediction, name, double, generator):
    theirs = double(HeunDiscreteScheduler)(
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        timestep_spacing="trailing",
        prediction_type="epsilon" if name == "sample" else name,
    )
    theirs.set_timesteps(steps)
    schedule = schedules.linear()
    start = start_noise((4, 3), generator, torch.float64)
    x = start / schedule.at(1000).a  # its variable is x/a
    for k in theirs.timesteps:
        t = int(k) + 1
        scaled = theirs.scale_model_input(x, k)
        output = network(scaled, torch.full((4,), t))
        if name == "sample":  # which it does not have: told as the ε that it stands for
            output = (scaled - schedule.at(t).a * output) / schedule.at(t).b
        x = theirs.step(output, k, x).prev_sample
    times = uniform_times(schedule, steps)
    assert list(dict.fromkeys(int(k) + 1 for k in theirs.timesteps)) == times[:-1]
    denoiser = denoise.from_network(network, schedule, prediction)
    found = heun(denoiser, schedule, start, times, max_fall=math.inf)
    # Theirs adds and subtracts numbers of size σ_T = 157, and x̂0 is magnified by as much.
    torch.testing.assert_close(found, x, rtol=1e-8, atol=1e-8)


def test_it_is_of_second_order(order_of):
    assert order_of(heun, [40, 80, 160, 320]) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("max_fall", [1.5, 3.0, math.inf])
def test_a_step_costs_two_evaluations_unless_it_is_the_last_or_falls_too_far(steps, max_fall, generator):
    asked = []
    exact = denoise.exact(RING, EDM)
    x, times = start_noise((2, 2), generator, schedule=EDM), karras_times(EDM, steps)
    heun(lambda xt, t: asked.append(1) or exact(xt, t), EDM, x, times, max_fall=max_fall)
    assert len(asked) == steps + sum(t / s <= max_fall for t, s in pairwise(times[:-1]))


def test_a_first_step_from_no_signal_is_eulers_alone(generator):
    asked = []
    schedule = schedules.zero_terminal_snr(schedules.linear(100))
    exact = denoise.exact(RING, schedule)
    x = start_noise((2, 2), generator, torch.float64)
    found = heun(lambda xt, t: asked.append(int(t[0])) or exact(xt, t), schedule, x, [100, 60, 0])
    assert asked == [100, 60]
    assert bool(torch.isfinite(found).all())


def gaussian(std):
    """The denoiser of N(0, std²) data on EDM's schedule, as (x, σ) → x̂0."""
    return lambda x, sigma: x * std**2 / (std**2 + torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1) ** 2)


@pytest.mark.parametrize("std", [1.0, 0.5, 0.1])
@pytest.mark.parametrize("sigma_s", [1.0, 1.4, 3.0, 50.0])
def test_a_step_on_which_sigma_falls_far_is_eulers(std, sigma_s):
    """Up to the limit it is algorithm 2. Beyond, where σ is above that of Gaussian data, Euler's step is nearer."""
    schedule = schedules.EDM(sigma_max=1e6)
    for r in (1.1, 2.0, 2.999, 3.001, 30.0, 3000.0):
        times = [r * sigma_s, sigma_s, 0.0]
        start, end, _ = (math.hypot(sigma, std) for sigma in times)  # the solution is x ∝ √(σ² + std²)
        x = torch.tensor([[start]], dtype=torch.float64)
        seen: list[Step] = []
        heun(gaussian(std), schedule, x, times, callback=seen.append)
        euler = x + (1 - r) * sigma_s * (x - gaussian(std)(x, times[0])) / times[0]
        corrected = algorithm_2(gaussian(std), x, times[:2], None, 0, 0, math.inf, 1)
        torch.testing.assert_close(seen[0].xs, corrected if r < 3 else euler, rtol=1e-9, atol=1e-9)
        if r > 3:
            assert abs(float(euler) - end) < abs(float(corrected) - end)


@pytest.mark.parametrize(("grid", "share"), [(uniform_times, 0.02), (karras_times, 1.0)])
@pytest.mark.parametrize("steps", [5, 10, 20])
def test_a_schedule_that_ends_in_almost_pure_noise_does_not_ruin_it(grid, share, steps):
    """σ_T = 20,291 on the cosine schedule. The solution for N(0, 1/4) is known; algorithm 2 is farther from it.

    On evenly spaced times, where the first step falls to σ = 3 to 13, a hundred times farther.
    """
    schedule, std = schedules.cosine(), 0.5
    times = grid(schedule, steps)
    sigmas = [float(schedule.at(t).sigma) for t in times]
    x = torch.tensor([[math.hypot(sigmas[0], std)]], dtype=torch.float64)
    found = heun(
        lambda xt, t: gaussian(std)(xt / schedule.at(t).a.reshape(-1, 1), schedule.at(t).sigma),
        schedule,
        float(schedule.at(schedule.T).a) * x,
        times,
    )
    corrected = algorithm_2(gaussian(std), x, sigmas, None, 0, 0, math.inf, 1)
    assert abs(float(found) - std) < share * abs(float(corrected) - std)


def test_on_edms_grid_it_is_algorithm_2_but_for_the_last_invisible_steps(generator):
    """18 steps, as the paper takes for CIFAR-10: σ falls more than threefold from 0.023 on; 1/128 is a grey level."""
    times = karras_times(EDM, 18)
    assert [t for t, s in pairwise(times[:-1]) if t > 3 * s] == pytest.approx([0.0229, 0.0074], rel=0.02)
    exact, start = denoise.exact(RING, EDM), start_noise((500, 2), generator, torch.float64, schedule=EDM)
    ours, theirs = (heun(exact, EDM, start, times, max_fall=fall) for fall in (3.0, math.inf))
    assert 0 < (ours - theirs).abs().max() < 1 / 128


def test_churn_keeps_the_noise_level_of_a_point_of_data(generator):
    """Raised to σ̂ and brought back by the exact ODE of a point, x − x0 keeps the standard deviation σ_s."""
    n, times = 40_000, [10.0, 3.0, 1.0, 0.0]
    x = 0.7 + 10 * start_noise((n, 1), generator, torch.float64)
    steps: list[Step] = []
    heun(
        lambda xt, t: torch.full_like(xt, 0.7),
        EDM,
        x,
        times,
        churn=1.0,
        churn_to=20,
        generator=generator,
        callback=steps.append,
    )
    for step in steps[:-1]:
        assert (step.xs - 0.7).std().item() == pytest.approx(step.s, rel=4 / (2 * n) ** 0.5)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_churn_and_its_noise_are_finite_and_not_negative(bad):
    for options in ({"churn": bad}, {"churn": 5.0, "churn_noise": bad}):
        with pytest.raises(ValueError, match="churn and churn_noise must be finite and not negative, got"):
            heun(lambda xt, t: xt, EDM, torch.zeros(1, 1), [80.0, 0.0], **options, generator=torch.Generator())


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.nan)])
def test_a_range_for_churn_that_is_none_is_refused(low, high):
    with pytest.raises(ValueError, match="expected 0 ≤ churn_from ≤ churn_to, which are noises σ, got"):
        heun(
            lambda xt, t: xt,
            EDM,
            torch.zeros(1, 1),
            [80.0, 0.0],
            churn=5.0,
            churn_from=low,
            churn_to=high,
            generator=torch.Generator(),
        )


@pytest.mark.parametrize("fall", [1.0, 0.0, float("nan")])
def test_a_fall_that_is_none_is_refused(fall):
    with pytest.raises(ValueError, match="max_fall is a ratio σ_t/σ_s and must be above 1, got"):
        heun(lambda xt, t: xt, EDM, torch.zeros(1, 1), [80.0, 0.0], max_fall=fall)


def test_churn_without_a_generator_is_refused():
    with pytest.raises(ValueError, match=r"churn > 0 draws noise, so pass a torch\.Generator; churn = 0 needs none"):
        heun(lambda xt, t: xt, EDM, torch.zeros(1, 1), [80.0, 0.0], churn=1.0)


def test_churn_between_integers_is_refused():
    with pytest.raises(ValueError, match=r"churn visits times between the integers: sample on schedule\.continuous"):
        heun(lambda xt, t: xt, schedules.linear(), torch.zeros(1, 1), [9, 0], churn=1.0, generator=torch.Generator())
