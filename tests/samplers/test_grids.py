"""Time grids: what a sampler may visit."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_book import schedules
from diffusion_book.samplers import (
    check_times,
    karras_times,
    leading_times,
    log_snr_times,
    quadratic_times,
    uniform_times,
)

SCHEDULE = schedules.linear(100)
GRIDS = {
    "uniform": uniform_times,
    "leading": leading_times,
    "quadratic": quadratic_times,
    "karras": karras_times,
    "log-SNR": log_snr_times,
}
CONTINUOUS = [
    schedules.Flow(),
    schedules.VP(),
    schedules.EDM(),
    schedules.EDM(sigma_max=80.1),  # which is no float32
    schedules.Cosine(),
    schedules.linear().continuous(),
]


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
@given(
    name=st.sampled_from(sorted(schedules.SCHEDULES)),
    zero=st.booleans(),
    sizes=st.integers(2, 1200).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T))),
)
def test_every_grid_of_integers_reaches_both_ends_in_as_many_steps_as_asked(grid, name, zero, sizes):
    """A grid that never reaches T cannot be made; nor one with a step of length 0, however many steps are asked for."""
    T, steps = sizes
    schedule = schedules.by_name(name, T)
    schedule = schedules.zero_terminal_snr(schedule) if zero else schedule
    times = grid(schedule, steps)
    assert (times[0], times[-1], len(times)) == (T, 0, steps + 1)
    assert all(t > s for t, s in pairwise(times))
    assert all(type(t) is int for t in times)
    assert check_times(schedule, times) == times


@pytest.mark.parametrize("grid", [grid for name, grid in GRIDS.items() if name != "leading"])
@pytest.mark.parametrize("schedule", CONTINUOUS, ids=repr)
@given(steps=st.integers(1, 2000))
def test_every_grid_of_real_times_reaches_both_ends_in_as_many_steps_as_asked(grid, schedule, steps):
    times = grid(schedule, steps)
    assert (times[0], times[-1], len(times)) == (schedule.T, 0, steps + 1)
    assert all(t > s for t, s in pairwise(times))
    assert check_times(schedule, times) == times  # and no number is rounded on the way


@pytest.mark.parametrize("steps", [2, 18, 40])
@pytest.mark.parametrize("rho", [7.0, 3.0, 1.0])
def test_karras_times_are_those_of_the_paper(steps, rho):
    """Equation 5, in numpy: t_i = (σ_max^{1/ρ} + i/(N−1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ, and t_N = 0; σ = t for EDM."""
    i = np.arange(steps)
    expected = (80 ** (1 / rho) + i / (steps - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    assert karras_times(schedules.EDM(), steps, rho) == pytest.approx([*expected, 0], rel=1e-10)


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=repr)
def test_on_every_schedule_karras_times_have_the_same_noise_levels(schedule):
    """But for the first, which is T whatever its σ."""
    times = karras_times(schedule, 12, sigma_min=0.01, sigma_max=40.0)
    ramp = np.linspace(40 ** (1 / 7), 0.01 ** (1 / 7), 12) ** 7
    assert schedule.at(torch.tensor(times[1:-1], dtype=torch.float64)).sigma.tolist() == pytest.approx(
        ramp[1:], rel=1e-8
    )


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=repr)
def test_log_snr_times_are_evenly_spaced_in_log_snr(schedule):
    times = log_snr_times(schedule, 12, sigma_min=0.01, sigma_max=40.0)
    log_snr = schedule.at(torch.tensor(times[1:-1], dtype=torch.float64)).log_snr
    gap = 2 * math.log(40 / 0.01) / 11
    torch.testing.assert_close(log_snr.diff(), torch.full((10,), gap, dtype=torch.float64), rtol=1e-6, atol=0)
    assert log_snr[-1].item() == pytest.approx(-2 * math.log(0.01), rel=1e-8)


def test_on_integers_log_snr_times_are_the_nearest_there_are():
    """Where there is room: each time's angle is nearer to the wanted one than its neighbours' are."""
    schedule = schedules.linear()
    times = log_snr_times(schedule, 10)
    low, high = float(schedule.at(1).sigma), 80.0
    wanted = np.geomspace(high, low, 10)
    for t, sigma in list(zip(times, wanted))[1:-1]:
        distance = [abs(math.atan(float(schedule.at(u).sigma)) - math.atan(sigma)) for u in (t - 1, t, t + 1)]
        assert distance[1] == min(distance)


def test_quadratic_times_are_even_in_the_root_of_time():
    times = quadratic_times(schedules.VP(), 10)
    assert [t**0.5 for t in times] == pytest.approx(np.linspace(1, 0, 11))
    assert quadratic_times(schedules.linear(), 10) == [1000, 810, 640, 490, 360, 250, 160, 90, 40, 10, 0]


@pytest.mark.parametrize("steps", [1, 4, 7, 10, 50, 250, 1000])
def test_leading_times_are_those_of_diffusers_but_for_the_first(steps):
    """Their index k is our t = k + 1. Theirs never reach T: at 10 steps they start at 901; ours is moved up to T."""
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    theirs = DDIMScheduler(timestep_spacing="leading")
    theirs.set_timesteps(steps)
    expected = [int(k) + 1 for k in theirs.timesteps]
    found = leading_times(schedules.linear(), steps)
    assert found == [1000, *expected[1:], 0]
    assert (expected[0] < 1000) is (steps < 1000)


def test_leading_times_of_a_continuous_schedule_are_refused():
    with pytest.raises(ValueError, match=r"leading times are integers, which Flow\(T=1\) does not have"):
        leading_times(schedules.Flow(), 10)


@pytest.mark.parametrize("grid", [karras_times, log_snr_times])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (2.0, 1.0), (-1.0, None), (None, 200.0), (90.0, None)])
def test_noise_levels_that_the_schedule_does_not_have_are_refused(grid, low, high):
    """Times beyond T would all be T, and the grid would stand still."""
    with pytest.raises(ValueError, match=r"expected 0 < sigma_min < sigma_max ≤ σ_T = 80, got"):
        grid(schedules.EDM(), 10, sigma_min=low, sigma_max=high)


@pytest.mark.parametrize("grid", [karras_times, log_snr_times])
@pytest.mark.parametrize(("low", "high"), [(math.nan, 1.0), (0.1, math.nan), (0.1, math.inf), (math.inf, math.inf)])
@pytest.mark.parametrize("schedule", [schedules.EDM(), schedules.Flow()], ids=repr)
def test_noise_levels_that_are_no_numbers_are_refused(schedule, grid, low, high):
    """Flow's σ_T is infinite, and a grid from there would be T, NaN, …, NaN, 0."""
    most = "σ_T = 80" if isinstance(schedule, schedules.EDM) else "any finite σ"
    with pytest.raises(ValueError, match=f"expected 0 < sigma_min < sigma_max ≤ {most}, got {low:g} and {high:g}"):
        grid(schedule, 10, sigma_min=low, sigma_max=high)


@pytest.mark.parametrize("rho", [0, -7, 0.5, 1001, math.nan, math.inf])
def test_an_exponent_that_makes_no_grid_is_refused(rho):
    """σ^{1/ρ} with ρ < 1 loses σ_min beside σ_max, as a sum of floats, and with ρ → ∞ all are 1."""
    with pytest.raises(ValueError, match=f"rho must lie in 1 … 1000, got {rho}; 7 is the usual choice"):
        karras_times(schedules.EDM(), 10, rho)


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=repr)
def test_between_the_least_and_the_largest_exponent_grids_fall(schedule):
    for rho in (1, 1000):
        times = karras_times(schedule, 50, rho)
        assert check_times(schedule, times) == times
    # ρ → ∞ is the grid that is even in log σ, up to (log σ_max/σ_min)²/ρ of it.
    near, even = karras_times(schedules.EDM(), 10, 1000)[:-1], log_snr_times(schedules.EDM(), 10)[:-1]
    assert np.log(near) == pytest.approx(np.log(even), abs=math.log(80 / 0.002) ** 2 / 8 / 1000 * 1.01)


@pytest.mark.parametrize("steps", [math.nan, math.inf, "5", None, 5.0])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_steps_that_are_no_whole_number_are_refused(grid, steps):
    with pytest.raises(ValueError, match=rf"steps must be an integer in 1 … T = 100, got {steps!r}"):
        grid(SCHEDULE, steps)


def test_a_grid_is_checked_against_a_schedule():
    with pytest.raises(ValueError, match="the first argument is a schedule, got 10"):
        check_times(10, [10, 0])


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_a_number_in_the_place_of_the_schedule_is_refused(grid):
    with pytest.raises(ValueError, match="schedule"):
        grid(1000, 50)


@pytest.mark.parametrize("steps", [0, -3, 0.5])
def test_a_continuous_grid_without_a_step_is_refused(steps):
    with pytest.raises(ValueError, match="steps must be an integer above 0, got"):
        uniform_times(schedules.Flow(), steps)


def test_real_times_are_kept_in_double_precision():
    """0.1 in float32 is more than 0.1: a grid from there would start beyond T."""
    schedule = schedules.EDM(sigma_max=0.1)
    assert check_times(schedule, [0.1, 0.01, 0.0]) == [0.1, 0.01, 0.0]


@given(st.integers(2, 1200).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T))))
def test_uniform_times_fall_evenly_from_noise_to_data(sizes):
    """A grid that never reaches T, or never reaches 0, cannot be made."""
    T, steps = sizes
    schedule = schedules.linear(T)
    times = uniform_times(schedule, steps)
    assert (times[0], times[-1], len(times)) == (T, 0, steps + 1)
    assert all(t > s for t, s in pairwise(times))
    assert all(abs(t - (T - k * T / steps)) <= 0.5 + 1e-9 for k, t in enumerate(times))
    assert all(type(t) is int for t in times)
    assert check_times(schedule, times) == times


def test_a_full_grid_visits_every_time():
    assert uniform_times(schedules.linear(), 1000) == list(range(1000, -1, -1))


def test_the_trailing_grid_of_diffusers_is_ours():
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    theirs = DDIMScheduler(timestep_spacing="trailing")
    for steps in (1, 4, 10, 50, 250):
        theirs.set_timesteps(steps)
        assert [int(i) + 1 for i in theirs.timesteps] == uniform_times(schedules.linear(), steps)[:-1]


@pytest.mark.parametrize("steps", [0, -1, 101, 2.5])
def test_a_wish_for_an_impossible_number_of_steps_is_refused(steps):
    with pytest.raises(ValueError, match=r"steps must be an integer in 1 … T = 100, got"):
        uniform_times(SCHEDULE, steps)


@pytest.mark.parametrize(("times", "steps"), [(10, 10), (None, 50), (torch.tensor(7), 50), (iter([9, 0]), 50)])
def test_a_number_of_steps_is_no_grid(times, steps):
    advice = re.escape(f"make a grid such as uniform_times(schedule, {steps})")
    with pytest.raises(ValueError, match=f"a time grid is a list of times, got .*; {advice}"):
        check_times(SCHEDULE, times)


@pytest.mark.parametrize("times", [[100, 40, 0], (100, 40, 0), torch.tensor([100, 40, 0]), range(100, -1, -50)])
def test_a_grid_may_be_any_sequence_of_integers(times):
    assert check_times(SCHEDULE, times) == [int(t) for t in times]


def test_a_grid_may_start_below_T():
    """As editing does, which starts from a picture with some noise on it."""
    assert check_times(SCHEDULE, [60, 30, 0]) == [60, 30, 0]


@pytest.mark.parametrize("times", [[], [0], [100], torch.tensor([5])])
def test_a_grid_without_two_ends_is_refused(times):
    with pytest.raises(ValueError, match=r"at least a start and an end, got .* try uniform_times\(schedule, 50\)"):
        check_times(SCHEDULE, times)


@pytest.mark.parametrize("times", [[100, 50, 50, 0], [0, 50, 100], [100, 0, 10, 0], [50, 60, 0]])
def test_a_grid_that_does_not_fall_is_refused(times):
    with pytest.raises(ValueError, match="must fall strictly from noise to data, got"):
        check_times(SCHEDULE, times)


@pytest.mark.parametrize("times", [[100, 50, 1], [100, 99], list(range(100, 0, -1))])
def test_a_grid_that_leaves_noise_is_refused(times):
    with pytest.raises(ValueError, match=r"end at the data, t = 0, got an end of \d+: the last step would leave noise"):
        check_times(SCHEDULE, times)


@pytest.mark.parametrize("times", [[101, 50, 0], [100, 0, -1], [1000, 500, 0]])
def test_a_grid_outside_the_schedule_is_refused(times):
    with pytest.raises(ValueError, match=r"t must lie in 0 … 100 \(0 is data, 100 is noise\)"):
        check_times(SCHEDULE, times)


@pytest.mark.parametrize("times", [[99.9, 50.5, 0.0], torch.linspace(100, 0, 5), [True, False]])
def test_a_grid_of_fractions_is_refused(times):
    """Cut to integers it would step to other times than the caller's."""
    with pytest.raises(ValueError, match="t must be an integer in 0 … 100, got dtype"):
        check_times(SCHEDULE, times)


def test_a_long_grid_is_not_printed_in_full():
    with pytest.raises(ValueError, match=r"got \[0, 1, 2, 3, …, 98, 99\]$"):
        check_times(SCHEDULE, list(range(100)))
