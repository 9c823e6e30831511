"""Schedules against diffusers, decimal arithmetic and the published numbers."""

import math
from decimal import Decimal, localcontext
from itertools import pairwise

import mpmath
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from diffusion_book import schedules
from diffusion_book.samplers import check_times
from diffusion_book.schedules import (
    CONTINUOUS,
    EDM,
    SCHEDULES,
    VE,
    VP,
    Continuous,
    Cosine,
    Discrete,
    Flow,
    Schedule,
    SubVP,
    Time,
)

FLOAT32 = torch.finfo(torch.float32).eps
FLOAT64 = torch.finfo(torch.float64).eps

betas = st.lists(st.floats(1e-9, 0.999), min_size=2, max_size=60)

DISCRETE = [*(make(50) for make in SCHEDULES.values()), schedules.zero_terminal_snr(schedules.linear(50))]
REAL = [
    Flow(),
    EDM(),
    VP(),
    VE(),
    SubVP(),
    Cosine(),
    Cosine(shift=0.5),
    *(schedule.continuous() for schedule in DISCRETE),
]


def d_log_snr(schedule: Schedule, t: Time) -> torch.Tensor:
    """dλ/dt = 2 (ȧ/a − ḃ/b)."""
    _, a, b = schedule.at(t)
    d_a, d_b = schedule.rates(t)
    return 2 * (d_a / a - d_b / b)


def between(schedule: Continuous, n: int = 500) -> torch.Tensor:
    """Times inside (0, T), none of them an integer: n is not a multiple of 50 after the shift."""
    return schedule.T * (torch.arange(n, dtype=torch.float64) + 0.37) / n


@pytest.mark.parametrize(
    ("name", "alpha_bar_T", "log_snr_1", "log_snr_T", "half"),
    [
        ("linear", 4.036e-5, 9.21, -10.12, 259),
        ("cosine", 2.43e-9, 10.095, -19.84, 496),
        ("scaled-linear", 0.00466, 7.07, -5.36, 355),
    ],
)
def test_the_published_numbers_of_a_schedule(name, alpha_bar_T, log_snr_1, log_snr_T, half):
    schedule = schedules.by_name(name, 1000)
    # Each tolerance is half a unit in the last digit that is printed.
    last_digit = 10 ** (math.floor(math.log10(alpha_bar_T)) - (3 if name == "linear" else 2))
    assert schedule.alpha_bar[1000].item() == pytest.approx(alpha_bar_T, abs=last_digit / 2)
    assert schedule.at(1).log_snr.item() == pytest.approx(log_snr_1, abs=0.005)
    assert schedule.at(1000).log_snr.item() == pytest.approx(log_snr_T, abs=0.005)
    assert int((schedule.alpha_bar - 0.5).abs().argmin()) == half


def test_stable_diffusion_leaves_seven_percent_of_the_signal():
    assert schedules.scaled_linear().at(1000).a.item() == pytest.approx(0.0683, abs=5e-5)


DIFFUSERS = [
    ("linear", {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
    ("scaled-linear", {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
    ("cosine", {"beta_schedule": "squaredcos_cap_v2"}),
]


@pytest.mark.parametrize("T", [10, 1000])
@pytest.mark.parametrize(("name", "options"), DIFFUSERS)
def test_betas_are_those_of_diffusers(name, options, T):
    theirs = DDPMScheduler(num_train_timesteps=T, **options)
    ours = schedules.by_name(name, T)
    # They compute in float32 and ours is float64: a few roundings of each β, beside 1e-8.
    torch.testing.assert_close(ours.beta[1:].float(), theirs.betas, atol=1e-8, rtol=4 * FLOAT32)
    # A float32 product is off by two roundings for each factor, and by those of β, which 1 − β magnifies.
    bound = (2 * FLOAT32 * (1 + ours.beta / ours.alpha)).cumsum(0)[1:]
    assert bool(((theirs.alphas_cumprod.double() / ours.alpha_bar[1:] - 1).abs() <= bound).all())


@pytest.mark.parametrize("name", ["linear", "scaled-linear"])
def test_zero_terminal_snr_is_that_of_diffusers(name):
    before = schedules.by_name(name)
    after = schedules.zero_terminal_snr(before)
    theirs = torch.cumprod(1 - rescale_zero_terminal_snr(before.beta[1:]), 0)
    torch.testing.assert_close(after.alpha_bar[1:], theirs, rtol=1e-10, atol=1e-15)
    end = after.at(after.T)
    assert (end.a.item(), end.b.item(), end.sigma.item(), end.log_snr.item()) == (0, 1, math.inf, -math.inf)
    assert after.at(1).a.item() == pytest.approx(before.at(1).a.item(), rel=1e-15)


def test_zero_terminal_snr_twice_is_once():
    once = schedules.zero_terminal_snr(schedules.linear(50))
    torch.testing.assert_close(schedules.zero_terminal_snr(once).alpha_bar, once.alpha_bar, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_tables_are_exact_to_the_last_digits(name):
    """Decimal arithmetic with 60 digits, from the same betas: ᾱ and, where it cancels, 1 − ᾱ."""
    schedule = schedules.by_name(name, 1000)
    with localcontext() as context:
        context.prec = 60
        alpha_bar = Decimal(1)
        for t in range(1, 1001):
            alpha_bar *= 1 - Decimal(schedule.beta[t].item())
            if t in (1, 2, 10, 500, 999, 1000):
                # A sum of t logarithms up to 25 in size, each rounded.
                bound = 30 * t * FLOAT64
                assert schedule.alpha_bar[t].item() == pytest.approx(float(alpha_bar), rel=bound)
                assert schedule.at(t).a.item() == pytest.approx(float(alpha_bar.sqrt()), rel=bound)
                assert schedule.at(t).b.item() == pytest.approx(float((1 - alpha_bar).sqrt()), rel=bound)


@pytest.mark.parametrize("s", [0.008, 0.1])
def test_cosine_is_a_cosine_until_the_clip(s):
    T = 400
    schedule = schedules.cosine(T, s=s)
    t = torch.arange(T, dtype=torch.float64)  # without T, where the clip is
    angle = math.pi * (t / T + s) / (1 + s)
    expected = (1 + angle.cos()) / (1 + math.cos(math.pi * s / (1 + s)))
    torch.testing.assert_close(schedule.alpha_bar[:-1], expected, rtol=1e-9, atol=0)
    assert schedule.beta[T].item() == 0.999
    assert schedule.alpha_bar[T].item() == pytest.approx(1e-3 * schedule.alpha_bar[T - 1].item(), rel=1e-12)


def test_sigmoid_is_a_rescaled_hyperbolic_tangent():
    T = 200
    t = torch.arange(T, dtype=torch.float64) / T
    expected = 0.5 * (1 + torch.tanh(1.5 * (1 - 2 * t)) / math.tanh(1.5))
    schedule = schedules.sigmoid(T)
    torch.testing.assert_close(schedule.alpha_bar[:-1], expected, rtol=1e-9, atol=0)
    assert schedule.alpha_bar[T // 2].item() == pytest.approx(0.5, rel=1e-12)
    assert schedule.alpha_bar[T].item() == pytest.approx(1e-9, rel=1e-6)


@given(betas)
def test_every_schedule_preserves_variance_and_only_adds_noise(beta):
    schedule = Discrete(torch.tensor(beta, dtype=torch.float64))
    t = torch.arange(schedule.T + 1)
    _, a, b = schedule.at(t)
    torch.testing.assert_close(a**2 + b**2, torch.ones_like(a), rtol=0, atol=4 * FLOAT64)
    assert bool((a.diff() <= 0).all())
    assert bool((b.diff() >= 0).all())
    torch.testing.assert_close(schedule.at(t).sigma, torch.exp(-schedule.at(t).log_snr / 2), rtol=1e-9, atol=0)


@given(betas)
def test_betas_come_back_from_alpha_bar(beta):
    schedule = Discrete(torch.tensor(beta, dtype=torch.float64))
    ratio = schedule.alpha_bar[1:] / schedule.alpha_bar[:-1]
    torch.testing.assert_close(1 - ratio, schedule.beta[1:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_zero_is_data_exactly(name):
    schedule = schedules.by_name(name, 20)
    data = schedule.at(0)
    assert (data.a.item(), data.b.item(), data.sigma.item(), data.log_snr.item()) == (1, 0, 0, math.inf)
    assert math.copysign(1, data.b.item()) == 1  # −0 would make λ̇ at the data +∞
    assert schedule.alpha_bar.shape == schedule.beta.shape == (21,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 1, 4, 4), (3, 2, 2, 2, 2)])
def test_coefficients_take_dtype_and_dimensions_of_the_batch(shape, dtype):
    schedule = schedules.linear(100)
    x = torch.ones(shape, dtype=dtype)
    t = torch.tensor([1, 50, 100])
    b = schedule.at(t).like(x).b
    assert b.dtype == dtype
    assert (b * x).shape == shape
    for i in range(3):
        assert bool(((b * x)[i] == schedule.at(int(t[i])).b.to(dtype)).all())
    assert schedule.at(7).like(x).b.shape == ()
    assert schedule.at(t).b.dtype == torch.float64
    assert schedule.at(t.reshape(3, 1)).b.shape == (3, 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_integer_times_of_any_width_are_times(dtype):
    schedule = schedules.linear(100)
    assert schedule.at(torch.tensor([3, 90]).to(dtype)).a.tolist() == schedule.at(torch.tensor([3, 90])).a.tolist()


@pytest.mark.parametrize("t", [-1, 101, torch.tensor([0, 101]), torch.tensor([5, -1])])
def test_a_time_outside_the_grid_is_refused(t):
    """Indexing from the back would silently read a wrong noise level at t = −1."""
    with pytest.raises(ValueError, match=r"0 … 100 \(0 is data, 100 is noise\), got"):
        schedules.linear(100).at(t)


@pytest.mark.parametrize("t", [0.5, 3.0, True, torch.tensor([0.1]), torch.tensor([True, False]), 1j])
def test_a_time_that_is_no_integer_is_refused(t):
    """A Boolean would be taken for a mask, a float for a fraction of T."""
    with pytest.raises(ValueError, match=r"integer in 0 … 100, got dtype .*; use t.long\(\)"):
        schedules.linear(100).at(t)


def test_a_batch_of_bytes_is_refused():
    """√ᾱ rounded to a byte is zero."""
    with pytest.raises(
        ValueError, match=r"floating point, got torch.uint8; use .float\(\), and scale images to \[−1, 1\]"
    ):
        schedules.linear(100).at(5).like(torch.zeros(2, 1, 4, 4, dtype=torch.uint8))


def test_times_that_do_not_match_the_batch_are_refused():
    with pytest.raises(ValueError, match="one for each of the 4 examples, got 3 times"):
        schedules.linear(100).at(torch.tensor([1, 2, 3])).like(torch.zeros(4, 2))


@pytest.mark.parametrize("T", [1, 0, -5, 10.5, math.nan, math.inf, "10", None])
@pytest.mark.parametrize("make", [schedules.linear, schedules.scaled_linear, schedules.cosine, schedules.sigmoid])
def test_fewer_than_two_steps_are_refused(make, T):
    with pytest.raises(ValueError, match=r"T must be an integer of at least 2 steps, got .*1000"):
        make(T)


@pytest.mark.parametrize(
    ("beta", "message"),
    [
        (torch.tensor([0.1]), r"at least T = 2 steps, one β each, got shape \(1,\)"),
        (torch.full((2, 2), 0.1), r"1-D .* got shape \(2, 2\)"),
        (torch.tensor([0.1, 0.0]), r"\(0, 1\], got values from 0 to 0.1"),
        (torch.tensor([0.1, -0.2]), r"\(0, 1\], got values from -0.2"),
        (torch.tensor([0.1, 1.2]), r"\(0, 1\], got values from 0.1 to 1.2"),
        (torch.tensor([0.1, math.nan]), r"\(0, 1\], got values from nan"),
        (torch.tensor([0.1, math.inf]), r"\(0, 1\], got values from 0.1 to inf"),
        (torch.tensor([0.1, 1.0, 0.1]), "only β_T may be 1, got a 1 before it"),
    ],
)
def test_bad_betas_are_refused(beta, message):
    with pytest.raises(ValueError, match=message):
        Discrete(beta)


def test_an_unknown_schedule_is_refused_with_the_list_of_known_ones():
    with pytest.raises(
        ValueError, match=r"'cosin' \(did you mean 'cosine'\?\); choose one of linear, scaled-linear, cosine, sigmoid"
    ):
        schedules.by_name("cosin")


def test_a_schedule_shows_its_length_and_its_end():
    assert repr(schedules.linear()) == "Discrete(T=1000, alpha_bar[T]=4.04e-05)"


@pytest.mark.parametrize("schedule", REAL, ids=repr)
def test_derivatives_are_those_of_autograd(schedule):
    t = between(schedule).requires_grad_()
    level = schedule.at(t)
    d_a, d_b = schedule.rates(t)
    for value, rate in [(level.a, d_a), (level.b, d_b), (level.log_snr, d_log_snr(schedule, t))]:
        # Both are some twenty roundings of the same number. EDM's a is constant, and autograd then has no graph.
        slope = torch.autograd.grad(value.sum(), t, retain_graph=True)[0] if value.requires_grad else 0 * t
        scale = slope.abs().clamp(min=1 / schedule.T)
        assert bool(((rate - slope).abs() <= 1e-12 * scale).all())


@pytest.mark.parametrize("schedule", REAL, ids=repr)
def test_derivatives_are_slopes(schedule):
    """Finite differences owe nothing to autograd, nor to the formula of a and b."""
    t, h = between(schedule), 1e-5 * schedule.T / 500
    for before, after, rate in zip(schedule.at(t - h)[1:], schedule.at(t + h)[1:], schedule.rates(t)):
        slope = (after - before) / (2 * h)
        # Rounding is 1e-16/h, and b^(3) h²/6 is largest near the data where b ~ √t: (h/t)²/8 of the slope.
        atol = 4 * FLOAT64 * max(1, schedule.prior_std) / h
        torch.testing.assert_close(rate, slope, rtol=1e-9, atol=atol)


@pytest.mark.parametrize("schedule", DISCRETE, ids=repr)
def test_between_the_integers_the_angle_is_linear(schedule):
    real = schedule.continuous()
    t = torch.arange(schedule.T + 1)
    for mine, theirs in zip(schedule.at(t), real.at(t)):
        assert torch.equal(mine.double(), theirs)  # at them the tables, to the last digit
    angle = torch.atan2((1 - schedule.alpha_bar).sqrt(), schedule.alpha_bar.sqrt())
    for part in (0.25, 0.5, 0.9):
        expected = angle[:-1] + part * angle.diff()
        _, a, b = real.at(t[:-1] + part)
        torch.testing.assert_close(torch.atan2(b, a), expected)
    # A discrete schedule's derivative is that of the step which ends at t, and at the data that of the first.
    for mine, theirs in zip(schedule.rates(t), real.rates(t)):
        assert torch.equal(mine, theirs)
    before = angle.diff()[(t - 1).clamp(min=0)]
    torch.testing.assert_close(schedule.rates(t)[1], schedule.at(t).a * before)
    assert real.clock(torch.tensor([3.5])).item() == 3.5
    assert repr(real) == f"{schedule!r}.continuous()"


@pytest.mark.parametrize("schedule", REAL, ids=repr)
def test_signal_only_falls_and_noise_only_rises(schedule):
    t = torch.linspace(0, schedule.T, 2001, dtype=torch.float64)
    level = schedule.at(t)
    _, a, b = level
    log_snr = level.log_snr
    assert (a[0].item(), b[0].item(), log_snr[0].item()) == (1, 0, math.inf)
    assert bool((a.diff() <= 0).all())
    assert bool((b.diff() >= 0).all())
    assert bool((log_snr.diff() < 0).all())
    assert bool((d_log_snr(schedule, t) < 0).all())
    assert d_log_snr(schedule, 0).item() == -math.inf
    # To rounding: log takes the relative error of a to an absolute one, and exp back.
    torch.testing.assert_close(level.sigma, torch.exp(-0.5 * log_snr), rtol=1e-13, atol=0)


@pytest.mark.parametrize("schedule", REAL, ids=repr)
@given(part=st.floats(1e-9, 1))
def test_the_time_at_a_log_snr_is_the_time(schedule, part):
    t = part * schedule.T
    level = schedule.at(t)
    log_snr = level.log_snr
    back = schedule.time_at(log_snr).item()
    # λ is rounded by ε max(|λ|, 1), the angle by ε; each moves t by that over its own speed. Ten roundings in all.
    slope = abs(d_log_snr(schedule, t).item())
    speed = max(float(level.a * level.b) * slope / 2, 1e-300)
    bound = 10 * FLOAT64 * ((1 + min(abs(log_snr.item()), 800)) / slope + 1 / speed + schedule.T)
    assert back == pytest.approx(t, rel=1e-14, abs=bound)
    assert schedule.time_at(log_snr.item()).item() == back  # a Python float is not rounded to float32 on the way


@pytest.mark.parametrize("schedule", DISCRETE, ids=repr)
def test_the_step_at_a_log_snr_is_the_step(schedule):
    t = torch.arange(1, schedule.T + 1)
    assert torch.equal(schedule.time_at(schedule.at(t).log_snr), t)
    # Between two steps it is the one whose angle is nearer.
    angle = 0.6 * schedule.angle[1:-1] + 0.4 * schedule.angle[2:]
    assert torch.equal(schedule.time_at(-2 * angle.tan().log()), t[:-1])


@pytest.mark.parametrize("schedule", [*DISCRETE, *REAL], ids=repr)
def test_a_log_snr_beyond_the_end_is_at_the_end(schedule):
    first = 1 if isinstance(schedule, Discrete) else 0
    last = schedule.at(schedule.T).log_snr.item()
    assert schedule.time_at(torch.tensor([math.inf, -math.inf])).tolist() == [first, schedule.T]
    assert schedule.time_at(max(last, -700) - 5).item() == pytest.approx(schedule.T, rel=1e-15)
    assert schedule.time_at(torch.zeros(2, 3)).shape == (2, 3)


@pytest.mark.parametrize("schedule", [schedules.linear(10), schedules.linear(10).continuous(), Flow(), EDM(), VP()])
def test_no_time_has_a_log_snr_that_is_no_number(schedule):
    """A search among the knots would take NaN for the largest number, and answer T."""
    for log_snr in (math.nan, torch.tensor([0.0, math.nan])):
        with pytest.raises(ValueError, match="no time has a log-SNR of NaN"):
            schedule.time_at(log_snr)


@pytest.mark.parametrize("beta", [(0.1, 0.1), (1e-6, 1.0)])
def test_the_ends_of_what_betas_may_be_are_allowed(beta):
    for make in (schedules.linear, schedules.scaled_linear):
        assert make(10, *beta).beta[[1, -1]].tolist() == pytest.approx(beta, rel=1e-15)
        assert make(2, *beta).T == 2
    schedule = schedules.cosine(10, s=0.0, beta_max=1.0)
    assert schedule.at(5).a.item() == pytest.approx(math.cos(math.pi / 4), rel=1e-14)


def test_a_log_snr_far_below_zero_keeps_its_digits():
    """log(1 + e^−λ) is often taken to be −λ from −λ = 20 on, which is wrong in the ninth digit."""
    schedule = VP(beta_max=80.0)
    for log_snr in (-19.0, -21.0, -30.0):
        integral = float(mpmath.log1p(mpmath.exp(-log_snr)))
        t = schedule.time_at(log_snr).item()
        assert 0.1 * t + 0.5 * (80 - 0.1) * t**2 == pytest.approx(integral, rel=1e-14)


def test_vp_is_the_limit_of_linear_at_the_rate_of_one_over_T():
    """Song et al. 2021b, appendix B: β_i = β(i/T)/T. The error falls tenfold for ten times the steps."""
    vp, times, errors = VP(0.1, 20.0), torch.tensor([0.1, 0.3, 0.5]), []
    for T in (1000, 10_000, 100_000):
        schedule = schedules.linear(T, 0.1 / T, 20 / T)
        error = schedule.at((times * T).round().long()).log_snr - vp.at(times.double().mul(10).round() / 10).log_snr
        errors.append(error.abs())
    for coarse, fine in pairwise(errors):
        ratio = coarse / fine  # 10, up to the next order in 1/T, which is 20²/T of it at most
        assert bool(((ratio - 10).abs() < 1).all())
    assert errors[-1].max().item() < 2e-3


def test_flow_is_a_straight_line():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    flow = Flow()
    assert torch.equal(flow.at(t).a + flow.at(t).b, torch.ones_like(t))
    assert torch.equal(flow.at(t).b, t)
    torch.testing.assert_close(flow.at(t[1:-1]).log_snr, 2 * torch.log(1 / t[1:-1] - 1), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(d_log_snr(flow, t[1:-1]), -2 / (t[1:-1] * (1 - t[1:-1])), rtol=1e-14, atol=0)
    assert flow.ends_in_noise
    assert flow.prior_std == 1


def test_edm_time_is_the_noise_level():
    schedule = EDM(sigma_max=80, sigma_data=0.5)
    t = torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64)
    assert torch.equal(schedule.at(t).sigma, t)
    assert torch.equal(schedule.at(t).a, torch.ones_like(t))
    torch.testing.assert_close(schedule.at(t).log_snr, -2 * t.log(), rtol=1e-15, atol=0)
    torch.testing.assert_close(schedule.clock(t), t.log() / 4, rtol=1e-15, atol=0)
    assert (schedule.T, schedule.sigma_data, schedule.ends_in_noise) == (80.0, 0.5, False)
    assert schedule.prior_std == pytest.approx(math.sqrt(1 + 80**2), rel=1e-15)
    assert EDM(sigma_max=0.25).T == 0.25  # less than the data's own is allowed


@pytest.mark.parametrize("t", [1e-12, 1e-5, 0.3, 1.0])
def test_vp_to_the_last_digits(t):
    """Song et al. 2021b, appendix C, in 40 digits: at small t √(1 − a²) in float64 would have none left."""
    with mpmath.workdps(40):
        log_a = -(mpmath.mpf(t) ** 2) * (mpmath.mpf(20.0) - mpmath.mpf(0.1)) / 4 - mpmath.mpf(t) * mpmath.mpf(0.1) / 2
        a, b = float(mpmath.exp(log_a)), float(mpmath.sqrt(-mpmath.expm1(2 * log_a)))
    assert VP().at(t).a.item() == pytest.approx(a, rel=1e-14)
    assert VP().at(t).b.item() == pytest.approx(b, rel=1e-14)


def test_vp_loses_signal_at_the_rate_beta():
    t = torch.linspace(0.01, 1, 100, dtype=torch.float64)
    schedule = VP(0.3, 7.0)
    torch.testing.assert_close(schedule.rates(t)[0], -0.5 * (0.3 + 6.7 * t) * schedule.at(t).a, rtol=1e-14, atol=0)
    assert schedule.rates(0)[1].item() == math.inf
    assert VP(2.0, 2.0).at(0.5).a.item() == pytest.approx(math.exp(-0.5), rel=1e-15)  # a constant β is allowed
    assert VP(2.0, 2.0).time_at(VP(2.0, 2.0).at(0.5).log_snr).item() == pytest.approx(0.5, rel=1e-14)


@pytest.mark.parametrize("shift", [0.25, 1.0, 2.0])
def test_a_shift_moves_the_log_snr_of_the_cosine_as_a_whole(shift):
    t = torch.linspace(0.001, 0.999, 101, dtype=torch.float64)
    expected = -2 * torch.tan(0.5 * math.pi * t).log() + 2 * math.log(shift)  # Hoogeboom et al. 2023, section 2.1
    torch.testing.assert_close(Cosine(shift).at(t).log_snr, expected, rtol=1e-12, atol=1e-12)


def test_the_cosine_of_real_time_ends_in_nothing_but_noise():
    """cos(½π) in floating point is 6e-17, and 1 over that is no zero."""
    for schedule in (Cosine(), Cosine(0.5)):
        assert (schedule.at(1).a.item(), schedule.at(1).b.item(), schedule.at(1).log_snr.item()) == (0, 1, -math.inf)
        assert schedule.ends_in_noise
        assert schedule.at(1).sigma.item() == math.inf
    assert not VP().ends_in_noise


KEEP_VARIANCE = [s for s in [*DISCRETE, *REAL] if not isinstance(s, Flow | EDM | VE | SubVP)]


@pytest.mark.parametrize("schedule", KEEP_VARIANCE, ids=repr)
def test_variance_is_preserved_where_it_should_be(schedule):
    t = torch.arange(51) if isinstance(schedule, Discrete) else between(schedule)
    variance = schedule.at(t).a ** 2 + schedule.at(t).b ** 2
    torch.testing.assert_close(variance, torch.ones_like(variance), rtol=0, atol=4 * FLOAT64)
    assert schedule.prior_std == pytest.approx(1, abs=2 * FLOAT64)


def test_ve_is_the_geometric_noise_of_its_paper_without_what_is_there_at_the_data():
    """Song et al. 2021b, equation 9: each piece of noise has the variance by which σ² grows."""
    schedule = VE(sigma_min=0.02, sigma_max=30.0)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    sigma = 0.02 * 1500**t
    torch.testing.assert_close(schedule.at(t).b ** 2, sigma**2 - 0.02**2, rtol=1e-12, atol=0)
    assert schedule.at(t).a.unique().tolist() == [1.0]
    assert schedule.prior_std == pytest.approx(math.hypot(1, math.sqrt(30**2 - 0.02**2)), rel=1e-12)
    for low, high in ((0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (0.1, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="expected 0 < sigma_min < sigma_max < ∞, got"):
            VE(low, high)


def test_sub_vp_has_less_noise_than_vp_and_the_same_signal():
    """Song et al. 2021b, equation 12: its variance is bounded by VP's, and it solves the equation for variances.

    With f = −β/2 and g² = β (1 − exp(−2 ∫β)) the variance of x_t given x_0 obeys P' = 2 f P + g²; here by steps of RK4.
    """
    sub, vp, n = SubVP(), VP(), 4000
    t = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    assert torch.equal(sub.at(t).a, vp.at(t).a)
    assert bool((sub.at(t).b[1:] < vp.at(t).b[1:]).all())
    assert bool((sub.at(t).a[1:] ** 2 + sub.at(t).b[1:] ** 2 < 1).all())

    def slope(t: float, variance: float) -> float:
        beta, integral = 0.1 + 19.9 * t, 0.1 * t + 0.5 * 19.9 * t**2
        return -beta * variance + beta * (1 - math.exp(-2 * integral))

    variance, h = 0.0, 1 / n
    for i in range(n):
        k1 = slope(i * h, variance)
        k2 = slope((i + 0.5) * h, variance + 0.5 * h * k1)
        k3 = slope((i + 0.5) * h, variance + 0.5 * h * k2)
        variance += h * (k1 + 2 * k2 + 2 * k3 + slope((i + 1) * h, variance + h * k3)) / 6
        if i in (9, 99, 999, n - 1):
            assert float(sub.at((i + 1) * h).b) ** 2 == pytest.approx(variance, rel=1e-6)


def test_a_python_float_is_the_same_time_as_a_float64_tensor():
    """torch.as_tensor(0.1) is float32, and 0.1 is then another time."""
    assert Flow().at(0.1).b.item() == 0.1
    assert Flow().at(torch.tensor([0.1], dtype=torch.float64)).b.item() == 0.1
    assert Flow().at(torch.tensor([0.1])).b.item() == torch.tensor(0.1).double().item()
    assert Flow().at([0.1, 0.7]).b.tolist() == [0.1, 0.7]


def test_what_a_network_is_told_of_the_time():
    t = torch.tensor([0.25, 1.0], dtype=torch.float64)
    assert Flow().clock(t).tolist() == VP().clock(t).tolist() == Cosine().clock(t).tolist() == [250, 1000]
    assert schedules.linear(10).clock(torch.tensor([3, 10])).tolist() == [3, 10]


@pytest.mark.parametrize("schedule", [schedules.linear(10), schedules.linear(10).continuous(), Flow()], ids=repr)
def test_times_on_the_cpu_serve_a_batch_on_another_device(schedule):
    """ "meta" refuses to mix with the CPU as a GPU does, and every machine has it."""
    like = torch.empty(2, 3, 4, 4, device="meta", dtype=torch.bfloat16)
    for t, shape in ((torch.tensor([1, 1]), (2, 1, 1, 1)), (1, ())):
        for found in schedule.at(t).like(like)[1:]:
            assert (found.device.type, found.dtype, found.shape) == ("meta", torch.bfloat16, shape)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("schedule", [*DISCRETE, *REAL], ids=repr)
def test_times_on_a_gpu_serve_it_as_on_the_cpu(schedule):
    t = torch.tensor([1, 1, schedule.T]) if isinstance(schedule, Discrete) else between(schedule, 3)
    like = torch.empty(3, 2, device="cuda")
    level = schedule.at(t)
    for mine, theirs in zip((*schedule.at(t.cuda()), *schedule.rates(t.cuda())), (*level, *schedule.rates(t))):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(level.like(like)[1:], level.like(like.cpu())[1:]):
        assert torch.equal(mine.cpu(), theirs)
        assert mine.is_cuda
    assert torch.equal(schedule.time_at(level.log_snr.cuda()), schedule.time_at(level.log_snr))


@pytest.mark.parametrize(
    ("t", "got"), [(-0.1, "-0.1"), (1.5, "1.5"), (math.nan, "nan"), (torch.tensor([0.5, 1.01, 0.2]), "0.2 … 1.01")]
)
def test_a_real_time_outside_is_refused(t, got):
    with pytest.raises(ValueError, match=rf"t must lie in \[0, 1\] \(0 is data, 1 is noise\), got {got}$"):
        Flow().at(t)


@pytest.mark.parametrize("sigma_max", [14.6146, 0.1, 0.3, 80, 157.4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_last_time_may_be_rounded_as_its_dtype_rounds_it(sigma_max, dtype):
    """14.6146 is Stable Diffusion's; in single precision it is 14.614600182, and above T."""
    schedule = EDM(sigma_max=sigma_max)
    t = torch.full((4,), schedule.T, dtype=dtype)
    level = schedule.at(t)
    assert float(level.t.max()) <= schedule.T
    assert float(level.b[0]) == pytest.approx(schedule.T, rel=torch.finfo(dtype).eps)
    grid = torch.linspace(schedule.T, 0, 5, dtype=dtype)
    for times in (grid, grid.float().tolist()) if dtype != torch.bfloat16 and dtype != torch.float16 else (grid,):
        found = check_times(schedule, times)
        assert found[0] <= schedule.T
        assert found[-1] == 0


def test_a_time_beyond_rounding_is_still_refused():
    with pytest.raises(
        ValueError, match=r"t must lie in \[0, 14\.6146\] \(0 is data, 14\.6146 is noise\), got 14\.6146$"
    ):
        EDM(14.6146).at(14.6146004)
    with pytest.raises(ValueError, match=r"got 0 … 14\.615$"):
        EDM(14.6146).at(torch.tensor([0.0, 14.615]))


@pytest.mark.parametrize("t", [True, torch.tensor([True]), 1j])
def test_a_real_time_that_is_no_number_is_refused(t):
    with pytest.raises(ValueError, match=r"t must be a real number in \[0, 80\], got dtype torch\.(bool|complex64)"):
        EDM().at(t)


def test_the_data_are_refused_where_times_must_be_noisy():
    assert Flow().check_time(0).item() == 0
    with pytest.raises(ValueError, match=r"t must lie in \(0, 1\] \(0 is data, 1 is noise\), got 0 … 0.5"):
        Flow().check_time(torch.tensor([0.5, 0.0]), noisy=True)
    with pytest.raises(ValueError, match=r"t must lie in 1 … 10 \(0 is data, 10 is noise\), got 0$"):
        schedules.linear(10).check_time(0, noisy=True)


def test_no_times_are_no_error():
    assert Flow().at(torch.empty(0)).a.shape == (0,)
    assert schedules.linear(10).at(torch.empty(0, dtype=torch.long)).like(torch.empty(0, 3)).a.shape == (0, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EDM(sigma_max=0), "sigma_max and sigma_data must be positive and finite, got 0 and 0.5"),
        (lambda: EDM(sigma_data=-1), "sigma_max and sigma_data must be positive and finite, got 80.0 and -1"),
        (lambda: EDM(sigma_max=math.nan), "positive and finite, got nan and 0.5"),
        (lambda: EDM(sigma_max=math.inf), "positive and finite, got inf and 0.5"),
        (lambda: EDM(sigma_data=math.nan), "positive and finite, got 80.0 and nan"),
        (lambda: EDM(sigma_data=math.inf), "positive and finite, got 80.0 and inf"),
        (lambda: VP(0, 20), "expected 0 < beta_min ≤ beta_max < ∞, got 0 and 20"),
        (lambda: VP(5, 1), "expected 0 < beta_min ≤ beta_max < ∞, got 5 and 1"),
        (lambda: VP(0.1, math.inf), "expected 0 < beta_min ≤ beta_max < ∞, got 0.1 and inf"),
        (lambda: VP(math.nan, 1), "expected 0 < beta_min ≤ beta_max < ∞, got nan and 1"),
        (lambda: Cosine(0), "shift must be positive and finite, got 0; below 1 there is more noise"),
        (lambda: Cosine(math.nan), "shift must be positive and finite, got nan"),
        (lambda: Cosine(math.inf), "shift must be positive and finite, got inf"),
        *(
            (lambda make=make, betas=betas: make(10, *betas), f"expected 0 < beta_1 ≤ beta_T ≤ 1, .*, got {betas[0]}")
            for make in (schedules.linear, schedules.scaled_linear)
            for betas in [(0.0, 0.1), (-0.1, 0.1), (0.2, 0.1), (0.1, 1.1), (math.nan, 0.1), (0.1, math.nan)]
        ),
        *(
            (lambda s=s: schedules.cosine(10, s), f"expected 0 ≤ s < ∞ and beta_max in .*, got {s} and 0.999")
            for s in (-0.1, math.nan, math.inf)
        ),
        *(
            (lambda most=most: schedules.cosine(10, beta_max=most), rf"beta_max in \(0, 1\], got 0.008 and {most}")
            for most in (0, -1, 2, math.nan)
        ),
        *(
            (lambda bad=bad: schedules.sigmoid(10, *bad), "expected finite start < end and a positive tau, got")
            for bad in [(3, -3), (3, 3), (math.nan, 3), (-3, math.inf), (-math.inf, 3), (-3, 3, 0), (-3, 3, -1)]
        ),
        (lambda: schedules.sigmoid(10, tau=math.nan), "a positive tau, got -3.0, 3.0 and nan"),
        (lambda: schedules.sigmoid(10, tau=math.inf), "a positive tau, got -3.0, 3.0 and inf"),
        (lambda: schedules.zero_terminal_snr(Flow()), r"only a discrete schedule can be rescaled, got Flow\(T=1\)"),
        (lambda: schedules.by_name("flow", 100), "'flow' is continuous and takes no T, got 100; leave T out"),
        (lambda: schedules.by_name("vq"), "unknown schedule 'vq'; choose one of .*sigmoid, flow, edm, vp, continuous-"),
    ],
)
def test_bad_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("shape", [(2, 3), (4, 1, 1), (4, 3, 1)])
def test_times_with_more_dimensions_than_the_batch_are_refused(shape):
    """[B, 1] times would spread a batch [B] to [B, B] in silence."""
    with pytest.raises(ValueError, match=r"one for each of the 4 examples, got times of shape"):
        Flow().at(torch.full(shape, 0.5)).like(torch.zeros(4, 2))
    assert Flow().at(torch.full((4, 1), 0.5)).like(torch.zeros(4, 2, 8, 8)).a.shape == (4, 1, 1, 1)


def test_every_name_makes_its_schedule():
    for name in [*SCHEDULES, *CONTINUOUS]:
        assert isinstance(schedules.by_name(name), Schedule)
    assert schedules.by_name("linear").T == 1000
    assert repr(schedules.by_name("flow")) == "Flow(T=1)"
