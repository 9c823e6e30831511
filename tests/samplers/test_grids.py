"""Time grids: what a sampler may visit."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_book import schedules
from diffusion_book.samplers import check_times, uniform_times

SCHEDULE = schedules.linear(100)


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
