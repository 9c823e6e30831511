"""Editing against what is known exactly: conditional Gaussians, and the algebra of each walk."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from diffusion_book import denoise, editing, guidance, process, schedules
from diffusion_book.data import GaussianMixture, ring_of_gaussians
from diffusion_book.samplers import (
    Step,
    check_times,
    ddim,
    ddpm,
    dpm_solver,
    heun,
    karras_times,
    start_noise,
    uniform_times,
    unipc,
)

SCHEDULE = schedules.linear(100)
RING = ring_of_gaussians()
RHO, KNOWN = 0.8, 1.5
COV = torch.tensor([[1.0, RHO], [RHO, 1.0]], dtype=torch.float64)
PAIR = GaussianMixture(torch.ones(1).double(), torch.zeros(1, 2).double(), COV[None])
FIRST = torch.tensor([[True, False]])


def noise(seed: int, *shape: int) -> tuple[Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return start_noise(shape, generator, torch.float64), generator


# Inpainting by replacement -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [ddim, heun, dpm_solver, unipc], ids=lambda sampler: sampler.__name__)
def test_what_is_known_comes_out_exactly(sampler):
    """Whatever the sampler: its last step returns x̂0. Outside the mask `known` may hold anything, even NaN."""
    known = torch.tensor([[0.7, math.nan]], dtype=torch.float64)
    x, _ = noise(0, 6, 2)
    guided = editing.inpaint(denoise.exact(RING, SCHEDULE), known, FIRST)
    found = sampler(guided, SCHEDULE, x, uniform_times(SCHEDULE, 20))
    assert bool((found[:, 0] == 0.7).all())
    assert bool(torch.isfinite(found).all())
    assert found[:, 1].std() > 0.1


def test_on_independent_numbers_replacement_is_exact(generator):
    """With a diagonal covariance the known part says nothing of the rest, which must come out as without it."""
    free = GaussianMixture(PAIR.weight, PAIR.mean, torch.diag(torch.tensor([0.5, 2.0]).double())[None])
    exact = denoise.exact(free, SCHEDULE)
    x, times = torch.randn(6, 2, generator=generator, dtype=torch.float64), uniform_times(SCHEDULE, 20)
    found = ddim(editing.inpaint(exact, torch.zeros(1, 2), FIRST), SCHEDULE, x, times)
    torch.testing.assert_close(found[:, 1], ddim(exact, SCHEDULE, x, times)[:, 1], rtol=1e-12, atol=1e-12)


def test_a_mask_of_one_picture_serves_a_batch_of_colours(generator):
    known = torch.randn(1, 3, 4, 4, generator=generator)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:, :2] = True
    found = editing.inpaint(lambda xt, t: 9 * torch.ones_like(xt), known, mask)(torch.zeros(2, 3, 4, 4), torch.ones(2))
    assert torch.equal(found[..., :2], known[..., :2].expand(2, 3, 4, 2))
    assert bool((found[..., 2:] == 9).all())


def test_guidance_goes_inside_and_the_picture_stays(generator):
    known, xt = torch.full((1, 2), 0.25), torch.randn(3, 2, generator=generator)
    strong = guidance.classifier_free(lambda xt, t: xt, lambda xt, t: -xt, 5.0)
    found = editing.inpaint(strong, known, FIRST)(xt, torch.ones(3))
    assert torch.equal(found[:, 0], torch.full((3,), 0.25))
    torch.testing.assert_close(found[:, 1], 9 * xt[:, 1])


# RePaint -------------------------------------------------------------------------------------------------------


def moments(schedule: schedules.Discrete, times: list[int], resamplings: int, jump: int) -> tuple[float, float]:
    """Mean and variance of the unknown number, exactly: on a Gaussian every move of the walk is affine.

    Written from the paper's algorithm in ᾱ, as maps of a mean and a covariance; nothing is sampled.
    """
    alpha_bar, eye = schedule.alpha_bar, torch.eye(2, dtype=torch.float64)
    mean, cov = torch.zeros(2, dtype=torch.float64), eye.clone()

    def towards_data(mean: Tensor, cov: Tensor, t: int, s: int) -> tuple[Tensor, Tensor]:
        now, then = alpha_bar[t], alpha_bar[s]
        alpha, beta = now / then, 1 - now / then
        gain = now.sqrt() * COV @ torch.linalg.inv(now * COV + (1 - now) * eye)  # x̂0 = gain x_t
        step = then.sqrt() * beta / (1 - now) * gain + alpha.sqrt() * (1 - then) / (1 - now) * eye
        mean, cov = step @ mean, step @ cov @ step.T + (1 - then) / (1 - now) * beta * eye
        mean[0], cov[0, :], cov[:, 0] = then.sqrt() * KNOWN, 0, 0  # independent of all before
        cov[0, 0] = 1 - then
        return mean, cov

    last = len(times) - 2
    for start in range(0, last, jump):
        stop = min(start + jump, last)
        for k in range(resamplings):
            if k > 0:
                alpha = alpha_bar[times[start]] / alpha_bar[times[stop]]
                mean, cov = alpha.sqrt() * mean, alpha * cov + (1 - alpha) * eye
            for i in range(start, stop):
                mean, cov = towards_data(mean, cov, times[i], times[i + 1])
    mean, cov = towards_data(mean, cov, times[last], 0)
    return mean[1].item(), cov[1, 1].item()


@pytest.mark.parametrize(("resamplings", "jump"), [(1, 1), (1, 4), (4, 1), (10, 1), (5, 3)])
def test_repaint_has_the_moments_of_its_algorithm(resamplings, jump):
    schedule, n = schedules.cosine(100), 4000
    times = uniform_times(schedule, 20)
    x, generator = noise(1, n, 2)
    known = torch.tensor([[KNOWN, 0.0]])
    found = editing.repaint(
        denoise.exact(PAIR, schedule),
        schedule,
        x,
        times,
        known=known,
        mask=FIRST,
        generator=generator,
        resamplings=resamplings,
        jump=jump,
    )
    mean, variance = moments(schedule, times, resamplings, jump)
    assert bool((found[:, 0] == KNOWN).all())
    assert abs(found[:, 1].mean().item() - mean) < 4 * (variance / n) ** 0.5
    assert abs(found[:, 1].var().item() - variance) < 4 * variance * (2 / n) ** 0.5


def test_resampling_brings_the_unknown_part_to_its_conditional_distribution():
    """x_1 | x_0 ~ N(ρ x_0, 1 − ρ²). Plain replacement misses more than a third of the mean, and each doubling of the
    rounds halves what is missed. The variance comes along on a fine grid; on a coarse one the posterior's variance,
    which is less than that of a reverse step, is taken too often."""
    schedule = schedules.cosine(1000)
    mean, variance = RHO * KNOWN, 1 - RHO**2
    found = [moments(schedule, uniform_times(schedule, 250), rounds, 1) for rounds in (1, 2, 4, 8, 16)]
    errors = [mean - m for m, _ in found]
    assert errors[0] > mean / 3
    assert all(0.4 < after / before < 0.6 for before, after in pairwise(errors))
    assert found[0][1] > 1.3 * variance
    fine = moments(schedule, uniform_times(schedule, 500), 16, 1)
    assert fine[1] == pytest.approx(variance, rel=0.05)
    assert abs(fine[1] - variance) < abs(found[-1][1] - variance)


def test_samples_show_that_plain_replacement_is_wrong_and_resampling_less():
    """The same by drawing, with the standard error of the draws as the measure."""
    schedule, n = schedules.cosine(1000), 3000
    mean, variance = RHO * KNOWN, 1 - RHO**2
    error = {}
    for rounds in (1, 10):
        x, generator = noise(2, n, 2)
        known = torch.tensor([[KNOWN, 0.0]])
        exact = denoise.exact(PAIR, schedule)
        found = editing.repaint(
            exact,
            schedule,
            x,
            uniform_times(schedule, 50),
            known=known,
            mask=FIRST,
            generator=generator,
            resamplings=rounds,
        )
        error[rounds] = abs(found[:, 1].mean().item() - mean) / (variance / n) ** 0.5
    assert error[1] > 20
    assert error[10] < error[1] / 5


@pytest.mark.parametrize("resamplings", [1, 3])
def test_with_everything_known_the_picture_comes_back(resamplings):
    known, generator = noise(3, 4, 2)
    found = editing.repaint(
        lambda xt, t: xt, SCHEDULE, torch.randn(4, 2, generator=generator).double(), [100, 50, 7, 0], known=known,
        mask=torch.ones(1, dtype=torch.bool), generator=generator, resamplings=resamplings,
    )  # fmt: skip
    assert torch.equal(found, known)


def test_with_nothing_known_and_one_round_it_is_ancestral_sampling():
    exact, times, nothing = denoise.exact(RING, SCHEDULE), uniform_times(SCHEDULE, 12), torch.zeros(2, dtype=torch.bool)
    x, generator = noise(4, 5, 2)
    found = editing.repaint(
        exact,
        SCHEDULE,
        x,
        times,
        known=torch.full((2,), math.nan),
        mask=nothing,
        generator=generator,
        resamplings=1,
        jump=5,
    )
    x, other = noise(4, 5, 2)
    torch.testing.assert_close(found, ddpm(exact, SCHEDULE, x, times, generator=other), rtol=1e-13, atol=1e-13)
    assert torch.equal(generator.get_state(), other.get_state())  # and no noise more


def test_jumps_go_back_where_the_rounds_began():
    """A grid of 5 steps, jumps of 2, 2 rounds: the walk by its times, and the count of evaluations."""
    steps: list[Step] = []
    asked = []

    def denoiser(xt: Tensor, t: Tensor) -> Tensor:
        asked.append(int(t[0]))
        return 0 * xt

    x, generator = noise(5, 3, 2)
    mask = torch.tensor([True, False])
    options = {"known": torch.zeros(2), "mask": mask, "resamplings": 2, "jump": 2, "generator": generator}
    editing.repaint(denoiser, SCHEDULE, x, [100, 80, 60, 40, 20, 0], **options, callback=steps.append)
    assert asked == [100, 80, 100, 80, 60, 40, 60, 40, 20]
    assert [(step.t, step.s) for step in steps[1:4]] == [(80, 60), (100, 80), (80, 60)]
    assert (steps[-1].t, steps[-1].s) == (20, 0)


@pytest.mark.parametrize(
    ("schedule", "times"),
    # 0.1 in single precision lies above 0.1: a jump back to T must not leave the schedule.
    [(SCHEDULE, [100, 70, 40, 0]), (schedules.EDM(sigma_max=0.1), [0.1, 0.07, 0.04, 0.0])],
    ids=repr,
)
def test_a_jump_back_keeps_the_marginals(schedule, times):
    """Data at one point and a denoiser that knows it: x_s ~ N(a_s x0, b_s²) after any number of rounds."""
    n, steps = 20_000, []
    z, generator = noise(6, n, 1)
    point, nothing = torch.full((1,), 0.6, dtype=torch.float64), torch.zeros(1, dtype=torch.bool)
    start = process.add_noise(schedule, point.expand(n, 1), times[0], z)
    editing.repaint(
        lambda xt, t: point.expand_as(xt),
        schedule,
        start,
        times,
        known=point,
        mask=nothing,
        generator=generator,
        resamplings=3,
        jump=2,
        callback=steps.append,
    )
    assert [step.s for step in steps] == 3 * times[1:3] + [0]
    for step in steps[:-1]:
        _, a, b = map(float, schedule.at(step.s))
        assert abs(step.xs.mean().item() - 0.6 * a) < 4 * b / n**0.5
        assert abs(step.xs.var().item() / b**2 - 1) < 4 * (2 / n) ** 0.5


def test_repaint_walks_a_schedule_that_ends_in_pure_noise():
    schedule = schedules.zero_terminal_snr(SCHEDULE)
    x, generator = noise(7, 3, 2)
    found = editing.repaint(
        denoise.exact(RING, schedule),
        schedule,
        x,
        [100, 50, 1, 0],
        known=torch.ones(2),
        mask=FIRST,
        generator=generator,
        resamplings=2,
    )
    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize(
    ("mask", "known", "message"),
    [
        (torch.ones(2), torch.zeros(2), "mask must be bool, True where the picture is known, got torch.float32"),
        (torch.ones(3, dtype=torch.bool), torch.zeros(2), r"mask must broadcast to x_t's shape \(5, 2\), got \(3,\)"),
        (torch.ones(2, dtype=torch.bool), torch.zeros(4, 2), r"known must broadcast to .* got \(4, 2\)"),
        (torch.ones(2, dtype=torch.bool), torch.zeros(1, 5, 2), r"known must broadcast to .* got \(1, 5, 2\)"),
    ],
)
def test_a_mask_or_picture_that_does_not_fit_is_refused(mask, known, message):
    x, generator = noise(8, 5, 2)
    with pytest.raises(ValueError, match=message):
        editing.inpaint(lambda xt, t: xt, known, mask)(x, torch.ones(5))
    with pytest.raises(ValueError, match=message):
        editing.repaint(lambda xt, t: xt, SCHEDULE, x, [100, 0], known=known, mask=mask, generator=generator)


@pytest.mark.parametrize("bad", [{"resamplings": 0}, {"jump": 0}, {"resamplings": math.nan}, {"jump": 1.5}])
def test_repaint_needs_a_round_and_a_step(bad):
    x, generator = noise(9, 5, 2)
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be a whole number of at least 1, got"):
        editing.repaint(lambda xt, t: xt, SCHEDULE, x, [100, 0], known=x, mask=FIRST, generator=generator, **bad)


# SDEdit --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [SCHEDULE, schedules.Flow(), schedules.EDM(sigma_max=4.0)], ids=repr)
@pytest.mark.parametrize("strength", [0.1, 0.57, 1.0])
def test_the_start_has_the_marginal_of_its_time(schedule, strength):
    """N(a_t x0, b_t²) at t = strength · T, which is a time of the grid; the grid goes on from there."""
    n, times = 20_000, uniform_times(schedule, 100)
    x0 = torch.tensor([0.8, -0.3], dtype=torch.float64)
    start = editing.sdedit(
        schedule, x0.expand(n, 2), times, strength=strength, generator=torch.Generator().manual_seed(0)
    )
    assert start.times[0] == pytest.approx(strength * schedule.T, rel=1e-7)
    assert list(start.times) == list(check_times(schedule, times)[-len(start.times) :])
    _, a, b = map(float, schedule.at(start.times[0]))
    assert bool(((start.xt.mean(0) - a * x0).abs() < 4 * b / n**0.5).all())
    assert bool(((start.xt.var(0) / b**2 - 1).abs() < 4 * (2 / n) ** 0.5).all())


def test_a_start_goes_straight_into_a_sampler():
    """On N(0, s²) DDIM's limit is the affine map x_0 = s x_t/√(a² s² + b²), so what comes of a guide is known:
    nearer to it the weaker, and without any of it at full strength."""
    s, n, schedule = 0.5, 4000, schedules.Cosine()
    data = GaussianMixture(PAIR.weight, torch.zeros(1, 1).double(), torch.full((1, 1, 1), s**2).double())
    guide, kept = torch.full((n, 1), 0.9, dtype=torch.float64), []
    for strength in (0.2, 0.5, 0.8, 1.0):
        generator = torch.Generator().manual_seed(1)
        start = editing.sdedit(schedule, guide, uniform_times(schedule, 100), strength=strength, generator=generator)
        found = heun(denoise.exact(data, schedule), schedule, *start)
        a, b = math.cos(0.5 * math.pi * strength), math.sin(0.5 * math.pi * strength)
        scale = s / math.hypot(a * s, b)
        # Besides the draws, Heun's second order: below 1e-3 at a hundred steps.
        assert abs(found.mean().item() - scale * a * 0.9) < 4 * scale * b / n**0.5 + 1e-3
        assert found.std().item() == pytest.approx(scale * b, rel=4 / (2 * n) ** 0.5 + 1e-3)
        kept.append(found.mean().item())
    assert kept == sorted(kept, reverse=True)


def test_the_nearest_time_of_the_grid_is_taken_and_at_least_one_step():
    x0, generator = torch.zeros(1, 2), torch.Generator()
    times = [100, 60, 30, 2, 0]
    for strength, first in ((1.0, 100), (0.7, 60), (0.44, 30), (0.1, 2), (1e-6, 2)):
        assert editing.sdedit(SCHEDULE, x0, times, strength=strength, generator=generator).times[0] == first
    karras = karras_times(schedules.EDM(), 10)
    assert editing.sdedit(schedules.EDM(), x0, karras, strength=0.01, generator=generator).times[-1] == 0


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.1, math.nan])
def test_a_strength_outside_its_range_is_refused(strength):
    with pytest.raises(ValueError, match=r"strength must lie in \(0, 1\]"):
        editing.sdedit(SCHEDULE, torch.zeros(1, 2), [100, 0], strength=strength, generator=torch.Generator())


def test_a_bad_grid_or_picture_is_refused():
    with pytest.raises(ValueError, match="must end at the data"):
        editing.sdedit(SCHEDULE, torch.zeros(1, 2), [100, 50], strength=0.5, generator=torch.Generator())
    with pytest.raises(ValueError, match=r"a batch must be floating point, got torch\.int64"):
        editing.sdedit(
            SCHEDULE, torch.zeros(1, 2, dtype=torch.long), [100, 0], strength=0.5, generator=torch.Generator()
        )
    with pytest.raises(ValueError, match=r"a batch must be a tensor \[B, …\], got NoneType"):
        editing.sdedit(SCHEDULE, None, [100, 0], strength=0.5, generator=torch.Generator())
    with pytest.raises(ValueError, match=r"a batch must be a tensor \[B, …\], got NoneType"):
        editing.repaint(
            lambda xt, t: xt, SCHEDULE, None, [100, 0], known=torch.zeros(1, 2), mask=FIRST, generator=torch.Generator()
        )


# Slerp ---------------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**31), w=st.floats(-1, 2), length=st.floats(0.1, 100))
def test_between_vectors_of_one_length_it_is_a_rotation(seed, w, length):
    """The length stays, and the angle to the first is w times the whole: in the plane of both, by complex numbers."""
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, 1, 7, generator=generator, dtype=torch.float64)
    x, y = length * x / x.norm(), length * y / y.norm()
    found = editing.slerp(x, y, w)
    across = y - (x * y).sum() / length**2 * x
    across = length * across / across.norm()
    theta = math.acos((x * y).sum().item() / length**2)
    turned = complex(math.cos(w * theta), math.sin(w * theta))
    torch.testing.assert_close(found, turned.real * x + turned.imag * across, rtol=1e-9, atol=1e-9 * length)


def test_the_length_of_noise_is_kept_where_a_straight_line_loses_it(generator):
    """‖x‖² of noise in D dimensions is D ± √(2D). Halfway on the arc between two it is
    (½(‖x‖² + ‖y‖²) + x·y)/(1 + cos θ), which has the mean D and half of the variance; on the line it is ½D."""
    D, n = 3072, 200
    x, y = torch.randn(2, n, 3, 32, 32, generator=generator)
    squared = editing.slerp(x, y, 0.5).flatten(1).square().sum(1)
    assert abs(squared.mean().item() - D) < 4 * (D / n) ** 0.5
    assert abs(squared.var().item() / D - 1) < 4 * (2 / n) ** 0.5
    line = (0.5 * (x + y)).flatten(1).square().sum(1)
    assert abs(line.mean().item() - D / 2) < 4 * (D / 2 / n) ** 0.5


def test_the_ends_are_the_noises_themselves(generator):
    x, y = torch.randn(2, 5, 2, 3, generator=generator)
    torch.testing.assert_close(editing.slerp(x, y, 0.0), x)
    torch.testing.assert_close(editing.slerp(x, y, 1.0), y)
    torch.testing.assert_close(editing.slerp(x, y, 0.3), editing.slerp(y, x, 0.7))


def test_each_example_may_be_at_its_own_place(generator):
    x, y = torch.randn(2, 3, 4, 4, generator=generator)
    w = torch.tensor([0.0, 0.25, 1.0])
    found = editing.slerp(x, y, w)
    one_by_one = [editing.slerp(x[i : i + 1], y[i : i + 1], w[i].item()) for i in range(3)]
    torch.testing.assert_close(found, torch.cat(one_by_one))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("apart", [0.0, 1e-12, 1e-7])
def test_between_parallel_vectors_it_is_the_straight_line(apart, generator):
    x = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    y = 3 * x + apart * torch.randn(4, 6, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(editing.slerp(x, y, 0.25), 0.75 * x + 0.25 * y, rtol=1e-9, atol=1e-9)
    for scale in (1, 2):  # the directions are then equal to the last digit
        torch.testing.assert_close(editing.slerp(x, scale * x, 0.25), (0.75 + 0.25 * scale) * x, rtol=1e-14, atol=0)
    nothing = torch.zeros(1, 6, dtype=torch.float64)
    assert torch.equal(editing.slerp(nothing, nothing, 0.5), nothing)
    assert torch.equal(editing.slerp(nothing, x[:1], 0.25), 0.25 * x[:1])


def test_what_has_no_shortest_arc_is_refused(generator):
    x = torch.randn(3, 6, generator=generator)
    y = torch.cat([x[:2], -2 * x[2:]])
    with pytest.raises(ValueError, match="opposite directions"):
        editing.slerp(x, y, 0.5)
    with pytest.raises(ValueError, match=r"one shape, got \(3, 6\) and \(2, 6\)"):
        editing.slerp(x, y[:2], 0.5)
    for w in (math.nan, math.inf, torch.tensor([0.5, math.nan, 1.0])):
        with pytest.raises(ValueError, match=r"w must be finite \(0 is the first, 1 the second\), got"):
            editing.slerp(x, x, w)
    with pytest.raises(ValueError, match=r"w must be one number or one for each of the 3 examples, got \(2,\)"):
        editing.slerp(x, x, torch.ones(2))


def test_repaint_names_the_step_of_a_number_that_is_not_finite():
    schedule, x = schedules.linear(100), torch.zeros(2, 2)

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return xt * float("nan") if t[0] <= 50 else xt

    with pytest.raises(FloatingPointError, match=r"NaN or infinity at t = 50 \(step 2 of 2\)"):
        editing.repaint(
            denoiser, schedule, x, [100, 50, 0], known=x, mask=FIRST, generator=torch.Generator(), resamplings=1
        )


def test_bytes_are_not_put_into_a_picture():
    """As they are, up to 255; nor does an array of numpy pass for a tensor."""
    x, everywhere = torch.zeros(2, 1, 4, 4), torch.ones(1, dtype=torch.bool)
    for known, message in ((x.byte(), r"known must be floating point, got torch\.uint8"), (x.numpy(), "got ndarray")):
        with pytest.raises(ValueError, match=message):
            editing.inpaint(lambda xt, t: xt, known, everywhere)(x, torch.ones(2))
        options = {"known": known, "mask": everywhere, "generator": torch.Generator()}
        with pytest.raises(ValueError, match=message):
            editing.repaint(lambda xt, t: xt, SCHEDULE, x, [100, 0], **options)
    with pytest.raises(ValueError, match=r"mask must be a tensor of bool, .* got ndarray"):
        editing.inpaint(lambda xt, t: xt, x, everywhere.numpy())
    with pytest.raises(ValueError, match=r"a noise must be floating point, got torch\.uint8"):
        editing.slerp(x, x.byte(), 0.5)
