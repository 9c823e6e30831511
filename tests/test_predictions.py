"""The faces of a prediction, against the textbook, autograd, EDM's paper and diffusers."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal

from _support.schedules import ALL, ZERO_SNR, normal, times_of
from diffusion_book import denoise, predictions, process, schedules
from diffusion_book.predictions import PREDICTIONS
from diffusion_book.schedules import EDM, SCHEDULES, VE, Discrete, Flow, SubVP

FLOAT32 = torch.finfo(torch.float32).eps

FLOAT64 = torch.finfo(torch.float64).eps

THREE = torch.zeros(2, 3, 4, 4)


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
    with pytest.raises(ValueError, match=rf"{prediction} where a\(t\) = 0 .*; predict v or x0"):
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


def test_a_prediction_of_another_shape_is_refused():
    """One number for each example would broadcast over its pixels in silence."""
    with pytest.raises(ValueError, match=r"shape of x_t, \(3, 2\), got \(3, 1\)"):
        predictions.to_x0("v", torch.zeros(3, 1), schedules.linear(10), torch.zeros(3, 2), 3)


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


@pytest.mark.parametrize("schedule", [s for s in ALL if not isinstance(s, Flow | EDM | VE | SubVP)], ids=repr)
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


def test_x0_of_another_shape_than_x_t_is_refused():
    with pytest.raises(ValueError, match=r"x0 must have the shape of x_t, \(3, 2\), got \(3, 1\)"):
        predictions.from_x0("v", torch.zeros(3, 1), schedules.linear(10), torch.zeros(3, 2), 3)


@pytest.mark.parametrize("x0_max", [0, -1.0, math.nan])
def test_a_clip_to_nothing_is_refused(x0_max):
    """clamp(1, −1) makes every pixel −1."""
    with pytest.raises(ValueError, match=rf"x0_max must be positive, such as 1.0 for images in .*, got {x0_max}"):
        predictions.to_x0("v", THREE, ZERO_SNR, THREE, 3, x0_max)
