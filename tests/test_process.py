"""The forward process, the posterior and the faces of a prediction, against integration, autograd and diffusers."""

import math
import re

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from diffusion_book import denoise, predictions, process, samplers, schedules
from diffusion_book.predictions import PREDICTIONS
from diffusion_book.schedules import EDM, SCHEDULES, VP, Cosine, Discrete, Flow, Schedule

FLOAT32 = torch.finfo(torch.float32).eps
FLOAT64 = torch.finfo(torch.float64).eps
ZERO_SNR = schedules.zero_terminal_snr(schedules.linear(100))
ALL = [
    *(make(50) for make in SCHEDULES.values()),
    ZERO_SNR,
    schedules.linear(50).continuous(),
    ZERO_SNR.continuous(),
    Flow(),
    EDM(),
    VP(),
    Cosine(),
    Cosine(0.5),
]


def times_of(schedule: Schedule, n: int = 9, last: float = 0.99) -> torch.Tensor:
    """Noisy times from near the data to near the end."""
    if isinstance(schedule, Discrete):
        return torch.linspace(1, schedule.T - 1, n).long()
    return schedule.T * torch.linspace(0.003, last, n, dtype=torch.float64)


def normal(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=generator, dtype=dtype)


def test_noising_is_that_of_diffusers(generator):
    theirs = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    x0, eps = normal(generator, 64, 3, dtype=torch.float32), normal(generator, 64, 3, dtype=torch.float32)
    t = torch.randint(1, 1001, (64,), generator=generator)
    ours = process.add_noise(schedules.linear(), x0, t, eps)
    # Their √ᾱ comes from a float32 product of up to 1000 factors: 1000 · 6e-8, halved by the root, on values near 3.
    torch.testing.assert_close(ours, theirs.add_noise(x0, eps, t - 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_one_jump_is_the_chain_of_single_steps(name):
    """Push mean and variance of one point through q(x_t | x_{t−1}) step by step."""
    schedule = schedules.by_name(name, 100)
    mean, variance = torch.full((1,), 1.7, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for t in range(1, 101):
        at_zero = process.forward_step(schedule, torch.zeros(1, dtype=torch.float64), t)
        gain = process.forward_step(schedule, torch.ones(1, dtype=torch.float64), t).mean - at_zero.mean
        mean, variance = gain * mean, gain**2 * variance + at_zero.std**2
        jump = process.marginal(schedule, torch.full((1,), 1.7, dtype=torch.float64), t)
        torch.testing.assert_close(jump.mean, mean, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(jump.std, variance.sqrt()[0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("t", "s"), [(50, 49), (100, 20), (2, 1), (100, 99)])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_posterior_is_bayes_rule_integrated_on_a_grid(name, t, s):
    """q(x_s | x_t, x_0) ∝ q(x_t | x_s) q(x_s | x_0), normalised by brute force in one dimension."""
    schedule = schedules.by_name(name, 100)
    x0, xt = 0.8, -0.5
    a_s, b_s = schedule.at(s).a.item(), schedule.at(s).b.item()
    x = torch.linspace(-12, 12, 2_000_001, dtype=torch.float64)
    alpha_ts = schedule.alpha[s + 1 : t + 1].prod()
    log_p = Normal(a_s * x0, b_s).log_prob(x) + Normal(alpha_ts.sqrt() * x, (1 - alpha_ts).sqrt()).log_prob(
        torch.tensor(xt, dtype=torch.float64)
    )
    p = log_p.softmax(0)  # of a uniform grid: a Riemann sum, exact to rounding for a Gaussian
    mean = (p * x).sum()
    std = (p * (x - mean) ** 2).sum().sqrt()
    found = process.posterior(
        schedule,
        torch.full((1, 1), xt, dtype=torch.float64),
        torch.full((1, 1), x0, dtype=torch.float64),
        t,
        s,
    )
    assert found.mean.item() == pytest.approx(mean.item(), abs=1e-7)
    assert found.std.item() == pytest.approx(std.item(), rel=1e-6)


def test_posterior_without_s_goes_one_step(generator):
    schedule, x = schedules.linear(30), normal(generator, 4, 2)
    t = torch.tensor([1, 2, 15, 30])
    for one, two in zip(process.posterior(schedule, x, -x, t), process.posterior(schedule, x, -x, t, t - 1)):
        assert torch.equal(one, two)


def test_posterior_takes_a_time_for_each_example(generator):
    schedule, x0, xt = schedules.cosine(30), normal(generator, 3, 2, 2), normal(generator, 3, 2, 2)
    t, s = torch.tensor([30, 12, 5]), torch.tensor([29, 3, 0])
    together = process.posterior(schedule, xt, x0, t, s)
    for i in range(3):
        alone = process.posterior(schedule, xt[i : i + 1], x0[i : i + 1], int(t[i]), int(s[i]))
        torch.testing.assert_close(together.mean[i : i + 1], alone.mean)
        torch.testing.assert_close(together.std[i].squeeze(), alone.std)


@pytest.mark.parametrize("schedule", [*(make(100) for make in SCHEDULES.values()), ZERO_SNR], ids=repr)
@pytest.mark.parametrize("t", [1, 2, 50, 100])
def test_alpha_bar_of_one_divides_nothing_by_zero(schedule, t, generator):
    """ᾱ_0 = 1: the step to the data is the data itself, with no noise and no NaN, from every t."""
    xt, x0 = normal(generator, 5, 2), normal(generator, 5, 2)
    found = process.posterior(schedule, xt, x0, t, 0)
    torch.testing.assert_close(found.mean, x0, rtol=1e-12, atol=1e-12)
    assert found.std.item() == 0
    to_previous = process.posterior(schedule, xt, x0, t)
    assert bool(torch.isfinite(to_previous.mean).all())
    assert bool(torch.isfinite(to_previous.std).all())


@given(st.lists(st.floats(1e-9, 0.999), min_size=3, max_size=20), st.data())
def test_posterior_never_has_more_noise_than_either_of_its_sources(beta, data):
    schedule = Discrete(torch.tensor(beta, dtype=torch.float64))
    t = data.draw(st.integers(2, schedule.T))
    s = data.draw(st.integers(1, t - 1))
    x = torch.ones(1, 1, dtype=torch.float64)
    std = process.posterior(schedule, x, x, t, s).std.item()
    step = math.sqrt(-math.expm1(torch.log1p(-schedule.beta[s + 1 : t + 1]).sum().item()))
    assert 0 < std <= min(schedule.at(s).b.item(), step) * (1 + 1e-6)


@pytest.mark.parametrize(("t", "s"), [(5, 5), (5, 6), (torch.tensor([5, 9]), torch.tensor([4, 9]))])
def test_a_posterior_that_goes_forward_is_refused(t, s):
    x = torch.zeros(2, 1)
    with pytest.raises(ValueError, match="a step goes between t and an s < t, got s = "):
        process.posterior(schedules.linear(10), x, x, t, s)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SCHEDULES)
def test_prior_kl_is_that_of_torch(name, dtype, generator):
    """Also in float32, where b_T of the cosine schedule rounds to one and the naive sum to nothing."""
    schedule = schedules.by_name(name)
    x0 = normal(generator, 3, 1, 8, 8).clamp(-1, 1)
    found = process.prior_kl(schedule, x0.to(dtype))
    alpha_bar = schedule.alpha_bar[-1]
    expected = kl_divergence(Normal(alpha_bar.sqrt() * x0, (1 - alpha_bar).sqrt()), Normal(0.0, 1.0))
    assert found.dtype == dtype
    # Each of the 64 dimensions is a difference of terms near one, rounded in float64.
    torch.testing.assert_close(found.double(), expected.sum((1, 2, 3)), rtol=1e-6, atol=64 * 1e-15)


@pytest.mark.parametrize("name", SCHEDULES)
def test_posterior_kl_is_that_of_torch(name, generator):
    schedule = schedules.by_name(name, 50)
    t = torch.tensor([2, 10, 49, 50])
    x0, x0_hat, xt = (normal(generator, 4, 3, 2) for _ in range(3))
    q, p = process.posterior(schedule, xt, x0, t), process.posterior(schedule, xt, x0_hat, t)
    expected = kl_divergence(Normal(q.mean, q.std), Normal(p.mean, p.std)).sum((1, 2))
    torch.testing.assert_close(process.posterior_kl(schedule, x0, x0_hat, t), expected, rtol=1e-8, atol=0)


def test_posterior_kl_is_finite_under_zero_terminal_snr(generator):
    """NaN weights under zero terminal SNR: the gap there is SNR(T−1) − 0."""
    x0, x0_hat = normal(generator, 2, 3), normal(generator, 2, 3)
    found = process.posterior_kl(ZERO_SNR, x0, x0_hat, ZERO_SNR.T)
    snr = (ZERO_SNR.alpha_bar[-2] / (1 - ZERO_SNR.alpha_bar[-2])).item()
    torch.testing.assert_close(found, 0.5 * snr * ((x0 - x0_hat) ** 2).sum(1), rtol=1e-9, atol=0)


def test_posterior_kl_refuses_the_reconstruction_term():
    with pytest.raises(ValueError, match=r"t in 2 … T, got t = 1; the term there is the reconstruction"):
        process.posterior_kl(schedules.linear(10), torch.zeros(1, 1), torch.zeros(1, 1), 1)


@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    prediction=st.sampled_from(PREDICTIONS),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_from_x0_then_to_x0_is_the_identity(name, prediction, shape, seed, data):
    schedule = schedules.by_name(name, 50)
    generator = torch.Generator().manual_seed(seed)
    x0, xt = normal(generator, *shape), normal(generator, *shape)
    t = data.draw(st.lists(st.integers(1, 50), min_size=shape[0], max_size=shape[0]).map(torch.tensor))
    output = predictions.from_x0(prediction, x0, schedule, xt, t)
    back = predictions.to_x0(prediction, output, schedule, xt, t)
    # ε and the score pass through a division by a: their rounding grows by 1/a, up to 3e4 at the end of the sigmoid.
    torch.testing.assert_close(back, x0, rtol=1e-9, atol=1e-9)


@given(
    name=st.sampled_from(sorted(SCHEDULES)),
    prediction=st.sampled_from(PREDICTIONS),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_the_target_is_the_face_of_the_true_x0(name, prediction, seed, data):
    """A perfect network, trained on `target`, makes `to_x0` return the data."""
    schedule = schedules.by_name(name, 50)
    generator = torch.Generator().manual_seed(seed)
    x0, eps = normal(generator, 3, 2), normal(generator, 3, 2)
    t = data.draw(st.lists(st.integers(1, 50), min_size=3, max_size=3).map(torch.tensor))
    xt = process.add_noise(schedule, x0, t, eps)
    output = predictions.target(prediction, schedule, x0, eps, t)
    torch.testing.assert_close(predictions.to_x0(prediction, output, schedule, xt, t), x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(predictions.from_x0(prediction, x0, schedule, xt, t), output, rtol=1e-8, atol=1e-8)


def test_the_v_target_is_the_velocity_of_diffusers(generator):
    theirs = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    x0, eps = normal(generator, 64, 3, dtype=torch.float32), normal(generator, 64, 3, dtype=torch.float32)
    t = torch.randint(1, 1001, (64,), generator=generator)
    ours = predictions.target("v", schedules.linear(), x0, eps, t)
    torch.testing.assert_close(ours, theirs.get_velocity(x0, eps, t - 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("prediction", "name"), [("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")])
def test_conversions_are_those_of_diffusers(prediction, name, generator):
    theirs = DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False, prediction_type=name
    )
    theirs.set_timesteps(1000)
    xt, output = normal(generator, 8, 3, dtype=torch.float32), normal(generator, 8, 3, dtype=torch.float32)
    for t in (1, 10, 400, 900):
        expected = theirs.step(output, t - 1, xt).pred_original_sample
        found = predictions.to_x0(prediction, output, schedules.linear(), xt, t)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_score_target_is_the_gradient_of_the_log_density(generator):
    schedule = schedules.cosine(20)
    x0, eps, t = normal(generator, 5, 2), normal(generator, 5, 2), torch.tensor([1, 5, 10, 15, 20])
    xt = process.add_noise(schedule, x0, t, eps).requires_grad_()
    alpha_bar = schedule.alpha_bar[t][:, None]
    Normal(alpha_bar.sqrt() * x0, (1 - alpha_bar).sqrt()).log_prob(xt).sum().backward()
    torch.testing.assert_close(predictions.target("score", schedule, x0, eps, t), xt.grad, rtol=1e-9, atol=1e-9)


def test_clipping_x0_tames_the_end_of_the_cosine_schedule():
    """The cosine clip exploding: at T an error of 0.001 in ε is an error of 20 in x̂0, and x0_max stops it."""
    schedule = schedules.cosine()
    x0, eps = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    xt = process.add_noise(schedule, x0, schedule.T, eps)
    off = eps + 1e-3
    assert predictions.to_x0("eps", off, schedule, xt, schedule.T).abs().min() > 20
    clipped = predictions.to_x0("eps", off, schedule, xt, schedule.T, x0_max=1.0)
    assert clipped.abs().max() == 1
    # A prediction of v needs no clip: the same error stays the same size.
    v = predictions.target("v", schedule, x0, eps, schedule.T)
    assert predictions.to_x0("v", v + 1e-3, schedule, xt, schedule.T).abs().max() < 1.01e-3


def test_clipping_leaves_what_is_inside_alone():
    x0 = torch.tensor([[-2.0, -0.3, 0.4, 5.0]])
    schedule = schedules.linear(10)
    for bound in (1.0, 3.0):
        clipped = predictions.to_x0("x0", x0, schedule, x0, 5, x0_max=bound)
        assert clipped.tolist() == [[max(-bound, min(bound, value)) for value in x0[0].tolist()]]


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_clipping_makes_no_black_pixel_of_an_overflow(bad):
    """Half precision overflows to ∞, which a clamp would turn into an ordinary −1 or 1."""
    x0 = torch.tensor([[0.5, bad, -3.0]])
    for clipped in (predictions.clip(x0, 1.0), predictions.to_x0("x0", x0, ZERO_SNR, torch.zeros(1, 3), 3, x0_max=1.0)):
        assert clipped[0, [0, 2]].tolist() == [0.5, -1]
        assert math.isnan(clipped[0, 1].item())


@pytest.mark.parametrize("prediction", ["eps", "score"])
def test_zero_terminal_snr_refuses_faces_that_say_nothing_of_x0(prediction):
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=rf"{prediction} where a\(t\) = 0 .*; predict v or x0 instead"):
        predictions.to_x0(prediction, x, ZERO_SNR, x, torch.tensor([3, ZERO_SNR.T]))
    assert bool(torch.isfinite(predictions.to_x0(prediction, x, ZERO_SNR, x, ZERO_SNR.T - 1)).all())


def test_zero_terminal_snr_keeps_v_and_x0_alive(generator):
    x0, eps = normal(generator, 2, 3), normal(generator, 2, 3)
    xt = process.add_noise(ZERO_SNR, x0, ZERO_SNR.T, eps)
    assert torch.equal(xt, eps)
    for prediction in ("v", "x0", "u", "F"):
        output = predictions.target(prediction, ZERO_SNR, x0, eps, ZERO_SNR.T)
        torch.testing.assert_close(predictions.to_x0(prediction, output, ZERO_SNR, xt, ZERO_SNR.T), x0)


@pytest.mark.parametrize(
    "call",
    [
        lambda p, s, x: predictions.to_x0(p, x, s, x, 3),
        lambda p, s, x: predictions.from_x0(p, x, s, x, 3),
        lambda p, s, x: predictions.target(p, s, x, x, 3),
    ],
    ids=["to_x0", "from_x0", "target"],
)
def test_an_unknown_prediction_is_refused_with_the_list_of_known_ones(call):
    with pytest.raises(
        ValueError,
        match=r"unknown prediction 'epsilon' \(did you mean 'eps'\?\); choose one of eps, x0, v, score, u, F$",
    ):
        call("epsilon", schedules.linear(10), torch.zeros(1, 1))


@pytest.mark.parametrize(
    "call",
    [
        lambda s, x: process.forward_step(s, x, 0),
        lambda s, x: process.posterior(s, x, x, 0),
        lambda s, x: process.posterior_kl(s, x, x, 0),
        lambda s, x: predictions.from_x0("eps", x, s, x, 0),
        lambda s, x: predictions.target("score", s, x, x, torch.tensor([0])),
    ],
    ids=["forward_step", "posterior", "posterior_kl", "from_x0", "target"],
)
def test_time_zero_is_refused_where_there_must_be_noise(call):
    with pytest.raises(ValueError, match=r"t must lie in 1 … 10 \(0 is data, 10 is noise\), got 0"):
        call(schedules.linear(10), torch.zeros(1, 1))


def test_bytes_are_refused():
    x = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"got torch.uint8; use .float\(\), and scale images to \[−1, 1\] first"):
        process.add_noise(schedules.linear(10), x, 3, torch.zeros(1, 1, 2, 2))


def test_noise_of_another_shape_is_refused():
    """[B] noise would broadcast over [B, B] pixels in silence."""
    with pytest.raises(ValueError, match=r"shape of x0, \(3, 3\), got \(3,\)"):
        process.add_noise(schedules.linear(10), torch.zeros(3, 3), 3, torch.zeros(3))


def test_a_prediction_of_another_shape_is_refused():
    """One number for each example would broadcast over its pixels in silence."""
    with pytest.raises(ValueError, match=r"shape of x_t, \(3, 2\), got \(3, 1\)"):
        predictions.to_x0("v", torch.zeros(3, 1), schedules.linear(10), torch.zeros(3, 2), 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_the_generators_and_like_x(dtype, generator):
    x = torch.zeros(2, 3, dtype=dtype)
    state = generator.get_state()
    eps = samplers.randn_like(x, generator)
    assert (eps.shape, eps.dtype) == (x.shape, dtype)
    assert torch.equal(eps, torch.randn(2, 3, generator=generator.set_state(state), dtype=dtype))


def test_a_gaussian_samples_by_reparameterisation():
    mean, std = torch.tensor([[1.0, 2.0]]), torch.tensor(3.0)
    assert process.Gaussian(mean, std).sample(torch.tensor([[0.0, -1.0]])).tolist() == [[1.0, -1.0]]


@given(schedule=st.sampled_from(ALL), data=st.data())
def test_posterior_is_the_conditional_of_a_joint_gaussian(schedule, data):
    """Given x_0, (x_s, x_t) is Gaussian with variances b_s², b_t² and covariance a_{t|s} b_s²: condition on x_t."""
    if isinstance(schedule, Discrete):
        t = data.draw(st.integers(2, schedule.T))
        s = data.draw(st.integers(1, t - 1))
    else:
        t = schedule.T * data.draw(st.floats(0.01, 1))
        s = t * data.draw(st.floats(0.001, 0.99))
    (_, a_t, b_t), (_, a_s, b_s) = (map(float, schedule.at(time)) for time in (t, s))
    covariance = a_t / a_s * b_s**2
    c_0, c_t, std = (float(value) for value in process.posterior_coefficients(schedule, t, s))
    assert c_t == pytest.approx(covariance / b_t**2, rel=1e-12, abs=1e-300)
    # The rest are differences of numbers up to b_s² and a_s; with 1 % between s and t they lose two digits at least.
    assert std**2 == pytest.approx(b_s**2 - covariance**2 / b_t**2, abs=20 * FLOAT64 * b_s**2)
    assert c_0 == pytest.approx(a_s - covariance / b_t**2 * a_t, abs=20 * FLOAT64)


@pytest.mark.parametrize("schedule", [s for s in ALL if not isinstance(s, Discrete)], ids=repr)
def test_two_steps_make_one(schedule):
    r, s, t = (schedule.T * part for part in (0.1, 0.4, 0.9))
    (a_sr, std_sr), (a_ts, std_ts) = (
        process.step_coefficients(schedule, s, r),
        process.step_coefficients(schedule, t, s),
    )
    a_tr, std_tr = process.step_coefficients(schedule, t, r)
    torch.testing.assert_close(a_ts * a_sr, a_tr, rtol=1e-13, atol=0)
    torch.testing.assert_close((std_ts**2 + (a_ts * std_sr) ** 2).sqrt(), std_tr, rtol=1e-13, atol=0)


def test_a_discrete_step_is_alpha_and_beta():
    schedule, t = schedules.cosine(40), torch.arange(1, 41)
    a, std = process.step_coefficients(schedule, t, t - 1)
    torch.testing.assert_close(a, schedule.alpha[1:].sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(std, schedule.beta[1:].sqrt(), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "call", [process.posterior_coefficients, lambda s, t: process.learned_std(s, torch.ones(1), t)]
)
def test_a_continuous_step_says_where_to(call):
    """t − 1 is a time of a discrete schedule; on [0, 1] it would be the data or less."""
    with pytest.raises(ValueError, match="a continuous schedule has no step before t: say which time s to go back to"):
        call(Flow(), 1.0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_learned_std_goes_from_small_to_large(name):
    schedule, t = schedules.by_name(name, 50), torch.arange(2, 51)
    small = process.posterior_coefficients(schedule, t).std
    large = schedule.beta[2:].sqrt()

    def std(v: float) -> torch.Tensor:
        return process.learned_std(schedule, torch.full((49, 1), v, dtype=torch.float64), t)[:, 0]

    torch.testing.assert_close(std(-1), small, rtol=1e-12, atol=0)
    torch.testing.assert_close(std(1), large, rtol=1e-12, atol=0)
    torch.testing.assert_close(std(0), (small * large).sqrt(), rtol=1e-12, atol=0)
    # Nichol and Dhariwal 2021, section 3.1, with its v in [0, 1] and variances in the place of standard deviations.
    theirs = torch.exp(0.7 * schedule.beta[2:].log() + 0.3 * (small**2).log())
    torch.testing.assert_close(std(0.4) ** 2, theirs, rtol=1e-12, atol=0)


@given(st.lists(st.floats(1e-6, 0.999), min_size=2, max_size=20))
def test_a_learned_std_at_the_data_has_a_bottom(beta):
    """At t = 1 the posterior is a point and its logarithm −∞; the step from 2 to 1 stands in, never above the large."""
    schedule = Discrete(torch.tensor(beta, dtype=torch.float64))
    low, high = (process.learned_std(schedule, torch.tensor([v], dtype=torch.float64), 1).item() for v in (-1, 1))
    b = schedule.beta
    assert low**2 == pytest.approx((b[1] * b[2] / (1 - schedule.alpha_bar[2])).item(), rel=1e-9)
    assert high**2 == pytest.approx(b[1].item(), rel=1e-9)
    assert 0 < low <= high


def test_a_learned_std_of_a_continuous_schedule_is_the_large_one_at_the_data():
    for v in (-1.0, 0.3, 1.0):
        assert process.learned_std(Flow(), torch.tensor([v]).double(), 0.1, 0).item() == pytest.approx(0.1, rel=1e-14)


def test_a_learned_std_is_per_pixel_and_of_the_dtype_of_v(generator):
    v = normal(generator, 3, 2, 4, 4, dtype=torch.float32)
    found = process.learned_std(schedules.linear(), v, torch.tensor([1, 500, 1000]))
    assert (found.shape, found.dtype) == (v.shape, torch.float32)
    assert bool((found > 0).all())


TEXTBOOK = {
    "eps": lambda a, b, xt, out: (xt - b * out) / a,
    "x0": lambda a, b, xt, out: out,
    "v": lambda a, b, xt, out: (a * xt - b * out) / (a**2 + b**2),
    "score": lambda a, b, xt, out: (xt + b**2 * out) / a,  # Tweedie
}


@pytest.mark.parametrize("prediction", TEXTBOOK)
@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_the_table_is_the_textbook(schedule, prediction, generator):
    t = times_of(schedule)
    xt, output = normal(generator, len(t), 3), normal(generator, len(t), 3)
    a, b = schedule.at(t).a[:, None], schedule.at(t).b[:, None]
    expected = TEXTBOOK[prediction](a, b, xt, output)
    # A few roundings of terms that may cancel: 1/a is up to 2e4 near the end.
    size = (xt.abs() + b * (1 + b) * output.abs()) / a + output.abs()
    assert bool(
        ((predictions.to_x0(prediction, output, schedule, xt, t) - expected).abs() <= 10 * FLOAT64 * size).all()
    )


@pytest.mark.parametrize(
    ("schedule", "of_u"), [(Flow(), lambda t, xt, u: xt - t * u), (EDM(), lambda t, xt, u: xt - t * u)]
)
def test_a_velocity_on_a_straight_line_leads_back_to_the_data(schedule, of_u, generator):
    """x_t = x_0 + t u on both: Flow's u is ε − x0, and EDM's is ε."""
    t, x0, eps = times_of(schedule), normal(generator, 9, 3), normal(generator, 9, 3)
    xt, u = process.add_noise(schedule, x0, t, eps), predictions.target("u", schedule, x0, eps, t)
    torch.testing.assert_close(u, eps - x0 if isinstance(schedule, Flow) else eps, rtol=1e-14, atol=1e-14)
    found = predictions.to_x0("u", u, schedule, xt, t)
    torch.testing.assert_close(found, of_u(t[:, None], xt, u), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", [s for s in ALL if not isinstance(s, Discrete)], ids=repr)
def test_u_is_the_velocity_of_x_t(schedule, generator):
    """By finite differences of x_t along t, at times between the knots of an interpolated schedule."""
    t, h = (times_of(schedule, 7) + 1e-3 * schedule.T / 100), 1e-6 * schedule.T
    x0, eps = normal(generator, 7, 3), normal(generator, 7, 3)
    ahead, behind = (process.add_noise(schedule, x0, t + step, eps) for step in (h, -h))
    u = predictions.target("u", schedule, x0, eps, t)
    # h² u''/6u is at most (h/t)²/2 = 6e-8, where b ~ √t; and x_t rounds at ε, divided by h.
    atol = 20 * FLOAT64 * (schedule.T if isinstance(schedule, EDM) else 1) / h
    torch.testing.assert_close(u, (ahead - behind) / (2 * h), rtol=1e-7, atol=atol)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 2.0])
def test_f_is_edms_network_inside_its_preconditioning(sigma_data, generator):
    """Karras et al. 2022, table 1, written out: D = c_skip x + c_out F(c_in x; c_noise)."""
    schedule = EDM(sigma_data=sigma_data)
    sigma = torch.tensor([0.002, 0.3, 1.0, 80.0], dtype=torch.float64)
    xt = normal(generator, 4, 3) * sigma[:, None]

    def network(x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * x) + c_noise[:, None]

    s, d = sigma[:, None], sigma_data
    c_skip, c_out = d**2 / (s**2 + d**2), s * d / (s**2 + d**2).sqrt()
    c_in, c_noise = 1 / (s**2 + d**2).sqrt(), sigma.log() / 4
    expected = c_skip * xt + c_out * network(c_in * xt, c_noise)
    output = denoise.run_network(network, "F", schedule, xt, sigma)
    torch.testing.assert_close(predictions.to_x0("F", output, schedule, xt, sigma), expected, rtol=1e-13, atol=1e-13)
    # The target of F: (y − c_skip (y + n)) / c_out.
    y, eps = normal(generator, 4, 3), normal(generator, 4, 3)
    target = (y - c_skip * (y + s * eps)) / c_out
    torch.testing.assert_close(predictions.target("F", schedule, y, eps, sigma), target, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_f_of_a_scaled_schedule_is_edms_at_the_same_noise(schedule, generator):
    """x_t / a is x0 + σ ε: EDM's picture of any schedule."""
    schedule.sigma_data, t = 0.7, times_of(schedule)
    try:
        x0, eps = normal(generator, 9, 3), normal(generator, 9, 3)
        edm = EDM(sigma_max=1e9, sigma_data=0.7)
        theirs = predictions.target("F", edm, x0, eps, schedule.at(t).sigma)
        torch.testing.assert_close(predictions.target("F", schedule, x0, eps, t), theirs, rtol=1e-12, atol=1e-12)
        seen = []
        xt = process.add_noise(schedule, x0, t, eps)
        denoise.run_network(lambda x, t: seen.append(x) or x, "F", schedule, xt, t)
        denoise.run_network(
            lambda x, t: seen.append(x) or x, "F", edm, xt / schedule.at(t).a[:, None], schedule.at(t).sigma
        )
        torch.testing.assert_close(seen[0], seen[1], rtol=1e-12, atol=1e-12)
    finally:
        schedule.sigma_data = EDM().sigma_data if isinstance(schedule, EDM) else 1.0


@pytest.mark.parametrize("schedule", [s for s in ALL if not isinstance(s, Flow | EDM)], ids=repr)
def test_f_is_minus_v_for_data_of_variance_one(schedule):
    t = torch.cat([times_of(schedule), times_of(schedule)[:1] * 0 + schedule.T])
    for f, v in zip(predictions.coefficients("F", schedule, t), predictions.coefficients("v", schedule, t)):
        torch.testing.assert_close(f, -v, rtol=4 * FLOAT64, atol=0)


@given(
    schedule=st.sampled_from(ALL),
    prediction=st.sampled_from(PREDICTIONS),
    seed=st.integers(0, 2**31),
    part=st.floats(1e-6, 0.999),
)
def test_there_and_back_for_every_face_of_every_schedule(schedule, prediction, seed, part):
    generator = torch.Generator().manual_seed(seed)
    t = max(1, int(part * schedule.T)) if isinstance(schedule, Discrete) else part * schedule.T
    x0, eps = normal(generator, 2, 3), normal(generator, 2, 3)
    xt = process.add_noise(schedule, x0, t, eps)
    output = predictions.target(prediction, schedule, x0, eps, t)
    back = predictions.to_x0(prediction, output, schedule, xt, t)
    # x_t and the output are rounded; what solves for x0 weighs them by c_t and c_out, and each is a few roundings.
    _, a, b = schedule.at(t)
    p, q = predictions.coefficients(prediction, schedule, t)
    size = (q * xt / (a * q - b * p)).abs() + (b * output / (a * q - b * p)).abs() + x0.abs()
    spread = (b / (a * q - b * p)).abs() * ((p * x0).abs() + (q * eps).abs())
    spread = spread + (q / (a * q - b * p)).abs() * ((a * x0).abs() + (b * eps).abs())
    assert bool(((back - x0).abs() <= 10 * FLOAT64 * (size + spread)).all())
    again = predictions.from_x0(prediction, back, schedule, xt, t)
    # The way out divides by b what the way in rounded.
    bound = 10 * FLOAT64 * ((p - q * a / b).abs() * (size + spread) + (q / b * xt).abs() + output.abs())
    assert bool(((again - output).abs() <= bound).all())


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_float32_is_float64_rounded(schedule, prediction, generator):
    t = times_of(schedule)
    xt, output = (normal(generator, len(t), 64, dtype=torch.float32) for _ in range(2))
    found = predictions.to_x0(prediction, output, schedule, xt, t)
    exact = predictions.to_x0(prediction, output.double(), schedule, xt.double(), t)
    a, b = schedule.at(t).a[:, None], schedule.at(t).b[:, None]
    p, q = (c[:, None] for c in predictions.coefficients(prediction, schedule, t))
    # Each of two coefficients, two products and one sum is rounded once.
    size = (q / (a * q - b * p) * xt).abs() + (b / (a * q - b * p) * output).abs()
    assert found.dtype == torch.float32
    assert bool(((found - exact).abs() <= 2 * FLOAT32 * size).all())
    target = predictions.target(prediction, schedule, xt, output, t)
    exact = predictions.target(prediction, schedule, xt.double(), output.double(), t)
    assert bool(((target - exact).abs() <= 2 * FLOAT32 * ((p * xt).abs() + (q * output).abs())).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_no_face_is_ever_nan(schedule, dtype, generator):
    """From the first time that is noisy to the last, also with zero terminal SNR."""
    first = torch.tensor([1]) if isinstance(schedule, Discrete) else torch.tensor([1e-9], dtype=torch.float64)
    t = torch.cat([first, times_of(schedule), torch.full_like(first, schedule.T)])
    x0, eps = normal(generator, len(t), 3, dtype=dtype), normal(generator, len(t), 3, dtype=dtype)
    xt = process.add_noise(schedule, x0, t, eps)
    for prediction in PREDICTIONS:
        output = predictions.target(prediction, schedule, x0, eps, t)
        assert bool(torch.isfinite(output).all())
        assert bool(torch.isfinite(predictions.from_x0(prediction, x0, schedule, xt, t)).all())
        if not (prediction in ("eps", "score") and schedule.ends_in_noise):
            assert bool(torch.isfinite(predictions.to_x0(prediction, output, schedule, xt, t)).all())


def test_the_prior_of_edm_is_as_wide_as_its_last_noise(generator):
    x0, schedule = normal(generator, 4, 3), EDM(sigma_max=10.0)
    expected = kl_divergence(Normal(x0, 10.0), Normal(torch.zeros_like(x0), 101**0.5)).sum(1)
    torch.testing.assert_close(process.prior_kl(schedule, x0), expected, rtol=1e-10, atol=1e-13)


def test_a_prior_kl_of_bytes_is_refused():
    with pytest.raises(ValueError, match=r"got torch.uint8; use .float\(\), and scale images to \[−1, 1\] first"):
        process.prior_kl(schedules.linear(10), torch.zeros(1, 1, 2, 2, dtype=torch.uint8))


def test_x0_of_another_shape_than_x_t_is_refused():
    with pytest.raises(ValueError, match=r"x0 must have the shape of x_t, \(3, 2\), got \(3, 1\)"):
        predictions.from_x0("v", torch.zeros(3, 1), schedules.linear(10), torch.zeros(3, 2), 3)


def test_times_on_the_cpu_serve_a_batch_on_another_device():
    """ "meta" refuses to mix with the CPU as a GPU does, and every machine has it."""
    x = torch.empty(2, 3, 4, 4, device="meta")
    for schedule, t, s in [
        (schedules.linear(10), torch.tensor([3, 10]), None),
        (Flow(), torch.tensor([0.5, 1.0]), 0.2),
    ]:
        found = [
            process.add_noise(schedule, x, t, x),
            *process.posterior(schedule, x, x, t, s),
            process.prior_kl(schedule, x),
        ]
        found += [process.learned_std(schedule, x, t, s)]
        for prediction in ("x0", "v", "u", "F"):
            found += [
                predictions.target(prediction, schedule, x, x, t),
                predictions.to_x0(prediction, x, schedule, x, t),
            ]
            found += [predictions.from_x0(prediction, x, schedule, x, t)]
            denoise.run_network(lambda xt, t, found=found: found.extend([xt, t]) or xt, prediction, schedule, x, t)
        assert all(tensor.device.type == "meta" for tensor in found)


def test_a_network_is_told_the_time_and_its_conditions_by_name():
    seen = {}

    def network(xt: torch.Tensor, t: torch.Tensor, **conditions: torch.Tensor) -> torch.Tensor:
        seen.update(conditions, xt=xt, t=t)
        return xt

    x, y = torch.ones(2, 3), torch.tensor([4, 5])
    denoise.run_network(network, "v", Flow(), x, torch.tensor([0.25, 1.0]), {"y": y})
    assert seen["t"].tolist() == [250, 1000]
    assert seen["t"].dtype == torch.float32  # a float64 time would turn a network's activations into float64
    assert set(seen) == {"xt", "t", "y"}
    assert seen["xt"] is x
    denoise.run_network(network, "v", Flow(), x.double(), torch.tensor([0.1], dtype=torch.float64))
    assert seen["t"].item() == pytest.approx(100, rel=1e-15)
    denoise.run_network(network, "v", Flow(), x.bfloat16(), torch.tensor([0.1234567], dtype=torch.float64))
    assert seen["t"].item() == pytest.approx(123.4567, rel=FLOAT32)  # in bfloat16 it would be 123
    denoise.run_network(network, "v", schedules.linear(10), x, torch.tensor([3, 10]))
    assert seen["t"].tolist() == [3, 10]
    assert seen["t"].dtype == torch.int64


@pytest.mark.parametrize("schedule", [EDM(sigma_data=0.5), schedules.linear(50), Flow()], ids=repr)
def test_a_network_for_f_sees_inputs_of_variance_one(schedule, generator):
    n, seen = 20_000, []
    for t in times_of(schedule, 3):
        x0 = schedule.sigma_data * normal(generator, n, 1)
        xt = process.add_noise(schedule, x0, t, normal(generator, n, 1))
        denoise.run_network(lambda x, t: seen.append(x) or x, "F", schedule, xt, t)
        # The variance of a sample variance of n normal numbers is 2/n.
        assert seen[-1].var().item() == pytest.approx(1, abs=4 * (2 / n) ** 0.5)


def test_the_noise_of_an_example_does_not_depend_on_its_batch():
    x = torch.zeros(3, 2, 4)
    together = samplers.randn_like(x, samplers.seeded([7, 8, 9]))
    assert torch.equal(together[1:2], samplers.randn_like(x[:1], samplers.seeded([8])))
    assert torch.equal(together[2], torch.randn(2, 4, generator=torch.Generator().manual_seed(9)))
    assert not torch.equal(together[0], together[1])
    # A second draw goes on where the first stopped, for each by itself.
    generators = samplers.seeded([7, 8, 9])
    samplers.randn_like(x, generators)
    alone = samplers.seeded([9])
    samplers.randn_like(x[:1], alone)
    assert torch.equal(samplers.randn_like(x, generators)[2:], samplers.randn_like(x[:1], alone))
    assert samplers.randn_like(torch.zeros(0, 5), []).shape == (0, 5)


def test_another_number_of_generators_than_examples_is_refused():
    with pytest.raises(ValueError, match="give one generator for each of the 3 examples, got 2"):
        samplers.randn_like(torch.zeros(3, 2), samplers.seeded([1, 2]))


@pytest.mark.parametrize("generator", [None, 5, [1, 2], "seed"])
def test_what_is_no_generator_is_told(generator):
    with pytest.raises(ValueError, match=r"random numbers need a torch.Generator, .* got "):
        samplers.randn_like(torch.zeros(2, 3), generator)


@pytest.mark.parametrize(("seeds", "got"), [(5, "5"), ("12", "'12'"), ([1.5], r"\[1.5\]"), ([0, "1"], r"\[0, '1'\]")])
def test_one_seed_is_not_a_list_of_them_nor_is_a_fraction_a_seed(seeds, got):
    with pytest.raises(
        ValueError, match=rf"one whole number for each example is needed, such as range\(16\), got {got}$"
    ):
        samplers.seeded(seeds)


@pytest.mark.parametrize("generator", [torch.Generator(), samplers.seeded([1, 2])])
def test_noise_like_integers_is_refused(generator):
    with pytest.raises(
        ValueError, match=r"floating point, got torch.int64; use .float\(\), and scale images to \[−1, 1\] first"
    ):
        samplers.randn_like(torch.zeros(2, 3, dtype=torch.long), generator)


ONE, THREE = torch.zeros(2, 1, 4, 4), torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, x, y: process.add_noise(s, x, 3, y), "eps must have the shape of x0"),
        (lambda s, x, y: process.posterior(s, x, y, 3), "x0 must have the shape of x_t"),
        (lambda s, x, y: process.posterior_kl(s, x, y, 3), "the predicted x0 must have the shape of x0"),
        (lambda s, x, y: predictions.target("v", s, x, y, 3), "eps must have the shape of x0"),
        (lambda s, x, y: predictions.to_x0("v", y, s, x, 3), "a prediction must have the shape of x_t"),
        (lambda s, x, y: predictions.from_x0("v", y, s, x, 3), "x0 must have the shape of x_t"),
        (lambda s, x, y: process.marginal(s, x, 3).sample(y), "eps must have the shape of the mean"),
    ],
    ids=["add_noise", "posterior", "posterior_kl", "target", "to_x0", "from_x0", "sample"],
)
def test_one_channel_beside_three_is_refused_and_so_are_integers(call, message):
    """[B, 1, H, W] would spread over [B, 3, H, W] in silence, and integers are images that nobody scaled."""
    for one, other in ((ONE, THREE), (THREE, ONE), (THREE, THREE[:1])):
        shapes = re.escape(f"{tuple(one.shape)}, got {tuple(other.shape)}")
        with pytest.raises(ValueError, match=f"^{message}, {shapes}$"):
            call(schedules.linear(10), one, other)
    for one, other in ((THREE, THREE.long()), (THREE.long(), THREE)):
        with pytest.raises(
            ValueError, match=r"a batch must be floating point, got torch.int64; use \.float\(\), and scale images"
        ):
            call(schedules.linear(10), one, other)


@pytest.mark.parametrize(
    "call",
    [
        lambda s, x: process.forward_step(s, x, torch.tensor([0.5, 0.5])),
        lambda s, x: process.posterior_kl(s, x, x, torch.tensor([0.5, 0.5])),
    ],
    ids=["forward_step", "posterior_kl"],
)
def test_a_step_of_a_schedule_without_steps_is_refused(call):
    with pytest.raises(
        ValueError, match=r"expected a discrete schedule, such as .*, got Flow\(T=1\), which has no steps"
    ):
        call(Flow(), THREE)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_batch_without_dimensions_is_refused(shape):
    x = torch.zeros(shape)
    for call in (lambda: process.prior_kl(ZERO_SNR, x), lambda: process.posterior_kl(ZERO_SNR, x, x, 3)):
        with pytest.raises(ValueError, match=rf"a batch must be \[B, …\], got shape {re.escape(str(shape))}; B single"):
            call()


@pytest.mark.parametrize(("t", "got"), [([2, 3, 4], "3 times"), ([[2], [3]], r"times of shape \(2, 1\)")])
def test_other_times_than_examples_in_a_kl_are_refused(t, got):
    with pytest.raises(ValueError, match=f"one for each of the 2 examples, got {got}"):
        process.posterior_kl(ZERO_SNR, THREE, THREE, torch.tensor(t))


@pytest.mark.parametrize("x0_max", [0, -1.0, math.nan])
def test_a_clip_to_nothing_is_refused(x0_max):
    """clamp(1, −1) makes every pixel −1."""
    with pytest.raises(ValueError, match=rf"x0_max must be positive, such as 1.0 for images in .*, got {x0_max}"):
        predictions.to_x0("v", THREE, ZERO_SNR, THREE, 3, x0_max)
