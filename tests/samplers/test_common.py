"""What the samplers share, and what holds for each of them."""

import inspect
import re
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from _support.walks import (
    CONTINUOUS_ONLY,
    DETERMINISTIC,
    GRIDS,
    SAMPLERS,
    SCHEDULE,
    TWO_EVALUATIONS,
    on,
    perfect_network,
)
from diffusion_book import denoise, guidance, predictions, process, samplers, schedules
from diffusion_book.data import ring_of_gaussians
from diffusion_book.samplers import (
    Step,
    ddim,
    ddim_invert,
    karras_times,
    leading_times,
    log_snr_times,
    quadratic_times,
    start_noise,
    uniform_times,
    walk,
)
from diffusion_book.samplers.common import combine, denoise_at

ZERO_SNR = schedules.zero_terminal_snr(SCHEDULE)
RING = ring_of_gaussians()

every_sampler = pytest.mark.parametrize("name", SAMPLERS)


def noise(seed: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return start_noise((5, 2), generator, dtype), generator


ALL_SCHEDULES = [
    SCHEDULE,
    schedules.cosine(100),  # a(T) is 5e-5, and x̂0 read off an ε explodes there
    ZERO_SNR,
    schedules.Flow(),
    schedules.EDM(),
    schedules.VP(),
    schedules.Cosine(),
    SCHEDULE.continuous(),
    ZERO_SNR.continuous(),
]


@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=repr)
@every_sampler
def test_data_at_one_point_is_found_exactly_on_every_schedule_and_grid(name, schedule):
    """A last step that leaves noise, or divides by zero at σ = 0 or by a(T) = 0 at σ = ∞, would miss the point.

    The denoiser of a data set with one member knows the answer, and the last step returns it to the last digit.
    """
    discrete = isinstance(schedule, schedules.Discrete)
    point = torch.tensor([0.3, -1.2], dtype=torch.float64)
    for grid in GRIDS if discrete else [grid for grid in GRIDS if grid is not leading_times]:
        for steps in (1, 2, 3, 7):
            generator = torch.Generator().manual_seed(steps)
            x = start_noise((5, 2), generator, torch.float64, schedule=schedule)
            times, seen = grid(schedule, steps), []
            sampled = SAMPLERS[name](
                lambda xt, t: point.expand_as(xt),
                schedule.continuous() if discrete and name in CONTINUOUS_ONLY else schedule,
                x,
                times,
                generator,
                seen.append,
            )
            assert torch.equal(sampled, point.expand(5, 2)), (grid.__name__, steps)
            assert [(step.t, step.s) for step in seen] == list(pairwise(times))
            assert all(bool(torch.isfinite(step.xs).all()) for step in seen)


@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=repr)
@every_sampler
def test_every_prediction_on_every_grid_is_the_exact_denoiser(name, schedule, same_noise):
    """A perfect network of any face walks as the denoiser that it is: alone as amid others, in single as in double.

    Where nothing of x0 is left at T, ε and the score cannot say it, and that is told.
    """
    grids = GRIDS if isinstance(schedule, schedules.Discrete) else [g for g in GRIDS if g is not leading_times]
    on_grid, schedule = schedule, on(name, schedule) if isinstance(schedule, schedules.Discrete) else schedule
    exact = denoise.exact(RING, schedule)

    def sample(denoiser: denoise.Denoiser, seeds: list[int], dtype: torch.dtype = torch.float64) -> torch.Tensor:
        x = start_noise((len(seeds), 2), samplers.seeded(seeds), torch.float64, schedule=schedule).to(dtype)
        seen: list[Step] = []
        found = SAMPLERS[name](denoiser, schedule, x, times, samplers.seeded(seeds), seen.append)
        assert torch.equal(found, seen[-1].x0_hat)  # so the last step left no noise
        assert found.dtype == dtype
        assert all(bool(torch.isfinite(step.xs).all()) for step in seen)
        return found

    for grid in grids:
        times = grid(on_grid, 3)
        expected = sample(exact, [1, 2])
        for prediction in predictions.PREDICTIONS:
            network = perfect_network(exact, schedule, prediction)
            denoiser = denoise.from_network(network, schedule, prediction)
            if prediction in ("eps", "score") and schedule.ends_in_noise:
                with pytest.raises(ValueError, match=f"x0 cannot be read off {prediction}"):
                    sample(denoiser, [2])
                continue
            torch.testing.assert_close(sample(denoiser, [2])[0], expected[1], rtol=0, atol=1e-11)
            if grid in (uniform_times, quadratic_times):
                # A rounding is 6e-8 of x_t, and b/a times that where x̂0 is read off ε; the ring's modes magnify it.
                large = float(schedule.at(schedule.T).sigma) if prediction in ("eps", "score") else schedule.prior_std
                single = sample(denoiser, [1, 2], torch.float32)
                torch.testing.assert_close(single.double(), expected, rtol=0, atol=2e-5 + 1e-6 * large)


@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=repr)
@every_sampler
def test_the_ring_is_sampled_on_every_schedule(name, schedule):
    """The exact denoiser, 60 steps even in log-SNR: each example ends within four standard deviations of a blob."""
    if name in CONTINUOUS_ONLY and isinstance(schedule, schedules.Discrete):
        schedule = schedule.continuous()
    generator = torch.Generator().manual_seed(1)
    x = start_noise((64, 2), generator, torch.float64, schedule=schedule)
    found = SAMPLERS[name](denoise.exact(RING, schedule), schedule, x, log_snr_times(schedule, 60), generator)
    distance = torch.cdist(found, RING.mean).min(1).values
    assert distance.max().item() < 4.5 * 0.15
    assert len(set(torch.cdist(found, RING.mean).argmin(1).tolist())) == 8  # all of them, by 64 examples


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "ddpm_learned"])
def test_a_learned_variance_is_left_aside_by_who_has_no_use_for_it(name):
    schedule, exact = on(name), denoise.exact(RING, on(name))

    def with_variance(xt: torch.Tensor, t: torch.Tensor) -> denoise.Estimate:
        return denoise.Estimate(exact(xt, t), torch.full_like(xt, float("nan")))

    found, expected = (
        SAMPLERS[name](denoiser, schedule, *noise(0)[:1], uniform_times(SCHEDULE, 9), noise(0)[1])
        for denoiser in (with_variance, exact)
    )
    assert torch.equal(found, expected)


@every_sampler
def test_the_last_step_returns_the_denoised_x0(name):
    steps: list[Step] = []
    x, generator = noise(0)
    schedule = on(name)
    x0 = SAMPLERS[name](denoise.exact(RING, schedule), schedule, x, uniform_times(SCHEDULE, 9), generator, steps.append)
    assert torch.equal(x0, steps[-1].x0_hat)


@every_sampler
def test_the_callback_sees_every_step_without_copies(name):
    """It is handed the sampler's own tensors, which nobody writes into afterwards."""
    steps: list[Step] = []
    kept: list[torch.Tensor] = []
    given: set[int] = set()
    times = uniform_times(SCHEDULE, 9)
    x, generator = noise(1)
    schedule = on(name)
    exact = denoise.exact(RING, schedule)

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x0_hat = exact(xt, t)
        given.add(x0_hat.data_ptr())
        kept.append(x0_hat)  # so that no address is used twice
        return x0_hat

    copies = []
    x0 = SAMPLERS[name](
        denoiser, schedule, x, times, generator, lambda step: (steps.append(step), copies.append(step.xs.clone()))
    )
    assert [(step.t, step.s) for step in steps] == list(pairwise(times))
    assert x0.data_ptr() == steps[-1].xs.data_ptr()
    assert len({step.xs.data_ptr() for step in steps}) == 9  # each keeps its own picture
    assert all(torch.equal(step.xs, copy) for step, copy in zip(steps, copies))
    assert all(step.x0_hat.data_ptr() in given for step in steps)
    assert all(step.xs.shape == step.x0_hat.shape == x.shape for step in steps)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "heun_churn"])
def test_the_denoiser_is_asked_at_the_times_of_the_grid(name):
    """A step that disagrees with its own grid: each x̂0 must be asked for at the time that x_t is at."""
    asked, steps = [], []
    times = [100, 63, 20, 3, 0]
    exact = denoise.exact(RING, SCHEDULE)

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert t.dtype == torch.int64
        assert t.shape == (5,)
        assert t.unique().numel() == 1
        asked.append((int(t[0]), xt))
        return exact(xt, t)

    x, generator = noise(2)
    SAMPLERS[name](denoiser, SCHEDULE, x, times, generator, steps.append)
    expected = times[:1]
    for t, s in pairwise(times[:-1]):
        short = name != "heun" or SCHEDULE.at(t).sigma <= 3 * SCHEDULE.at(s).sigma
        expected += [s, s] if name in TWO_EVALUATIONS and short else [s]
    assert [t for t, _ in asked] == expected
    # What is denoised next is what the last step arrived at, at that time.
    for step in steps[:-1]:
        assert any(t == step.s and torch.equal(step.xs, xt) for t, xt in asked)


@every_sampler
def test_real_times_are_told_in_double_precision(name):
    asked = []
    schedule, times = schedules.Flow(), [0.9, 0.7, 0.1, 0.0]
    exact = denoise.exact(RING, schedule)
    x, generator = noise(2, torch.float32)
    SAMPLERS[name](lambda xt, t: asked.append(t) or exact(xt, t), schedule, x, times, generator)
    assert all(t.dtype == torch.float64 for t in asked)
    assert {0.7, 0.1} <= {float(t[0]) for t in asked} or name == "heun_churn"  # which also visits times above these


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_sampler
def test_what_goes_in_as_float32_comes_out_as_float32(name, dtype):
    """Whatever the dtype of the denoiser's own arithmetic."""
    for answer in (torch.float32, torch.float64):
        schedule, steps = on(name), []
        exact = denoise.exact(RING, schedule)
        x, generator = noise(3, dtype)
        x0 = SAMPLERS[name](
            lambda xt, t: exact(xt, t).to(answer),  # noqa: B023
            schedule,
            x,
            uniform_times(SCHEDULE, 9),
            generator,
            steps.append,
        )
        assert x0.dtype == dtype
        assert {step.xs.dtype for step in steps} == {dtype}


@pytest.mark.parametrize("schedule", [schedules.linear(), schedules.cosine(), schedules.Flow()], ids=repr)
@every_sampler
def test_single_precision_follows_double(name, schedule, same_noise):
    """Also on the cosine schedule, whose σ at T is 20,000: no step may subtract numbers of that size.

    The same noise is drawn for both. The denoiser contracts, so that the rounding of each step is all that differs.
    """
    if name in CONTINUOUS_ONLY and isinstance(schedule, schedules.Discrete):
        schedule = schedule.continuous()
    for steps in (3, 20):
        found = []
        for dtype in (torch.float32, torch.float64):
            x, generator = noise(4)
            times = uniform_times(schedule, steps)
            found.append(SAMPLERS[name](lambda xt, t: 0.5 * xt.tanh(), schedule, x.to(dtype), times, generator))
        # A rounding is 6e-8 and x a few units; some twenty steps and the multistep weights, up to tens, add them up.
        torch.testing.assert_close(found[0].double(), found[1], rtol=0, atol=2e-5)


@every_sampler
def test_a_seed_gives_one_picture(name):
    schedule = on(name)
    first, second, other = (
        SAMPLERS[name](denoise.exact(RING, schedule), schedule, x, uniform_times(SCHEDULE, 9), generator)
        for x, generator in map(noise, (5, 5, 6))
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@every_sampler
def test_noise_is_drawn_from_the_generator_alone(name):
    """A deterministic sampler leaves it alone; none touches the global one."""
    x, generator = noise(5)
    before, everywhere = generator.get_state(), torch.get_rng_state()
    schedule = on(name)
    SAMPLERS[name](denoise.exact(RING, schedule), schedule, x, uniform_times(SCHEDULE, 9), generator)
    assert torch.equal(torch.get_rng_state(), everywhere)
    assert torch.equal(generator.get_state(), before) is (name in DETERMINISTIC)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in DETERMINISTIC])
def test_the_last_step_draws_no_noise(name):
    """As many draws as there are steps before it: two for a corrected one, and no more."""
    x, generator = noise(5)
    other = torch.Generator()
    other.set_state(generator.get_state())
    schedule = on(name)
    SAMPLERS[name](denoise.exact(RING, schedule), schedule, x, [90, 40, 10, 0], generator)
    # Churn draws before a step, so also before the last; 90 is so near to T = 100 that there is no room for it.
    for _ in range(4 if name == "predictor_corrector" else 2):
        torch.randn(5, 2, generator=other, dtype=torch.float64)
    assert torch.equal(generator.get_state(), other.get_state())


@pytest.mark.parametrize("seeds", [[7], [3, 7, 5], [1, 2, 3, 4, 5, 6, 7]], ids=len)
@every_sampler
def test_an_examples_seed_is_its_own_in_any_batch_and_position(name, seeds):
    """With a generator for each example, seed 7 gives the same example alone, amid three and at the end of seven."""
    schedule = on(name)

    def sample(seeds: list[int]) -> torch.Tensor:
        generators = samplers.seeded(seeds)
        x = start_noise((len(seeds), 2), generators, torch.float64)
        return SAMPLERS[name](denoise.exact(RING, schedule), schedule, x, uniform_times(SCHEDULE, 9), generators)

    # Sums over components may be vectorised otherwise in another batch: roundings, magnified by the ring's modes.
    torch.testing.assert_close(sample(seeds)[seeds.index(7)], sample([7])[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in DETERMINISTIC])
def test_a_wrong_number_of_generators_is_refused(name):
    x, _ = noise(6)
    with pytest.raises(ValueError, match="give one generator for each of the 5 examples, got 2"):
        SAMPLERS[name](lambda xt, t: 0.5 * xt, on(name), x, [90, 50, 0], samplers.seeded([1, 2]))


@every_sampler
def test_the_start_and_the_denoisers_answers_are_left_as_they_were(name):
    x, generator = noise(7)
    before, answers = x.clone(), []
    schedule = on(name)
    exact = denoise.exact(RING, schedule)

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        answers.append((exact(xt, t), exact(xt, t)))
        return answers[-1][0]

    SAMPLERS[name](denoiser, schedule, x, uniform_times(SCHEDULE, 5), generator)
    assert torch.equal(x, before)
    assert all(torch.equal(given, copy) for given, copy in answers)


@every_sampler
def test_images_of_any_shape_are_sampled(name, generator):
    for shape in ((1, 1), (3,), (2, 3, 4, 4), (2, 1, 3, 2, 2), (0, 2)):
        x = start_noise(shape, generator)
        found = SAMPLERS[name](lambda xt, t: 0.5 * xt, on(name), x, uniform_times(SCHEDULE, 4), generator)
        assert found.shape == shape


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@every_sampler
def test_nan_from_the_network_stops_the_walk_and_names_time_and_step(name, bad):
    """NaN, then black images, under mixed precision: the first bad number is reported where it appears."""

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x0_hat = torch.zeros_like(xt)
        x0_hat[-1, -1] = bad if t[0] <= 40 else 0.0  # one number of one example is enough
        return x0_hat

    x, generator = noise(9)
    step = 2 if name in TWO_EVALUATIONS else 3
    message = f"NaN or infinity at t = 40 (step {step} of 4); look at its output"
    with pytest.raises(FloatingPointError, match=re.escape(message)):
        SAMPLERS[name](denoiser, on(name), x, [100, 80, 40, 20, 0], generator)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("how", ["clipped", "static", "dynamic"])
def test_clipping_does_not_hide_an_infinite_output(how, bad):
    """Half precision overflows to infinity; clipped to the range of the data it would be a black picture."""

    def network(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        output = torch.zeros_like(xt)
        output[-1, 3] = bad if t[0] <= 40 else 0.0
        return output

    denoiser = denoise.from_network(network, SCHEDULE, "eps", x0_max=1.0 if how == "clipped" else None)
    if how != "clipped":
        denoiser = guidance.threshold(denoiser, 1.0, 1.0 if how == "static" else 0.5)
    x = start_noise((4, 9), torch.Generator().manual_seed(0))
    with pytest.raises(FloatingPointError, match=re.escape("NaN or infinity at t = 40 (step 3 of 4)")):
        SAMPLERS["ddim"](denoiser, SCHEDULE, x, [100, 80, 40, 20, 0], None)


@every_sampler
def test_numbers_whose_sum_overflows_are_not_taken_for_infinity(name):
    x, generator = noise(9, torch.float32)
    found = SAMPLERS[name](lambda xt, t: torch.full_like(xt, 3e38), on(name), 0 * x, [3, 0], generator)
    assert torch.equal(found, torch.full_like(x, 3e38))


@every_sampler
def test_a_denoiser_of_another_shape_is_refused(name):
    x, generator = noise(10)
    with pytest.raises(ValueError, match=r"x̂0 of shape \(5, 2\), got \(5, 1\) at t = 100"):
        SAMPLERS[name](lambda xt, t: xt[:, :1], on(name), x, [100, 0], generator)


@every_sampler
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: SimpleNamespace(sample=x), "got SimpleNamespace; pass lambda x, t: net(x, t).sample"),
        (lambda x: (x,), "got tuple; pass lambda x, t: net(x, t)[0]"),
        (lambda x: None, "got NoneType; return it as torch.Tensor"),
        (lambda x: x.numpy(), "got ndarray; return it as torch.Tensor"),
    ],
)
def test_a_denoiser_that_returns_no_tensor_is_refused(name, answer, message):
    sampler = SAMPLERS["ddpm" if name == "ddpm_learned" else name]  # whose v here needs a tensor
    with pytest.raises(ValueError, match=re.escape(f"the denoiser must return a tensor, {message}")):
        sampler(lambda xt, t: answer(xt), on(name), torch.zeros(5, 2), [100, 50, 0], torch.Generator())


@every_sampler
def test_a_start_that_is_no_tensor_is_refused(name):
    with pytest.raises(ValueError, match=r"a batch must be floating point, got NoneType; start from start_noise"):
        SAMPLERS[name](lambda xt, t: xt, on(name), None, [100, 50, 0], torch.Generator())


@every_sampler
def test_a_number_of_steps_in_the_place_of_the_grid_is_refused(name):
    with pytest.raises(ValueError, match=r"got 10; make a grid such as uniform_times\(schedule, 10\)"):
        SAMPLERS[name](lambda xt, t: xt, on(name), torch.zeros(5, 2), 10, torch.Generator())


def test_one_number_is_no_shape_of_a_batch():
    with pytest.raises(ValueError, match=r"shape is that of the batch, \[B, …\], such as \(4, 1, 28, 28\); got 4"):
        start_noise(4, torch.Generator())


@every_sampler
def test_a_bad_grid_is_refused_before_the_network_is_asked(name):
    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the network was asked")

    x, generator = noise(11)
    fractions = [] if name in CONTINUOUS_ONLY else [[100.0, 0.0], torch.linspace(100, 0, 5)]
    for times in ([100, 50, 10], [50, 100, 0], [100, 50, 50, 0], [101, 0], [100, -1], [0], [], *fractions):
        with pytest.raises(ValueError, match=r"time grid|t must"):
            SAMPLERS[name](denoiser, on(name), x, times, generator)
    with pytest.raises(ValueError, match=r"time grid|t must"):
        SAMPLERS[name](denoiser, schedules.Flow(), x, [1.0, float("nan"), 0.0], generator)


@every_sampler
def test_a_start_of_integers_is_refused(name):
    with pytest.raises(ValueError, match=r"a batch must be floating point, got torch\.int64"):
        SAMPLERS[name](lambda xt, t: xt, on(name), torch.zeros(2, 2, dtype=torch.long), [100, 0], torch.Generator())


@pytest.mark.parametrize("prediction", ["eps", "v"])
@every_sampler
def test_a_clip_keeps_x0_from_exploding_at_the_noisy_end_of_cosine(name, prediction):
    """There a(T) = 5e-5: an ε that is off by 0.01 says an x0 of 200, unless x0_max holds it to the data's range."""
    schedule = on(name, schedules.cosine())

    def network(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 0.99 * xt if prediction == "eps" else 0.01 * xt

    x, generator = noise(12, torch.float32)
    denoiser = denoise.from_network(network, schedule, prediction, x0_max=1.0)
    steps: list[Step] = []
    grid = karras_times if name.startswith("heun") else uniform_times  # see the docstring of `heun`
    SAMPLERS[name](denoiser, schedule, x, grid(schedules.cosine(), 20), generator, steps.append)
    assert max(step.x0_hat.abs().max().item() for step in steps) <= 1
    # |x_t| ≤ a + b |noise|, and no noise of these few draws is beyond five; the multistep weights may double it.
    assert max(step.xs.abs().max().item() for step in steps) < 10


def test_the_start_is_standard_normal_and_the_seeds_own(generator):
    x = start_noise((200, 50), generator, torch.float64)
    assert abs(x.mean().item()) < 4 / 100  # four standard errors of 10,000 draws
    assert abs(x.var().item() - 1) < 4 * 2**0.5 / 100
    again = start_noise([200, 50], torch.Generator().manual_seed(generator.initial_seed()), torch.float64, "cpu")
    assert torch.equal(x, again)


@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=repr)
def test_the_start_has_the_schedules_own_scale(schedule):
    one, other = torch.Generator().manual_seed(2), torch.Generator().manual_seed(2)
    found = start_noise((4, 3), one, schedule=schedule)
    assert found.dtype == torch.float32
    _, a, b = map(float, schedule.at(schedule.T))
    torch.testing.assert_close(found, (a**2 + b**2) ** 0.5 * start_noise((4, 3), other))


def test_denoise_at_tells_the_time_to_the_whole_batch():
    seen, (first, _) = [], walk(SCHEDULE, [17, 5, 0])
    denoise_at(lambda xt, t: seen.append(t.tolist()) or xt, torch.zeros(3, 2), first)
    denoise_at(lambda xt, t: seen.append(t.tolist()) or xt, torch.zeros(3, 2), first, first.s)
    assert seen == [[17, 17, 17], [5, 5, 5]]


@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=repr)
def test_the_moves_of_a_walk_hold_the_schedules_own_numbers(schedule):
    """To the last digit those of `at` and of the posterior, one time after the other."""
    times = uniform_times(schedule, 7)
    moves = walk(schedule, times)
    assert [(m.t, m.s) for m in moves] == list(pairwise(times))
    assert [(m.number, m.of) for m in moves] == [(i, 7) for i in range(1, 8)]
    for m in moves:
        at_t, at_s = schedule.at(m.t), schedule.at(m.s)
        assert (m.a_t, m.b_t, m.a_s, m.b_s) == tuple(map(float, (at_t.a, at_t.b, at_s.a, at_s.b)))
        assert (m.sigma_t, m.sigma_s) == (float(at_t.sigma), float(at_s.sigma))
        assert (m.c_0, m.c_t, m.std) == tuple(map(float, process.posterior_coefficients(schedule, m.t, m.s)))
        assert {type(value) for value in m[2:9]} == {float}


@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=repr)
def test_a_move_of_each_example_is_ddims_step(schedule, generator):
    """`process.move` at [B] times, one for each example, and `ddim` on each of them alone."""
    x, x0 = (start_noise((6, 2), generator, torch.float64) for _ in range(2))
    times = uniform_times(schedule, 7)
    found = process.move(schedule, x, x0, times[:6], times[1:7])
    for i in range(6):
        steps: list[Step] = []
        grid = sorted({times[i], times[i + 1], 0}, reverse=True)
        ddim(lambda xt, t: x0[i : i + 1], schedule, x[i : i + 1], grid, callback=steps.append)  # noqa: B023
        torch.testing.assert_close(found[i : i + 1], steps[0].xs, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("schedule", [SCHEDULE, schedules.Flow(), schedules.EDM(), schedules.VP()], ids=repr)
def test_a_move_there_and_back_changes_nothing(schedule, generator):
    """With one x̂0 it is the line x = a x̂0 + b ε̂, walked either way."""
    x, x0 = (start_noise((5, 2), generator, torch.float64, schedule=schedule) for _ in range(2))
    t, s = torch.full((5,), schedule.T), schedule.time_at(torch.full((5,), 1.0))
    there = process.move(schedule, x, x0, t, s)
    torch.testing.assert_close(process.move(schedule, there, x0, s, t), x, rtol=1e-12, atol=1e-12)
    _, a, b = schedule.at(t).like(x)
    _, a_s, b_s = schedule.at(s).like(x)
    torch.testing.assert_close(there, a_s * x0 + b_s * (x - a * x0) / b, rtol=1e-12, atol=1e-12)


def test_a_move_is_checked():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"x̂0 must have the shape of x_t, \(2, 3\), got \(2, 1\)"):
        process.move(SCHEDULE, x, x[:, :1], 5, 4)
    with pytest.raises(ValueError, match=r"t must lie in 1 … 100"):
        process.move(SCHEDULE, x, x, 0, 4)
    with pytest.raises(ValueError, match=r"t must lie in 0 … 100"):
        process.move(SCHEDULE, x, x, 4, 101)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_a_sampler_by_name_is_its_loop_on_its_grid(name, generator):
    """Called like every other; who draws no noise leaves the generator aside, and who does draws from it."""
    sampler = samplers.by_name(name.replace("_", "-").upper())
    assert sampler is samplers.SAMPLERS[name]
    times = sampler.grid(SCHEDULE, 6)
    assert times == {"ddim": uniform_times, "euler": karras_times}.get(name, sampler.grid)(SCHEDULE, 6)
    x, exact, seen = start_noise((4, 2), generator), denoise.exact(RING, SCHEDULE), []
    before = generator.get_state()
    found = sampler(exact, SCHEDULE, x, times, generator=generator, callback=seen.append)
    assert len(seen) == 6
    assert torch.equal(found, seen[-1].xs)
    assert torch.equal(before, generator.get_state()) == (not sampler.draws_noise)
    function = getattr(samplers, name, None)
    if function is not None:
        options = {"generator": generator} if sampler.draws_noise else {}
        generator.set_state(before)
        assert torch.equal(function(exact, SCHEDULE, x, times, **options), found)


def test_an_unknown_sampler_is_refused_with_the_list_of_known_ones():
    with pytest.raises(
        ValueError, match=r"unknown sampler 'huen' \(did you mean 'heun'\?\); choose one of ddpm, ddim,"
    ):
        samplers.by_name("huen")


@pytest.mark.parametrize("name", [*samplers.SAMPLERS, "ddim_invert", "probability_flow", "encode", "log_likelihood"])
def test_options_come_by_name_and_in_one_order(name):
    """The sampler's own, then the generator, then the callback, all behind what every sampler takes."""
    loop = samplers.SAMPLERS[name].loop if name in samplers.SAMPLERS else getattr(samplers, name)
    loop = getattr(loop, "func", loop)
    parameters = inspect.signature(loop).parameters
    places = [p.name for p in parameters.values() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    options = [p.name for p in parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert places[:2] == ["denoiser", "schedule"]
    assert places[2:] in (["xt", "times"], ["x0", "times"], ["xt"], ["x0"])
    last = [option for option in ("generator", "callback") if option in options]
    assert options[len(options) - len(last) :] == last


def test_combine_is_the_sum_that_it_says(generator):
    x, *others = (start_noise((4, 3), generator, torch.float64) for _ in range(4))
    before = [tensor.clone() for tensor in (x, *others)]
    found = combine(0.3, x, *zip((1.5, -2.0, 0.0), others))
    torch.testing.assert_close(found, 0.3 * x + 1.5 * others[0] - 2 * others[1])
    assert all(torch.equal(one, other) for one, other in zip((x, *others), before))


def test_combine_keeps_half_precision_in_its_range(generator):
    """At σ = 10⁻³ → 10⁻⁸ the coefficients of x_t and x̂0 are 10⁵ apart, which half precision does not reach."""
    x, y = (start_noise((4, 3), generator, torch.float64).half() for _ in range(2))
    for c_t, c_0 in ((1e-5, 1.0), (1.0, 1e-5), (-1e-6, 3.0), (3.0, -1e-6)):
        found = combine(c_t, x, (c_0, y))
        torch.testing.assert_close(found.double(), c_t * x.double() + c_0 * y.double(), rtol=2e-3, atol=1e-4)


def test_inversion_is_checked_like_every_walk():
    """NaN named with its step, counted from the data; float32 stays float32; the start is left as it was."""
    x = torch.ones(2, 2)
    found = ddim_invert(lambda xt, t: 0.5 * xt.double(), SCHEDULE, x, [60, 30, 0])
    assert found.dtype == torch.float32
    assert torch.equal(x, torch.ones(2, 2))
    for bad, message in ((30, "at t = 30 (step 1 of 3)"), (60, "at t = 60 (step 2 of 3)")):
        with pytest.raises(FloatingPointError, match=re.escape(f"NaN or infinity {message}")):
            ddim_invert(lambda xt, t: xt / (t[0] != bad), SCHEDULE, x, [90, 60, 30, 0])  # noqa: B023
