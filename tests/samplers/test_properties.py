"""Schedules × predictions × samplers × grids, drawn together: what holds for all of them, whatever their numbers."""

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from _support.walks import CONTINUOUS_ONLY, GRIDS, SAMPLERS, perfect_network
from diffusion_book import denoise, predictions, samplers, schedules
from diffusion_book.samplers import Step, leading_times, probability_flow, start_noise

TOLERANCE = 1e-5  # of the adaptive solver
EVERYONE = SAMPLERS | {
    "probability-flow": lambda d, s, x, times, g, callback=None: probability_flow(
        d, s, x, sigma_min=1e-2, rtol=TOLERANCE, atol=TOLERANCE, callback=callback
    )
}

T = st.integers(8, 60)
small, large = st.floats(1e-4, 1e-2), st.floats(1e-2, 0.3)
DISCRETE = st.one_of(
    st.builds(schedules.linear, T, small, large),
    st.builds(schedules.scaled_linear, T, small, large),
    st.builds(schedules.cosine, T, st.floats(0, 0.1), st.floats(0.8, 0.9999)),
    st.builds(schedules.sigmoid, T, st.floats(-6, -1), st.floats(1, 6), st.floats(0.5, 2)),
    st.builds(schedules.Discrete, st.lists(st.floats(1e-3, 0.5), min_size=8, max_size=30).map(torch.tensor)),
)
DISCRETE |= DISCRETE.map(schedules.zero_terminal_snr)
REAL = st.one_of(
    st.just(schedules.Flow()),
    st.builds(schedules.EDM, st.floats(1, 200), st.floats(0.1, 2)),
    st.builds(schedules.VP, st.floats(0.01, 1), st.floats(5, 20)),
    st.builds(schedules.Cosine, st.floats(0.1, 4)),
    DISCRETE.map(schedules.Discrete.continuous),
)


def gaussian(schedule: schedules.Schedule) -> denoise.Denoiser:
    """The exact denoiser of N(0.3, 0.6²) data in every coordinate, which contracts."""

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        _, a, b = schedule.at(t).like(xt)
        return 0.3 + 0.36 * a / (0.36 * a**2 + b**2) * (xt - 0.3 * a)

    return denoiser


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    schedule=DISCRETE | REAL,
    prediction=st.sampled_from(predictions.PREDICTIONS),
    name=st.sampled_from(sorted(EVERYONE)),
    grid=st.sampled_from(GRIDS),
    steps=st.integers(1, 8),
    seeds=st.lists(st.integers(0, 2**32), min_size=1, max_size=4),
)
def test_a_perfect_network_walks_as_the_exact_denoiser(schedule, prediction, name, grid, steps, seeds, same_noise):
    """Finite at every step and without noise at the end, alone as in a batch, in single precision as in double.

    Where nothing of x0 is left at T, ε and the score cannot say it, and that is told.
    """
    discrete = isinstance(schedule, schedules.Discrete)
    assume(discrete or grid is not leading_times)
    times = grid(schedule, steps)
    if discrete and name in CONTINUOUS_ONLY | {"probability-flow"}:
        schedule = schedule.continuous()
    exact = gaussian(schedule)
    network = perfect_network(exact, schedule, prediction)
    asked: list[torch.Tensor] = []

    def sample(denoiser: denoise.Denoiser, seeds: list[int], dtype: torch.dtype = torch.float64) -> torch.Tensor:
        x = start_noise((len(seeds), 3), samplers.seeded(seeds), torch.float64, schedule=schedule).to(dtype)
        seen: list[Step] = []
        asked.clear()

        def counted(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            asked.append(t)
            return denoiser(xt, t)

        found = EVERYONE[name](counted, schedule, x, times, samplers.seeded(seeds), seen.append)
        assert found.dtype == dtype
        assert all(bool(torch.isfinite(step.xs).all()) for step in seen)
        assert torch.equal(found, seen[-1].x0_hat)
        return found

    denoiser = denoise.from_network(network, schedule, prediction)
    by_noise = prediction in ("eps", "score")
    if by_noise and schedule.ends_in_noise:
        with pytest.raises(ValueError, match=f"x0 cannot be read off {prediction}"):
            sample(denoiser, seeds)
        return
    expected, found = sample(exact, seeds), sample(denoiser, seeds)
    # A rounding of x̂0 is one of x_T, and b/a times that where it is read off ε. Evaluations, sixteen or as many as the
    # adaptive solver takes, add them up, each with weights whose sizes sum to a dozen in multistep methods, and to two
    # dozen in the adaptive one (23.1 for its fifth slope).
    large = max(1.0, float(schedule.at(schedule.T).sigma) if by_noise else schedule.prior_std)
    roundings = (32 if name == "probability-flow" else 16) * max(16, len(asked)) * large
    close = {dtype: roundings * torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64)}
    if name == "probability-flow":
        close[torch.float32] += TOLERANCE  # in single precision it may take other steps
    torch.testing.assert_close(found, expected, rtol=0, atol=close[torch.float64])
    torch.testing.assert_close(sample(denoiser, seeds[-1:])[0], found[-1], rtol=0, atol=close[torch.float64])
    single = sample(denoiser, seeds, torch.float32)
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=close[torch.float32])
