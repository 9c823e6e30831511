"""Schedules against diffusers, decimal arithmetic and the published numbers."""

import math
from decimal import Decimal, localcontext

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from diffusion_book import schedules
from diffusion_book.schedules import SCHEDULES, Discrete

FLOAT32 = torch.finfo(torch.float32).eps
FLOAT64 = torch.finfo(torch.float64).eps

betas = st.lists(st.floats(1e-9, 0.999), min_size=2, max_size=60)


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
    assert schedule.log_snr(1).item() == pytest.approx(log_snr_1, abs=0.005)
    assert schedule.log_snr(1000).item() == pytest.approx(log_snr_T, abs=0.005)
    assert int((schedule.alpha_bar - 0.5).abs().argmin()) == half


def test_stable_diffusion_leaves_seven_percent_of_the_signal():
    assert schedules.scaled_linear().a(1000).item() == pytest.approx(0.0683, abs=5e-5)


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
    assert after.a(after.T).item() == 0
    assert after.b(after.T).item() == 1
    assert after.log_snr(after.T).item() == -math.inf
    assert after.sigma(after.T).item() == math.inf
    assert after.a(1).item() == pytest.approx(before.a(1).item(), rel=1e-15)


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
                assert schedule.a(t).item() == pytest.approx(float(alpha_bar.sqrt()), rel=bound)
                assert schedule.b(t).item() == pytest.approx(float((1 - alpha_bar).sqrt()), rel=bound)


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
    a, b = schedule.a(t), schedule.b(t)
    torch.testing.assert_close(a**2 + b**2, torch.ones_like(a), rtol=0, atol=4 * FLOAT64)
    assert bool((a.diff() <= 0).all())
    assert bool((b.diff() >= 0).all())
    torch.testing.assert_close(schedule.sigma(t), torch.exp(-schedule.log_snr(t) / 2), rtol=1e-9, atol=0)


@given(betas)
def test_betas_come_back_from_alpha_bar(beta):
    schedule = Discrete(torch.tensor(beta, dtype=torch.float64))
    ratio = schedule.alpha_bar[1:] / schedule.alpha_bar[:-1]
    torch.testing.assert_close(1 - ratio, schedule.beta[1:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_zero_is_data_exactly(name):
    schedule = schedules.by_name(name, 20)
    assert (schedule.a(0).item(), schedule.b(0).item(), schedule.sigma(0).item()) == (1, 0, 0)
    assert schedule.log_snr(0).item() == math.inf
    assert schedule.alpha_bar.shape == schedule.beta.shape == (21,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 1, 4, 4), (3, 2, 2, 2, 2)])
def test_coefficients_take_dtype_and_dimensions_of_the_batch(shape, dtype):
    schedule = schedules.linear(100)
    x = torch.ones(shape, dtype=dtype)
    t = torch.tensor([1, 50, 100])
    b = schedule.b(t, like=x)
    assert b.dtype == dtype
    assert (b * x).shape == shape
    for i in range(3):
        assert bool(((b * x)[i] == schedule.b(int(t[i])).to(dtype)).all())
    assert schedule.b(7, like=x).shape == ()
    assert schedule.b(t).dtype == torch.float64
    assert schedule.b(t.reshape(3, 1)).shape == (3, 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_integer_times_of_any_width_are_times(dtype):
    schedule = schedules.linear(100)
    assert schedule.a(torch.tensor([3, 90]).to(dtype)).tolist() == schedule.a(torch.tensor([3, 90])).tolist()


@pytest.mark.parametrize("t", [-1, 101, torch.tensor([0, 101]), torch.tensor([5, -1])])
def test_a_time_outside_the_grid_is_refused(t):
    """Indexing from the back would silently read a wrong noise level at t = −1."""
    with pytest.raises(ValueError, match=r"0 … 100 \(0 is data, 100 is noise\), got"):
        schedules.linear(100).a(t)


@pytest.mark.parametrize("t", [0.5, 3.0, True, torch.tensor([0.1]), torch.tensor([True, False]), 1j])
def test_a_time_that_is_no_integer_is_refused(t):
    """A Boolean would be taken for a mask, a float for a fraction of T."""
    with pytest.raises(ValueError, match=r"integer in 0 … 100, got dtype .*; use t.long\(\)"):
        schedules.linear(100).b(t)


def test_a_batch_of_bytes_is_refused():
    """√ᾱ rounded to a byte is zero."""
    with pytest.raises(ValueError, match=r"floating point, got torch.uint8; scale images to \[−1, 1\]"):
        schedules.linear(100).a(5, like=torch.zeros(2, 1, 4, 4, dtype=torch.uint8))


def test_times_that_do_not_match_the_batch_are_refused():
    with pytest.raises(ValueError, match="one for each of the 4 examples, got 3 times"):
        schedules.linear(100).a(torch.tensor([1, 2, 3]), like=torch.zeros(4, 2))


@pytest.mark.parametrize("T", [1, 0, -5, 10.5])
@pytest.mark.parametrize("make", [schedules.linear, schedules.scaled_linear, schedules.cosine, schedules.sigmoid])
def test_fewer_than_two_steps_are_refused(make, T):
    with pytest.raises(ValueError, match=r"T must be an integer of at least 2 steps, got .*1000"):
        make(T)


@pytest.mark.parametrize(
    ("beta", "message"),
    [
        (torch.tensor([0.1]), r"at least T = 2 steps, got shape \(1,\)"),
        (torch.full((2, 2), 0.1), r"1-D .* got shape \(2, 2\)"),
        (torch.tensor([0.1, 0.0]), r"\(0, 1\], got values from 0 to 0.1"),
        (torch.tensor([0.1, -0.2]), r"\(0, 1\], got values from -0.2"),
        (torch.tensor([0.1, 1.2]), r"\(0, 1\], got values from 0.1 to 1.2"),
        (torch.tensor([0.1, math.nan]), r"\(0, 1\], got values from nan"),
        (torch.tensor([0.1, 1.0, 0.1]), "only β_T may be 1, got a 1 before it"),
    ],
)
def test_bad_betas_are_refused(beta, message):
    with pytest.raises(ValueError, match=message):
        Discrete(beta)


def test_an_unknown_schedule_is_refused_with_the_list_of_known_ones():
    with pytest.raises(ValueError, match=r"'cosin'; choose one of linear, scaled-linear, cosine, sigmoid"):
        schedules.by_name("cosin")


def test_a_schedule_shows_its_length_and_its_end():
    assert repr(schedules.linear()) == "Discrete(T=1000, alpha_bar[T]=4.04e-05)"
