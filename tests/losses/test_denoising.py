"""The loss of a denoiser and its weights, against closed forms."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from _support.gaussians import gaussian
from diffusion_book import losses, predictions, process, schedules
from diffusion_book.data import GaussianMixture
from diffusion_book.denoise import exact
from diffusion_book.predictions import PREDICTIONS
from diffusion_book.schedules import EDM, VP, Cosine, Discrete, Flow

LINEAR = schedules.linear()

LINEAR_10 = schedules.linear(10, 0.01, 0.4)

ZERO_SNR = schedules.zero_terminal_snr(schedules.linear(50))

WEIGHTS = {"min_snr": losses.min_snr(), "p2": losses.p2(), "vdm": losses.vdm(), "edm": losses.edm()}

REAL = [Flow(), EDM(), VP(), Cosine(), LINEAR.continuous()]


def best_network(data: GaussianMixture, schedule: schedules.Schedule, prediction: predictions.Prediction):
    denoiser = exact(data, schedule)
    return lambda xt, t: predictions.from_x0(prediction, denoiser(xt, t), schedule, xt, t)


@pytest.mark.parametrize(("t", "expected"), [(1, 0.9999), (259, 0.5), (1000, 4.036e-5)])
def test_the_least_eps_loss_for_unit_gaussian_data(t, expected, generator):
    """It is alpha_bar: high at small t, where the noise is a whisper, and low at large t."""
    n = 20_000
    data = gaussian(1.0)
    x0 = data.sample(n, generator)
    eps = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    loss = losses.simple_loss(best_network(data, LINEAR, "eps"), LINEAR, x0, torch.full((n,), t), eps, "eps")
    # Four standard errors, and that ᾱ_259 is ½ only to 0.002.
    assert loss.mean().item() == pytest.approx(expected, abs=4 * loss.std().item() / n**0.5 + 0.002 * expected)


@pytest.mark.parametrize("std", [0.3, 2.0])
@pytest.mark.parametrize("t", [5, 200, 700])
def test_the_least_eps_loss_for_gaussian_data_of_any_width(t, std, generator):
    n = 20_000
    data = gaussian(std)
    x0, eps = data.sample(n, generator), torch.randn(n, 2, generator=generator, dtype=torch.float64)
    loss = losses.simple_loss(best_network(data, LINEAR, "eps"), LINEAR, x0, torch.full((n,), t), eps, "eps")
    alpha_bar = LINEAR.alpha_bar[t].item()
    expected = alpha_bar * std**2 / (alpha_bar * std**2 + 1 - alpha_bar)
    assert loss.mean().item() == pytest.approx(expected, abs=4 * loss.std().item() / n**0.5)


def test_the_faces_weigh_one_error_by_the_snr(generator):
    """For one x̂0 the ε-loss is SNR times the x0-loss, and the v-loss SNR + 1 times: the +1 of min-SNR under v."""
    t = torch.tensor([1, 10, 300, 800, 1000])
    x0, eps, x0_hat = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    snr = LINEAR.alpha_bar[t] / (1 - LINEAR.alpha_bar[t])

    def loss(prediction: predictions.Prediction) -> torch.Tensor:
        def network(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return predictions.from_x0(prediction, x0_hat, LINEAR, xt, t)

        return losses.simple_loss(network, LINEAR, x0, t, eps, prediction)

    torch.testing.assert_close(loss("x0"), ((x0 - x0_hat) ** 2).mean(1))
    torch.testing.assert_close(loss("eps"), snr * loss("x0"), rtol=1e-9, atol=0)
    torch.testing.assert_close(loss("v"), (snr + 1) * loss("x0"), rtol=1e-9, atol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_one_number_an_example_and_zero_for_the_truth(prediction, generator):
    x0, eps = torch.randn(4, 1, 3, 3, generator=generator), torch.randn(4, 1, 3, 3, generator=generator)
    t = torch.tensor([1, 20, 500, 1000])
    truth = predictions.target(prediction, LINEAR, x0, eps, t)
    off = torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None, None, None]
    loss = losses.simple_loss(lambda xt, t: truth + off, LINEAR, x0, t, eps, prediction)
    # The score at t = 1 is ε/b = 100 ε: adding to it rounds at 1e-5.
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 4.0, 9.0]), rtol=1e-4, atol=1e-6)


def test_zero_terminal_snr_gives_no_nan_weights(generator):
    schedule = schedules.zero_terminal_snr(schedules.linear(50))
    weight = torch.zeros(3, requires_grad=True)
    x0, eps = torch.randn(2, 3, generator=generator), torch.randn(2, 3, generator=generator)
    loss = losses.simple_loss(lambda xt, t: weight * xt, schedule, x0, torch.tensor([50, 50]), eps, "v")
    loss.mean().backward()
    # With weight 0 the v-loss at T is the mean of x0²: v = 0 · ε − 1 · x0.
    torch.testing.assert_close(loss.detach(), (x0**2).mean(1))
    assert weight.grad is not None
    assert bool(torch.isfinite(weight.grad).all())


def test_labels_reach_the_network():
    seen = []

    def network(xt: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(y.tolist())
        return xt

    x = torch.zeros(2, 3)
    losses.simple_loss(network, LINEAR, x, torch.tensor([1, 2]), x, "v", {"y": torch.tensor([8, 9])})
    assert seen == [[8, 9]]


def test_a_half_precision_output_is_compared_in_float32(generator):
    x0, eps = torch.randn(4, 8, generator=generator), torch.randn(4, 8, generator=generator)
    t = torch.tensor([10, 100, 500, 900])
    loss = losses.simple_loss(lambda xt, t: xt.bfloat16(), LINEAR, x0, t, eps, "eps")
    rounded = process.add_noise(LINEAR, x0, t, eps).bfloat16().float()
    torch.testing.assert_close(loss, ((rounded - eps) ** 2).mean(1))  # also tells that the loss is float32


def test_a_network_of_another_shape_is_refused():
    """Six channels for three: mean and variance were learned, and only one of them is wanted."""
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"shape of its input, \(2, 3, 4, 4\), got \(2, 6, 4, 4\)"):
        losses.simple_loss(lambda xt, t: torch.cat([xt, xt], 1), LINEAR, x, torch.tensor([1, 2]), x)


def test_a_network_that_returns_no_tensor_is_refused():
    """The records of diffusers, the pairs of others, nothing: in both losses and in the bound."""
    x, t = torch.zeros(2, 3), torch.tensor([5, 5])
    for answer, got in (
        (SimpleNamespace(sample=x), "SimpleNamespace; pass lambda x, t: net(x, t).sample"),
        ((x, x), "tuple; pass lambda x, t: net(x, t)[0]"),
        (None, "NoneType; return it as torch.Tensor"),
    ):
        message = re.escape(f"must return a tensor, got {got}")
        for loss in (losses.simple_loss, losses.hybrid_loss):
            with pytest.raises(ValueError, match=f"the network {message}"):
                loss(lambda x, t, answer=answer: answer, LINEAR_10, x, t, x)
        with pytest.raises(ValueError, match=f"the denoiser {message}"):
            losses.vlb(lambda x, t, answer=answer: answer, LINEAR_10, x, torch.Generator())


def test_data_that_are_no_tensor_are_refused():
    x, t = torch.zeros(2, 3), torch.tensor([5, 5])
    for x0, eps in ((x.numpy(), x), (x, None)):
        with pytest.raises(ValueError, match=r"a batch must be a tensor \[B, …\], got (ndarray|NoneType)"):
            losses.simple_loss(lambda x, t: x, LINEAR_10, x0, t, eps)


def test_training_at_time_zero_is_refused():
    """x_0 has no noise in it to predict."""
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"t must lie in 1 … 1000 \(0 is data, 1000 is noise\), got 0 … 5"):
        losses.simple_loss(lambda xt, t: xt, LINEAR, x, torch.tensor([0, 5]), x)


def test_an_unknown_prediction_is_refused_with_the_list_of_known_ones():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"choose one of eps, x0, v, score, u, F$"):
        losses.simple_loss(lambda xt, t: xt, LINEAR, x, torch.tensor([1, 5]), x, "velocity")


SNR_FORMULAS = {
    # On which error, the weight in terms of S = SNR and γ: the third is what the + 1 belongs to.
    "eps": lambda S, gamma: S.clamp(max=gamma) / S,
    "x0": lambda S, gamma: S.clamp(max=gamma),
    "v": lambda S, gamma: S.clamp(max=gamma) / (S + 1),
}


@pytest.mark.parametrize("prediction", SNR_FORMULAS)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("schedule", [LINEAR, schedules.cosine(), schedules.scaled_linear()], ids=repr)
def test_min_snr_under_each_face_and_the_plus_one_under_v(schedule, gamma, prediction):
    t = torch.arange(1, 1001)
    S = schedule.alpha_bar[t] / (1 - schedule.alpha_bar[t])
    found = losses.weight_of(losses.min_snr(gamma), prediction, schedule, t)
    # 1 − ᾱ_1 = 4e-5 in the cosine has lost five digits of the sixteen.
    torch.testing.assert_close(found, SNR_FORMULAS[prediction](S, gamma), rtol=1e-10, atol=0)


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("schedule", [LINEAR, *REAL], ids=repr)
def test_one_weight_is_one_objective_whatever_is_predicted(schedule, weight, generator):
    """The same x̂0, written as each face: the weighted losses must agree."""
    parts = torch.tensor([0.01, 0.2, 0.5, 0.9, 0.99], dtype=torch.float64)
    t = (parts * schedule.T).ceil().long() if isinstance(schedule, Discrete) else parts * schedule.T
    x0, eps, x0_hat = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(3))

    def loss(prediction: predictions.Prediction) -> torch.Tensor:
        def network(xt: torch.Tensor, clock: torch.Tensor) -> torch.Tensor:
            scaled = torch.hypot(schedule.at(t).a * schedule.sigma_data, schedule.at(t).b)[:, None]
            return predictions.from_x0(prediction, x0_hat, schedule, xt * scaled if prediction == "F" else xt, t)

        return losses.simple_loss(network, schedule, x0, t, eps, prediction, weight=weight)

    expected = weight(schedule, t) * schedule.at(t).a ** 2 / schedule.at(t).b ** 2 * ((x0 - x0_hat) ** 2).mean(1)
    for prediction in PREDICTIONS:
        # ε̂ = (x_t − a x̂0)/b takes two digits from the sixteen where b is 0.01 and a 100 times more.
        torch.testing.assert_close(loss(prediction), expected, rtol=1e-9, atol=0)


LIMITS = {
    # a → 0 with S = a²/b²: what each weight tends to on each error, for b = 1.
    ("min_snr", "eps"): 1.0,
    ("min_snr", "x0"): 0.0,
    ("min_snr", "v"): 0.0,
    ("min_snr", "F"): 0.0,
    ("p2", "eps"): 1.0,
    ("p2", "v"): 0.0,
    ("vdm", "x0"): 0.0,
    ("vdm", "v"): 0.0,
    ("vdm", "F"): 0.0,
    ("edm", "x0"): 1.0,
    ("edm", "v"): 1.0,
    ("edm", "F"): 1.0,
}


@pytest.mark.parametrize(("name", "prediction"), LIMITS)
@pytest.mark.parametrize("schedule", [ZERO_SNR, ZERO_SNR.continuous(), Cosine()], ids=repr)
def test_zero_terminal_snr_has_the_limit_of_each_weight_and_no_nan(schedule, name, prediction):
    found = losses.weight_of(WEIGHTS[name], prediction, schedule, torch.tensor([schedule.T]))
    assert found.item() == pytest.approx(LIMITS[name, prediction], rel=1e-12, abs=1e-40)
    if not isinstance(schedule, Discrete):  # and it is a limit: a ~ 1e-6 there, so a² is 1e-12
        near = losses.weight_of(WEIGHTS[name], prediction, schedule, torch.tensor([schedule.T * (1 - 1e-7)]).double())
        assert near.item() == pytest.approx(LIMITS[name, prediction], abs=1e-4)


@pytest.mark.parametrize("name", ["vdm", "edm"])
@pytest.mark.parametrize("prediction", ["eps", "score"])
def test_a_weight_that_is_infinite_is_refused(prediction, name):
    with pytest.raises(ValueError, match=rf"on {prediction} is infinite where a\(t\) = 0 .*; predict v"):
        losses.weight_of(WEIGHTS[name], prediction, ZERO_SNR, torch.tensor([3, 50]))
    assert bool(torch.isfinite(losses.weight_of(WEIGHTS[name], prediction, ZERO_SNR, torch.arange(1, 50))).all())


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weighted_loss_under_zero_terminal_snr_trains(name, generator):
    x0, eps = torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator)
    scale = torch.ones((), requires_grad=True)
    t = torch.tensor([1, 25, 50])
    losses.simple_loss(lambda x, t: scale * x, ZERO_SNR, x0, t, eps, "v", weight=WEIGHTS[name]).mean().backward()
    assert bool(torch.isfinite(scale.grad))


def test_p2_is_its_formula():
    t = torch.arange(1, 1001)
    S = LINEAR.alpha_bar[t] / (1 - LINEAR.alpha_bar[t])
    for gamma, k in [(1.0, 1.0), (0.5, 2.0)]:
        found = losses.weight_of(losses.p2(gamma, k), "eps", LINEAR, t)
        torch.testing.assert_close(found, 1 / (k + S) ** gamma, rtol=1e-10, atol=0)
    assert bool((losses.weight_of(losses.p2(0.0), "eps", LINEAR, t) == 1).all())


@pytest.mark.parametrize("schedule", [EDM(), EDM(sigma_data=1.3), LINEAR, Flow()], ids=repr)
def test_edms_weight_is_one_on_f(schedule):
    t = torch.arange(1, 1001) if schedule is LINEAR else torch.linspace(0.002, 1, 50, dtype=torch.float64)
    found = losses.weight_of(losses.edm(), "F", schedule, t)
    torch.testing.assert_close(found, torch.ones_like(found), rtol=1e-12, atol=0)
    sigma, sigma_data = schedule.at(t).sigma[:-1], schedule.sigma_data
    expected = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2  # λ(σ) of their table 1, on the error of D
    torch.testing.assert_close(losses.weight_of(losses.edm(), "x0", schedule, t)[:-1], expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("std", [0.5, 2.0])
@pytest.mark.parametrize("schedule", REAL, ids=repr)
def test_vdm_is_the_information_that_a_schedule_destroys(schedule, std, generator):
    """For Gaussian data the diffusion term from t_min to T is I(x0; x_t_min) − I(x0; x_T), with I = ½ log(1 + s² SNR).

    So it depends on the ends of the schedule alone (Kingma et al. 2021, section 5.1).
    """
    low, high = (0.5 * math.log1p(std**2 * math.exp(schedule.at(t).log_snr)) for t in (schedule.T, 0.05 * schedule.T))
    # By Gauss and Legendre's rule of the weight times the exact least ε-loss a²s²/(a²s² + b²), over each of 200 parts:
    # an interpolated schedule has a kink at each of its integers, and a part is five of them.
    nodes, rule = np.polynomial.legendre.leggauss(20)
    edges = torch.linspace(0.05, 1, 951, dtype=torch.float64) * schedule.T
    t = (edges[:-1, None] + edges.diff()[:, None] * (torch.from_numpy(nodes) + 1) / 2).clamp(max=schedule.T)
    _, a, b = schedule.at(t)
    least = (a * std) ** 2 / ((a * std) ** 2 + b**2)
    weight = losses.weight_of(losses.vdm(), "eps", schedule, t) / schedule.T
    integral = (weight * least * edges.diff()[:, None] / 2 * torch.from_numpy(rule)).sum()
    assert integral.item() == pytest.approx(high - low, rel=1e-9)
    # And as it is trained: the weighted v-loss of the best network at uniform times.
    n, data = 20_000, gaussian(std, dim=1)
    t = schedule.T * (0.05 + 0.95 * torch.rand(n, generator=generator, dtype=torch.float64))
    x0, eps = data.sample(n, generator), torch.randn(n, 1, generator=generator, dtype=torch.float64)

    def network(xt: torch.Tensor, clock: torch.Tensor) -> torch.Tensor:
        return predictions.from_x0("v", exact(data, schedule)(xt, t), schedule, xt, t)

    loss = 0.95 * losses.simple_loss(network, schedule, x0, t, eps, "v", weight=losses.vdm())
    assert loss.mean().item() == pytest.approx(high - low, abs=4 * loss.std().item() / n**0.5)


def test_edms_training_is_the_weighted_error_of_its_denoiser(generator):
    """Karras et al. 2022, equation 2 with the λ(σ) of table 1, against the loss of "F" as it is."""
    schedule, n = EDM(sigma_data=0.5), 64
    sigma = losses.draw_sigma_times(schedule, n, generator)
    y, eps = 0.5 * torch.randn(n, 3, generator=generator).double(), torch.randn(n, 3, generator=generator).double()

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.tanh(2 * x) + t[:, None]

    s = sigma[:, None]
    r = (s**2 + 0.25).sqrt()
    D = 0.25 / r**2 * (y + s * eps) + s * 0.5 / r * network((y + s * eps) / r, sigma.log() / 4)
    expected = (((s**2 + 0.25) / (0.5 * s) ** 2) * (D - y) ** 2).mean(1)
    torch.testing.assert_close(losses.simple_loss(network, schedule, y, sigma, eps, "F"), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("t", "got"),
    [
        (torch.tensor([1]), r"shape \(1,\)"),
        (torch.tensor([1, 2, 3]), r"shape \(3,\)"),
        (torch.tensor([[1], [2]]), r"shape \(2, 1\)"),
        (torch.tensor(3), r"shape \(\)"),
        (3, "3"),
    ],
)
def test_another_number_of_times_than_examples_is_refused(t, got):
    """With a weight, times [B, 1] would make losses [B, B] in silence."""
    x = torch.zeros(2, 3)
    for loss in (losses.simple_loss, losses.hybrid_loss):
        with pytest.raises(ValueError, match=f"t must be a tensor of one time for each of the 2 examples, got {got}$"):
            loss(lambda xt, t: xt, LINEAR, x, t, x)


@pytest.mark.parametrize("x", [torch.zeros(2), torch.zeros(2, 3, dtype=torch.long)])
def test_what_is_no_batch_is_refused(x):
    t = torch.tensor([1, 2])
    for call in (
        lambda: losses.simple_loss(lambda xt, t: xt, LINEAR, x, t, x),
        lambda: losses.hybrid_loss(lambda xt, t: xt, LINEAR, x, t, x),
        lambda: losses.vlb(lambda xt, t: xt, LINEAR_10, x, torch.Generator()),
        lambda: losses.reconstruction(x, x, torch.ones(2)),
    ):
        with pytest.raises(
            ValueError, match=r"a batch must be (\[B, …\], got shape \(2,\)|floating point, got torch.int64)"
        ):
            call()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *(
            (lambda gamma=gamma: losses.min_snr(gamma), f"gamma must be positive and finite, got {gamma}")
            for gamma in (0, -5, math.nan, math.inf)
        ),
        *((lambda k=k: losses.p2(k=k), f"k must be positive and finite, got {k}") for k in (0, -1, math.nan, math.inf)),
        *(
            (lambda gamma=gamma: losses.p2(gamma), f"gamma must be finite and not negative, got {gamma}; 0 weighs all")
            for gamma in (-1, math.nan, math.inf)
        ),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_defaults_are_the_published_ones():
    """Hang et al. γ = 5; Choi et al. γ = k = 1."""
    schedule, t = schedules.linear(), torch.arange(1, 1001, 37)
    assert torch.equal(losses.min_snr()(schedule, t), losses.min_snr(gamma=5)(schedule, t))
    assert torch.equal(losses.p2()(schedule, t), losses.p2(gamma=1, k=1)(schedule, t))
