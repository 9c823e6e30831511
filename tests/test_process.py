"""The forward process, the posterior and the faces of a prediction, against integration, autograd and diffusers."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from diffusion_book import process, schedules
from diffusion_book.process import PREDICTIONS
from diffusion_book.schedules import SCHEDULES, Discrete

ZERO_SNR = schedules.zero_terminal_snr(schedules.linear(100))


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
    a_s, b_s = schedule.a(s).item(), schedule.b(s).item()
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
    assert 0 < std <= min(schedule.b(s).item(), step) * (1 + 1e-6)


@pytest.mark.parametrize(("t", "s"), [(5, 5), (5, 6), (torch.tensor([5, 9]), torch.tensor([4, 9]))])
def test_a_posterior_that_goes_forward_is_refused(t, s):
    x = torch.zeros(2, 1)
    with pytest.raises(ValueError, match="from t back to s < t, got s = "):
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
    output = process.from_x0(prediction, x0, schedule, xt, t)
    back = process.to_x0(prediction, output, schedule, xt, t)
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
    output = process.target(prediction, schedule, x0, eps, t)
    torch.testing.assert_close(process.to_x0(prediction, output, schedule, xt, t), x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(process.from_x0(prediction, x0, schedule, xt, t), output, rtol=1e-8, atol=1e-8)


def test_the_v_target_is_the_velocity_of_diffusers(generator):
    theirs = DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    x0, eps = normal(generator, 64, 3, dtype=torch.float32), normal(generator, 64, 3, dtype=torch.float32)
    t = torch.randint(1, 1001, (64,), generator=generator)
    ours = process.target("v", schedules.linear(), x0, eps, t)
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
        found = process.to_x0(prediction, output, schedules.linear(), xt, t)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_score_target_is_the_gradient_of_the_log_density(generator):
    schedule = schedules.cosine(20)
    x0, eps, t = normal(generator, 5, 2), normal(generator, 5, 2), torch.tensor([1, 5, 10, 15, 20])
    xt = process.add_noise(schedule, x0, t, eps).requires_grad_()
    alpha_bar = schedule.alpha_bar[t][:, None]
    Normal(alpha_bar.sqrt() * x0, (1 - alpha_bar).sqrt()).log_prob(xt).sum().backward()
    torch.testing.assert_close(process.target("score", schedule, x0, eps, t), xt.grad, rtol=1e-9, atol=1e-9)


def test_clipping_x0_tames_the_end_of_the_cosine_schedule():
    """The cosine clip exploding: at T an error of 0.001 in ε is an error of 20 in x̂0, and x0_max stops it."""
    schedule = schedules.cosine()
    x0, eps = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    xt = process.add_noise(schedule, x0, schedule.T, eps)
    off = eps + 1e-3
    assert process.to_x0("eps", off, schedule, xt, schedule.T).abs().min() > 20
    clipped = process.to_x0("eps", off, schedule, xt, schedule.T, x0_max=1.0)
    assert clipped.abs().max() == 1
    # A prediction of v needs no clip: the same error stays the same size.
    v = process.target("v", schedule, x0, eps, schedule.T)
    assert process.to_x0("v", v + 1e-3, schedule, xt, schedule.T).abs().max() < 1.01e-3


def test_clipping_leaves_what_is_inside_alone():
    x0 = torch.tensor([[-2.0, -0.3, 0.4, 5.0]])
    schedule = schedules.linear(10)
    for bound in (1.0, 3.0):
        clipped = process.to_x0("x0", x0, schedule, x0, 5, x0_max=bound)
        assert clipped.tolist() == [[max(-bound, min(bound, value)) for value in x0[0].tolist()]]


@pytest.mark.parametrize("prediction", ["eps", "score"])
def test_zero_terminal_snr_refuses_faces_that_say_nothing_of_x0(prediction):
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=rf"{prediction} where a\(t\) = 0 .*; predict v or x0 instead"):
        process.to_x0(prediction, x, ZERO_SNR, x, torch.tensor([3, ZERO_SNR.T]))
    assert bool(torch.isfinite(process.to_x0(prediction, x, ZERO_SNR, x, ZERO_SNR.T - 1)).all())


def test_zero_terminal_snr_keeps_v_and_x0_alive(generator):
    x0, eps = normal(generator, 2, 3), normal(generator, 2, 3)
    xt = process.add_noise(ZERO_SNR, x0, ZERO_SNR.T, eps)
    assert torch.equal(xt, eps)
    for prediction in ("v", "x0"):
        output = process.target(prediction, ZERO_SNR, x0, eps, ZERO_SNR.T)
        torch.testing.assert_close(process.to_x0(prediction, output, ZERO_SNR, xt, ZERO_SNR.T), x0)


@pytest.mark.parametrize(
    "call",
    [
        lambda p, s, x: process.to_x0(p, x, s, x, 3),
        lambda p, s, x: process.from_x0(p, x, s, x, 3),
        lambda p, s, x: process.target(p, s, x, x, 3),
    ],
    ids=["to_x0", "from_x0", "target"],
)
def test_an_unknown_prediction_is_refused_with_the_list_of_known_ones(call):
    with pytest.raises(ValueError, match="unknown prediction 'epsilon'; choose one of eps, x0, v, score"):
        call("epsilon", schedules.linear(10), torch.zeros(1, 1))


@pytest.mark.parametrize(
    "call",
    [
        lambda s, x: process.forward_step(s, x, 0),
        lambda s, x: process.posterior(s, x, x, 0),
        lambda s, x: process.posterior_kl(s, x, x, 0),
        lambda s, x: process.from_x0("eps", x, s, x, 0),
        lambda s, x: process.target("score", s, x, x, torch.tensor([0])),
    ],
    ids=["forward_step", "posterior", "posterior_kl", "from_x0", "target"],
)
def test_time_zero_is_refused_where_there_must_be_noise(call):
    with pytest.raises(ValueError, match=r"t must lie in 1 … 10, got 0"):
        call(schedules.linear(10), torch.zeros(1, 1))


def test_bytes_are_refused():
    x = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"got torch.uint8; scale images to \[−1, 1\] first"):
        process.add_noise(schedules.linear(10), x, 3, torch.zeros(1, 1, 2, 2))


def test_noise_of_another_shape_is_refused():
    """[B] noise would broadcast over [B, B] pixels in silence."""
    with pytest.raises(ValueError, match=r"shape of x0, \(3, 3\), got \(3,\)"):
        process.add_noise(schedules.linear(10), torch.zeros(3, 3), 3, torch.zeros(3))


def test_a_prediction_of_another_shape_is_refused():
    """One number for each example would broadcast over its pixels in silence."""
    with pytest.raises(ValueError, match=r"shape of x_t, \(3, 2\), got \(3, 1\)"):
        process.to_x0("v", torch.zeros(3, 1), schedules.linear(10), torch.zeros(3, 2), 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_the_generators_and_like_x(dtype, generator):
    x = torch.zeros(2, 3, dtype=dtype)
    state = generator.get_state()
    eps = process.randn_like(x, generator)
    assert (eps.shape, eps.dtype) == (x.shape, dtype)
    assert torch.equal(eps, torch.randn(2, 3, generator=generator.set_state(state), dtype=dtype))


def test_a_gaussian_samples_by_reparameterisation():
    mean, std = torch.tensor([[1.0, 2.0]]), torch.tensor(3.0)
    assert process.Gaussian(mean, std).sample(torch.tensor([[0.0, -1.0]])).tolist() == [[1.0, -1.0]]
