"""The forward process and the posterior, against integration, autograd and diffusers."""

import math
import re

import pytest
import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from _support.schedules import ALL, ZERO_SNR, normal, times_of
from diffusion_book import denoise, predictions, process, schedules
from diffusion_book.schedules import EDM, SCHEDULES, Discrete, Flow

FLOAT64 = torch.finfo(torch.float64).eps


@pytest.mark.parametrize("schedule", [s for s in ALL if not isinstance(s, Discrete)], ids=repr)
def test_drift_and_diffusion_carry_the_coefficients(schedule):
    """ȧ = f a and (b²)' = 2 f b² + g², with the left sides by finite differences of a and b."""
    t = times_of(schedule)
    t = t[(t % 1).abs().clamp(max=1) > 1e-3] if schedule.T > 1 else t  # between the knots of an interpolation
    h = 1e-6 * t
    f, g2 = process.drift_and_diffusion(schedule, t)
    before, here, after = schedule.at(t - h), schedule.at(t), schedule.at(t + h)
    a_dot, b2_dot = (after.a - before.a) / (2 * h), (after.b**2 - before.b**2) / (2 * h)
    # A difference over 2h loses the digits of what it divides: 1e-16 of a and b², over 1e-6 of t.
    scale = (here.b**2 + here.a**2) / t
    assert bool(((f * here.a - a_dot).abs() <= 1e-8 * (a_dot.abs() + scale)).all())
    assert bool(((2 * f * here.b**2 + g2 - b2_dot).abs() <= 1e-8 * (b2_dot.abs() + g2 + scale)).all())
    assert bool((g2 > 0).all())


def test_drift_and_diffusion_of_the_three_sdes():
    """Song et al. 2021b, equations 9, 11 and 12, as they are printed there."""
    t = torch.linspace(0.001, 1, 50, dtype=torch.float64)
    beta, integral = 0.1 + 19.9 * t, 0.1 * t + 0.5 * 19.9 * t**2
    sigma2 = (0.01 * 5000**t) ** 2
    printed = {
        schedules.VE(): (0 * t, sigma2 * 2 * math.log(5000)),
        schedules.VP(): (-0.5 * beta, beta),
        schedules.SubVP(): (-0.5 * beta, beta * (1 - torch.exp(-2 * integral))),
    }
    for schedule, expected in printed.items():
        for found, wanted in zip(process.drift_and_diffusion(schedule, t), expected):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-15)


def test_no_finite_drift_forgets_everything():
    f, g2 = process.drift_and_diffusion(Flow(), [0.5, 1.0])
    assert (f.tolist(), g2.tolist()) == ([-2, -math.inf], [2, math.inf])
    with pytest.raises(ValueError, match=r"t must lie in \(0, 1\]"):
        process.drift_and_diffusion(Flow(), 0.0)


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


def test_the_prior_of_edm_is_as_wide_as_its_last_noise(generator):
    x0, schedule = normal(generator, 4, 3), EDM(sigma_max=10.0)
    expected = kl_divergence(Normal(x0, 10.0), Normal(torch.zeros_like(x0), 101**0.5)).sum(1)
    torch.testing.assert_close(process.prior_kl(schedule, x0), expected, rtol=1e-10, atol=1e-13)


def test_a_prior_kl_of_bytes_is_refused():
    with pytest.raises(ValueError, match=r"got torch.uint8; use .float\(\), and scale images to \[−1, 1\] first"):
        process.prior_kl(schedules.linear(10), torch.zeros(1, 1, 2, 2, dtype=torch.uint8))


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
