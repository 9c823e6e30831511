"""Losses against closed forms."""

import math
import re
from types import SimpleNamespace

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest, norm
from torch.distributions import Normal, kl_divergence

from diffusion_book import losses, predictions, process, samplers, schedules
from diffusion_book.data import GaussianMixture, ring_of_gaussians
from diffusion_book.denoise import WithVariance, exact, from_network_with_variance
from diffusion_book.predictions import PREDICTIONS
from diffusion_book.schedules import EDM, VP, Cosine, Discrete, Flow

FLOAT64 = torch.finfo(torch.float64).eps
LINEAR = schedules.linear()
ZERO_SNR = schedules.zero_terminal_snr(schedules.linear(50))
WEIGHTS = {"min_snr": losses.min_snr(), "p2": losses.p2(), "vdm": losses.vdm(), "edm": losses.edm()}
REAL = [Flow(), EDM(), VP(), Cosine(), LINEAR.continuous()]


def gaussian(std: float, dim: int = 2) -> GaussianMixture:
    eye = torch.eye(dim, dtype=torch.float64)
    return GaussianMixture(torch.ones(1, dtype=torch.float64), torch.zeros(1, dim).double(), std**2 * eye[None])


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


def test_times_are_uniform_over_one_to_T(generator):
    schedule = schedules.linear(20)
    t = losses.draw_times(schedule, 20_000, generator)
    counts = torch.bincount(t, minlength=21)
    assert len(counts) == 21
    assert counts[0] == 0
    assert chisquare(counts[1:].numpy()).pvalue > 1e-4  # a fair draw fails once in ten thousand seeds, and this is one
    assert t.dtype == torch.int64


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
    with pytest.raises(ValueError, match=rf"infinite on {prediction} where a\(t\) = 0 .*; predict v instead"):
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
        *(
            (
                lambda draw=draw, std=std: draw(Flow(), 2, torch.Generator(), std=std),
                f"std must be positive .*, got {std}",
            )
            for draw in (losses.draw_logit_normal_times, losses.draw_sigma_times)
            for std in (0, -1, math.nan, math.inf)
        ),
        *(
            (lambda draw=draw, mean=mean: draw(Flow(), 2, torch.Generator(), mean), f"mean must be finite, got {mean}")
            for draw in (losses.draw_logit_normal_times, losses.draw_sigma_times)
            for mean in (math.nan, -math.inf)
        ),
        *(
            (lambda draw=draw, n=n: draw(Flow(), n, torch.Generator()), f"batch_size must be a whole number.*, got {n}")
            for draw in (losses.draw_times, losses.draw_logit_normal_times, losses.draw_sigma_times)
            for n in (-1, 2.5)
        ),
        *(
            (
                lambda draw=draw, source=source: draw(Flow(), 2, source),
                "times need one torch.Generator, such as .*, got",
            )
            for draw in (losses.draw_times, losses.draw_logit_normal_times, losses.draw_sigma_times)
            for source in (None, [torch.Generator()])
        ),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


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


# The variational bound


def expected_bound(schedule: Discrete, std: float) -> tuple[float, torch.Tensor, float]:
    """The mean of each term for x0 ~ N(0, s²) in one dimension and the exact denoiser, in closed form."""
    alpha_bar = schedule.alpha_bar[1:]
    S = alpha_bar / (1 - alpha_bar)
    error = std**2 / (1 + std**2 * S)  # the variance of x0 given x_t
    prior = 0.5 * (alpha_bar[-1] * (std**2 - 1) - torch.log1p(-alpha_bar[-1])).item()
    last = 0.5 * (error[0] / (1 - alpha_bar[0]) + (2 * math.pi * (1 - alpha_bar[0])).log()).item()
    return prior, 0.5 * (S[:-1] - S[1:]) * error[1:], last


@pytest.mark.parametrize("std", [0.5, 1.5])
def test_every_term_of_the_bound_for_a_gaussian(std, generator):
    schedule, data, n = schedules.cosine(30), gaussian(std, dim=1), 20_000
    x0 = data.sample(n, generator)
    found = losses.vlb(exact(data, schedule), schedule, x0, generator, levels=None)
    prior, steps, last = expected_bound(schedule, std)
    assert found.steps.shape == (n, 29)

    def error(values: torch.Tensor) -> torch.Tensor:
        return 4.5 * values.std(0) / n**0.5  # 29 means: one in five thousand of the seeds would fall outside

    assert abs(found.prior.mean() - prior) <= error(found.prior)
    assert bool(((found.steps.mean(0) - steps).abs() <= error(found.steps)).all())
    assert abs(found.reconstruction.mean() - last) <= error(found.reconstruction)
    total = found.prior + found.steps.sum(1) + found.reconstruction
    torch.testing.assert_close(found.total(), total)
    torch.testing.assert_close(found.bits_per_dim(2), total / (2 * math.log(2)))


def even_in_log_snr(T: int, first: float = 10.0, last: float = -10.0) -> Discrete:
    alpha_bar = torch.cat([torch.ones(1), torch.linspace(first, last, T).sigmoid()]).double()
    return Discrete(1 - alpha_bar[1:] / alpha_bar[:-1])


def test_more_steps_tighten_the_bound_towards_the_entropy(generator):
    """−ELBO is above the entropy, and what the steps add to it falls like 1/T (Kingma et al. 2021, section 4.1)."""
    std, gaps = 0.5, []
    entropy = 0.5 * math.log(2 * math.pi * math.e * std**2)
    data = gaussian(std, dim=1)
    for T in (25, 100, 400):
        schedule = even_in_log_snr(T)
        prior, steps, last = expected_bound(schedule, std)
        total, n = prior + steps.sum().item() + last, 2000
        found = losses.vlb(exact(data, schedule), schedule, data.sample(n, generator), generator, None).total()
        assert found.mean().item() == pytest.approx(total, abs=4 * found.std().item() / n**0.5)
        assert total > entropy
        # With infinitely many steps they would be the information I = ½ log(1 + s² SNR) that is lost on the way.
        I_1, I_T = (0.5 * math.log1p(std**2 * math.exp(schedule.at(t).log_snr)) for t in (1, T))
        gaps.append(steps.sum().item() - (I_1 - I_T))
    # Four times the steps, a quarter of the gap; the next order is of the size of a step in λ, 20/T.
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=20 / 25)
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=20 / 100)
    assert 0 < gaps[2] < 0.1


def test_the_bound_of_a_mixture_is_above_its_negative_log_likelihood(generator):
    ring, n, over = ring_of_gaussians(), 2000, []
    x0 = ring.sample(n, generator)
    for T in (50, 200):
        schedule = even_in_log_snr(T)
        found = losses.vlb(exact(ring, schedule), schedule, x0, generator, levels=None).total() + ring.log_prob(x0)
        over.append((found.mean().item(), found.std().item() / n**0.5))
        assert over[-1][0] > 4 * over[-1][1]
    assert over[1][0] < over[0][0] / 2
    # A denoiser that is off by δ pays ½ (SNR_1 − SNR_T) δ² for each of two dimensions, on average, whatever the data.
    best, shift = exact(ring, schedule), 0.05
    good, poor = (
        losses.vlb(lambda x, t, d=d: best(x, t) + d, schedule, x0, torch.Generator().manual_seed(1), None).steps.sum(1)
        for d in (0.0, shift)
    )
    expected = (schedule.at(1).log_snr.exp() - schedule.at(200).log_snr.exp()).item() * shift**2
    assert (poor - good).mean().item() == pytest.approx(expected, abs=4 * (poor - good).std().item() / n**0.5)


def test_the_steps_of_the_bound_are_kl_divergences(generator):
    """Of torch.distributions, for a poor denoiser and the same noise."""
    schedule, x0 = schedules.linear(20, 0.01, 0.3), torch.rand(3, 2, 2, generator=generator).double() * 2 - 1

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 0.3 * xt - 0.01 * t[:, None, None]

    state = generator.get_state()
    found = losses.vlb(denoiser, schedule, x0, generator, levels=None)
    generator.set_state(state)
    for t in range(1, 21):
        xt = process.add_noise(schedule, x0, t, samplers.randn_like(x0, generator))
        x0_hat = denoiser(xt, torch.full((3,), t))
        if t == 1:
            last = -Normal(x0_hat, schedule.beta[1].sqrt()).log_prob(x0).sum((1, 2))
            torch.testing.assert_close(found.reconstruction, last, rtol=1e-12, atol=0)
        else:
            q, p = (process.posterior(schedule, xt, x, t) for x in (x0, x0_hat))
            expected = kl_divergence(Normal(q.mean, q.std), Normal(p.mean, p.std)).sum((1, 2))
            torch.testing.assert_close(found.steps[:, t - 2], expected, rtol=1e-9, atol=0)
    end = Normal(schedule.at(20).a * x0, schedule.at(20).b * torch.ones_like(x0))
    expected = kl_divergence(end, Normal(torch.zeros_like(x0), 1.0)).sum((1, 2))
    torch.testing.assert_close(found.prior, expected, rtol=1e-9, atol=0)


def test_the_bound_under_zero_terminal_snr_is_finite(generator):
    data = gaussian(0.3, dim=2)
    found = losses.vlb(exact(data, ZERO_SNR), ZERO_SNR, data.sample(4, generator), generator, levels=None)
    assert found.prior.abs().max() == 0  # x_T is the prior's own noise
    assert bool(torch.isfinite(found.total()).all())


def test_an_example_s_bound_does_not_depend_on_its_batch():
    x0 = torch.tensor([[0.5, -1.0], [1.0, 0.0]])
    bound = [
        losses.vlb(lambda x, t: 0 * x, LINEAR_10, x, samplers.seeded(s), 3) for x, s in ((x0, [4, 5]), (x0[1:], [5]))
    ]
    assert torch.equal(bound[0].total()[1:], bound[1].total())


LINEAR_10 = schedules.linear(10, 0.01, 0.4)


# The probability of the data at the last step


def probability(x: float, mean: float, std: float, levels: int) -> mpmath.mpf:
    """−log of the mass of N(mean, std²) that belongs to level x, with 60 digits."""
    with mpmath.workdps(60):
        half = mpmath.mpf(1) / (levels - 1)
        low = -mpmath.inf if x <= -1 else (mpmath.mpf(x) - half - mean) / std
        high = mpmath.inf if x >= 1 else (mpmath.mpf(x) + half - mean) / std
        if low > 0:
            low, high = -high, -low  # the small tail, so that mpmath's digits last
        return -mpmath.log((mpmath.erfc(-high / mpmath.sqrt(2)) - mpmath.erfc(-low / mpmath.sqrt(2))) / 2)


@pytest.mark.parametrize("levels", [2, 3, 16, 256])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.01), (0.3, 0.2), (-1.5, 0.5), (0.99, 3.0), (40.0, 1.0)])
def test_the_probabilities_of_all_levels_sum_to_one(levels, mean, std):
    x0 = torch.linspace(-1, 1, levels, dtype=torch.float64)[:, None]
    nats = losses.reconstruction(x0, torch.full_like(x0, mean), torch.full_like(x0, std), levels)
    assert torch.exp(-nats).sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("levels", [2, 256])
@pytest.mark.parametrize("x", [-1.0, -127 / 255, 1 / 255, 1.0])
@pytest.mark.parametrize(
    ("mean", "std"), [(0.0, 0.01), (0.004, 0.05), (-1.2, 0.3), (1.0, 1e-4), (-30.0, 0.2), (0.1, 20.0)]
)
def test_reconstruction_is_that_of_sixty_digits(x, mean, std, levels):
    """Also where it is e^−5e7: nothing is lost to 1 − 1, and no clamp stands in for a probability."""
    if levels == 2 and abs(x) < 1:
        x = math.copysign(1, x)
    x0 = torch.tensor([[x]], dtype=torch.float64)
    found = losses.reconstruction(x0, torch.full_like(x0, mean), torch.full_like(x0, std), levels).item()
    # log Φ is good to some ε of its size; the difference of two of them, d = 2h·|x − μ|/σ² at least, divides by d.
    assert found == pytest.approx(float(probability(x, mean, std, levels)), rel=1e-12, abs=1e-11)


def test_reconstruction_in_float32_and_its_gradients_are_finite(generator):
    levels = torch.linspace(-1, 1, 256)
    x0 = levels[torch.randint(0, 256, (6, 1, 8, 8), generator=generator)]
    x0[0], x0[1] = -1, 1
    for std in (1e-4, 0.01, 1.0):
        for offset in (0.0, 1e-3, 0.5, 10.0):
            mean = (x0 + offset * torch.randn(x0.shape, generator=generator)).requires_grad_()
            scale = torch.full_like(x0, std).requires_grad_()
            nats = losses.reconstruction(x0, mean, scale, 256)
            nats.sum().backward()
            assert nats.dtype == torch.float32
            assert bool(
                torch.isfinite(nats).all() and torch.isfinite(mean.grad).all() and torch.isfinite(scale.grad).all()
            )
            exact = losses.reconstruction(x0.double(), mean.detach().double(), scale.detach().double(), 256)
            torch.testing.assert_close(nats.double(), exact, rtol=1e-4, atol=1e-3)


def test_a_std_beside_which_a_bin_is_nothing_costs_a_finite_price():
    """Both ends of the bin round to one number, and log(1 − 1) would be −∞."""
    x0, std = torch.tensor([[1 / 255]], dtype=torch.float64), torch.tensor(1e20, dtype=torch.float64)
    assert losses.reconstruction(x0, x0, std).item() == pytest.approx(math.log(2) + 16 * math.log(10), rel=1e-6)


def test_the_gradient_of_the_reconstruction_is_right():
    """Against finite differences, on the edges, in the middle of a bin and in the tails."""
    x0 = torch.tensor([[-1.0, 1.0, 1 / 255, 1 / 255, 1 / 255, -1.0, 1.0]], dtype=torch.float64)
    mean = torch.tensor([[-0.99, 0.9, 0.0, 0.05, 0.9, 0.5, 1.3]], dtype=torch.float64, requires_grad=True)
    std = torch.tensor([[0.02, 0.1, 0.01, 0.01, 0.05, 0.1, 0.1]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, s: losses.reconstruction(x0, m, s, 256), (mean, std), eps=1e-7, rtol=1e-5)


def test_without_levels_the_reconstruction_is_a_density(generator):
    x0, mean, std = (torch.randn(4, 2, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    std = std.exp()
    expected = -Normal(mean, std).log_prob(x0).sum((1, 2))
    torch.testing.assert_close(losses.reconstruction(x0, mean, std, None), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("x", "levels", "message"),
    [
        (0.0, 1, "levels must be a whole number of at least 2, got 1; None for data without levels"),
        (0.0, 2.5, "levels must be a whole number of at least 2, got 2.5; None for data without levels"),
        (1.5, 256, r"values with levels must lie in \[−1, 1\], got 1.5 … 1.5"),
        (math.nan, 256, r"values with levels must lie in \[−1, 1\], got nan … nan"),
    ],
)
def test_data_that_have_no_levels_are_refused(x, levels, message):
    x0 = torch.tensor([[x]])
    with pytest.raises(ValueError, match=message):
        losses.reconstruction(x0, x0, torch.ones_like(x0), levels)


# Learned variance


class TwoHeads(torch.nn.Module):
    """A prediction and v, each with weights of its own."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(torch.randn(2, 1, 1, generator=generator, dtype=torch.float64))
        self.v = torch.nn.Parameter(torch.rand(2, 1, 1, generator=generator, dtype=torch.float64) - 0.5)

    def forward(self, xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.mean * xt, self.v + 0.1 * xt.tanh()], 1)


@pytest.fixture
def images(generator) -> tuple[torch.Tensor, torch.Tensor]:
    levels = torch.linspace(-1, 1, 256, dtype=torch.float64)
    x0 = levels[torch.randint(0, 256, (4, 2, 3, 3), generator=generator)]
    return x0, torch.randn(x0.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_hybrid_loss_is_the_simple_one_and_a_kl(prediction, images, generator):
    (x0, eps), schedule, network = images, schedules.linear(50), TwoHeads(generator)
    t = torch.tensor([2, 10, 30, 50])
    found = losses.hybrid_loss(network, schedule, x0, t, eps, prediction, vlb_weight=0.01)
    xt = process.add_noise(schedule, x0, t, eps)
    output, v = network(xt, t).chunk(2, dim=1)
    simple = ((output - predictions.target(prediction, schedule, x0, eps, t)) ** 2).mean((1, 2, 3))
    q = process.posterior(schedule, xt, x0, t)
    mean = process.posterior(schedule, xt, predictions.to_x0(prediction, output, schedule, xt, t), t).mean
    beta, small = schedule.beta[t].reshape(4, 1, 1, 1), q.std**2
    variance = torch.exp((v + 1) / 2 * beta.log() + (1 - (v + 1) / 2) * small.log())  # their section 3.1
    kl = kl_divergence(Normal(q.mean, q.std.expand_as(mean)), Normal(mean, variance.sqrt())).mean((1, 2, 3))
    torch.testing.assert_close(found, simple + 0.01 * 50 * kl, rtol=1e-9, atol=0)


def test_the_hybrid_loss_at_one_is_the_reconstruction(images, generator):
    (x0, eps), schedule, network = images, schedules.linear(50), TwoHeads(generator)
    t = torch.ones(4, dtype=torch.long)
    found = losses.hybrid_loss(network, schedule, x0, t, eps, "x0", vlb_weight=1.0)
    xt = process.add_noise(schedule, x0, t, eps)
    output, v = network(xt, t).chunk(2, dim=1)
    simple = ((output - x0) ** 2).mean((1, 2, 3))
    nats = losses.reconstruction(x0, output, process.learned_std(schedule, v, t), 256)
    torch.testing.assert_close(found, simple + 50 * nats / 18, rtol=1e-12, atol=0)


@pytest.mark.parametrize("t", [1, 2, 50])
def test_the_bound_teaches_the_variance_and_leaves_the_mean_alone(t, images, generator):
    (x0, eps), schedule, network = images, schedules.linear(50), TwoHeads(generator)
    t = torch.full((4,), t)

    def gradients(vlb_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
        loss = losses.hybrid_loss(network, schedule, x0, t, eps, vlb_weight=vlb_weight).mean()
        return torch.autograd.grad(loss, [network.mean, network.v])

    (mean_without, v_without), (mean_with, v_with) = gradients(0.0), gradients(0.001)
    assert torch.equal(mean_with, mean_without)
    assert bool((v_without == 0).all())
    assert bool((v_with != 0).all() and torch.isfinite(v_with).all())


def test_the_gradient_of_the_hybrid_loss_is_right(images, generator):
    (x0, eps), schedule = images, schedules.cosine(20)
    t = torch.tensor([1, 2, 10, 20])
    v = (torch.rand(x0.shape, generator=generator, dtype=torch.float64) * 2 - 1).requires_grad_()
    xt = process.add_noise(schedule, x0, t, eps)
    guess = 0.9 * predictions.target("v", schedule, x0, eps, t)

    def loss(v: torch.Tensor) -> torch.Tensor:
        return losses.hybrid_loss(lambda x, t: torch.cat([guess, v], 1), schedule, x0, t, eps, "v", vlb_weight=1.0)

    assert xt.shape == v.shape
    assert torch.autograd.gradcheck(loss, (v,), eps=1e-6, rtol=1e-5)


def test_the_bound_of_a_learned_variance_is_what_the_hybrid_loss_trains(images, generator):
    """Term by term, with the same noise, at t = 1 too."""
    (x0, _), schedule, network = images, schedules.linear(20, 0.01, 0.3), TwoHeads(generator)
    state = generator.get_state()
    found = losses.vlb(from_network_with_variance(network, schedule, "v"), schedule, x0, generator)
    generator.set_state(state)
    terms = torch.cat([found.reconstruction[:, None], found.steps], 1)
    for t in range(1, 21):
        times, eps = torch.full((4,), t), samplers.randn_like(x0, generator)
        simple, both = (losses.hybrid_loss(network, schedule, x0, times, eps, "v", vlb_weight=w) for w in (0.0, 1.0))
        torch.testing.assert_close(terms[:, t - 1], (both - simple).detach() * 18 / 20, rtol=1e-9, atol=0)


@pytest.mark.parametrize("v", [None, 0.3])
def test_the_terms_of_the_bound_at_times_of_all_kinds_are_those_of_the_whole(v, images, generator):
    """For a denoiser that does not look at x_t, whose terms are then the same whatever the noise, or nearly."""
    x0, schedule = images[0], schedules.linear(5)
    guess = 0.9 * x0

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor | WithVariance:
        return guess if v is None else WithVariance(guess, torch.full_like(guess, v))

    whole = losses.vlb(denoiser, schedule, x0, generator)
    terms = torch.cat([whole.reconstruction[:, None], whole.steps], 1)
    for t in (torch.tensor([1, 5, 2, 1]), torch.tensor([3, 2, 5, 4]), torch.ones(4, dtype=torch.int64)):
        found = losses.vlb_at(denoiser, schedule, x0, t, generator)
        torch.testing.assert_close(found, terms[torch.arange(4), t - 1])
    with pytest.raises(ValueError, match="t must be a tensor of one time for each of the 4 examples, got 3"):
        losses.vlb_at(denoiser, schedule, x0, 3, generator)


def test_with_the_true_variances_the_bound_of_a_gaussian_is_its_entropy(generator):
    """Each reverse step of Gaussian data is Gaussian: with mean and variance right, nothing but the prior is lost."""
    schedule, std, n = schedules.linear(6, 0.1, 0.6), 0.7, 40_000
    data = gaussian(std, dim=1)
    x0 = data.sample(n, generator)
    beta, alpha_bar = schedule.beta[1:], schedule.alpha_bar
    before, now = (alpha_bar[i] * std**2 + 1 - alpha_bar[i] for i in (slice(0, -1), slice(1, None)))
    variance = before * beta / now  # of x_{t−1} given x_t
    small = beta * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])
    small[0] = small[1]
    v = 2 * (variance / small).log() / (beta / small).log() - 1
    best = exact(data, schedule)

    def denoiser(xt: torch.Tensor, t: torch.Tensor) -> WithVariance:
        return WithVariance(best(xt, t), v[t - 1][:, None].to(xt))

    found = losses.vlb(denoiser, schedule, x0, generator, levels=None).total()
    end = now[-1].item()
    expected = 0.5 * math.log(2 * math.pi * math.e * std**2) + 0.5 * (end - 1 - math.log(end))
    assert abs(found.mean().item() - expected) < 4 * found.std().item() / n**0.5
    fixed = losses.vlb(best, schedule, x0, generator, levels=None).total()
    assert fixed.mean().item() > expected + 0.05


@pytest.mark.parametrize(("data_std", "v"), [(1e-3, -1.0), (1e3, 1.0)])
def test_the_best_v_is_small_for_a_point_and_large_for_wide_data(data_std, v, generator):
    """The variance of x_{t−1} given x_t is the posterior's for data at a point, and near β_t for wide data."""
    schedule, t, n = schedules.linear(20, 0.01, 0.3), 10, 4000
    x0 = data_std * torch.randn(n, 1, 1, generator=generator, dtype=torch.float64)
    eps = torch.randn(n, 1, 1, generator=generator, dtype=torch.float64)
    _, a, b = schedule.at(t)
    shrink = a * data_std**2 / ((a * data_std) ** 2 + b**2)  # E[x0 | x_t] = shrink x_t
    found = []
    for guess in torch.linspace(-1, 1, 9, dtype=torch.float64):

        def network(x: torch.Tensor, t: torch.Tensor, guess: torch.Tensor = guess) -> torch.Tensor:
            return torch.cat([shrink * x, torch.full_like(x, guess)], 1)

        times = torch.full((n,), t)
        loss = losses.hybrid_loss(network, schedule, x0, times, eps, "x0", vlb_weight=1.0, levels=None)
        found.append(loss.mean().item())
    assert torch.linspace(-1, 1, 9)[int(np.argmin(found))].item() == v


def test_the_hybrid_loss_is_finite_at_every_time_in_float32(generator):
    for schedule in (schedules.linear(), schedules.cosine(), ZERO_SNR):
        T = schedule.T
        x0 = (torch.rand(6, 1, 4, 4, generator=generator) * 2 - 1).sign()
        v = torch.zeros(6, 1, 4, 4, requires_grad=True)
        t, eps = torch.tensor([1, 2, 3, T // 2, T - 1, T]), torch.randn(6, 1, 4, 4, generator=generator)
        loss = losses.hybrid_loss(lambda x, t, v=v: torch.cat([x, v], 1), schedule, x0, t, eps, "v")
        loss.sum().backward()
        assert bool(torch.isfinite(loss).all())
        assert bool(torch.isfinite(v.grad).all())


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 6, 4, 1)])
def test_a_network_without_a_variance_is_refused(shape):
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"for a learned variance the network must return \(2, 6, 4, 4\), got"):
        losses.hybrid_loss(lambda x, t: torch.zeros(shape), LINEAR, x, torch.tensor([1, 2]), x)


# Which times to train at


def test_times_of_a_continuous_schedule_are_uniform_and_noisy(generator):
    t = losses.draw_times(EDM(sigma_max=10.0), 20_000, generator)
    assert t.dtype == torch.float64
    assert t.min().item() > 0
    assert t.max().item() <= 10
    assert kstest(t.numpy() / 10, "uniform").pvalue > 1e-4  # a fair draw fails once in ten thousand seeds


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 0.6)])
def test_logit_normal_times_are_logit_normal(mean, std, generator):
    t = losses.draw_logit_normal_times(Flow(), 20_000, generator, mean, std).numpy()
    assert kstest(np.log(t / (1 - t)), norm(mean, std).cdf).pvalue > 1e-4
    # Esser et al. 2024, equation 19, as a density: its integral up to t is what the KS test compared with.
    edges = torch.linspace(0, 1, 11, dtype=torch.float64).logit()
    steps = losses.draw_logit_normal_times(schedules.linear(10), 20_000, generator, mean, std)
    expected = 20_000 * np.diff(norm(mean, std).cdf(edges.numpy()))
    assert chisquare(torch.bincount(steps - 1, minlength=10).numpy(), expected).pvalue > 1e-4


@pytest.mark.parametrize("schedule", [EDM(sigma_max=1e6), VP(), Flow(), Cosine(0.5), LINEAR.continuous()], ids=repr)
def test_sigma_times_have_log_normal_noise(schedule, generator):
    """Karras et al. 2022, table 1: ln σ ~ N(−1.2, 1.2²), whatever the schedule calls the time."""
    t = losses.draw_sigma_times(schedule, 20_000, generator)
    assert t.min().item() > 0
    assert kstest(schedule.at(t).sigma.log().numpy(), norm(-1.2, 1.2).cdf).pvalue > 1e-4


def test_sigma_times_are_cut_off_at_the_ends(generator):
    t = losses.draw_sigma_times(EDM(sigma_max=1.0), 20_000, generator)
    share, expected = (t == 1).double().mean().item(), norm.sf(1.0)
    assert share == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 20_000) ** 0.5)
    steps = losses.draw_sigma_times(schedules.linear(20, 0.05, 0.2), 20_000, generator)
    assert (steps.min().item(), steps.max().item(), steps.dtype) == (1, 20, torch.int64)


def test_no_times_are_drawn_for_no_examples_and_one_for_one():
    for draw in (losses.draw_times, losses.draw_logit_normal_times, losses.draw_sigma_times):
        assert [draw(LINEAR, n, torch.Generator()).shape for n in (0, 1)] == [(0,), (1,)]


def test_draws_are_those_of_their_seed():
    for draw in (losses.draw_times, losses.draw_logit_normal_times, losses.draw_sigma_times):
        for schedule in (Flow(), LINEAR):
            one, two, other = (draw(schedule, 9, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
            assert torch.equal(one, two)
            assert not torch.equal(one, other)


def test_losses_by_time_are_means_of_bins():
    t = torch.tensor([1, 250, 251, 1000, 750])
    found = losses.by_time(torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]), t, T=1000, bins=4)
    assert found[[0, 1, 2, 3]].tolist() == [2, 5, 9, 7]
    assert math.isnan(losses.by_time(torch.tensor([1.0]), torch.tensor([0.9]), T=1.0, bins=2)[0].item())
    # A half-precision sum of many losses would stop growing; the mean is taken in float64 and outside the graph.
    many = torch.ones(5000, dtype=torch.bfloat16, requires_grad=True)
    found = losses.by_time(many, torch.full((5000,), 0.5), T=1.0, bins=1)
    assert found.item() == 1
    assert not found.requires_grad


@pytest.mark.parametrize(("T", "bins"), [(1000, 10), (50, 50), (49, 49), (300, 100), (1.0, 10)])
def test_the_edge_of_a_bin_belongs_to_it(T, bins):
    """k T/bins is the last time of bin k − 1; t/T · bins in floating point is above k for some."""
    k = torch.arange(1, bins + 1)
    edges = k * int(T) // bins if T > 1 else k.double() / bins
    found = losses.by_time(k.double(), edges, T, bins)
    assert found.tolist() == k.tolist()


def test_both_ends_of_time_have_a_bin():
    assert losses.by_time(torch.tensor([1.0, 3.0]), torch.tensor([0, 10]), T=10, bins=2).tolist() == [1, 3]


def test_losses_and_times_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match=r"one time for each loss, got \(3,\) times and \(2,\) losses"):
        losses.by_time(torch.zeros(2), torch.ones(3), 10)
    with pytest.raises(ValueError, match=r"one time for each loss, got \(2, 1\) times and \(2, 1\) losses"):
        losses.by_time(torch.zeros(2, 1), torch.ones(2, 1), 10)


@pytest.mark.parametrize(
    ("t", "T", "bins", "message"),
    [
        *(([1.0, 2.0], T, 4, f"T must be positive and finite, got {T}") for T in (0, -1, math.nan, math.inf)),
        *(([1.0, 2.0], 2, bins, f"bins must be a whole number of at least 1, got {bins}") for bins in (0, -1, 2.5)),
        ([1.0, 3.0], 2, 4, r"t must lie in 0 … T = 2, got 1 … 3"),
        ([-1.0, 2.0], 2, 4, r"t must lie in 0 … T = 2, got -1 … 2"),
        ([math.nan, 2.0], 2, 4, r"t must lie in 0 … T = 2, got nan … nan"),
    ],
)
def test_times_that_belong_to_no_bin_are_refused(t, T, bins, message):
    """Times beyond T would be counted as the last bin's, and those of another schedule look like a mean."""
    with pytest.raises(ValueError, match=message):
        losses.by_time(torch.zeros(2), torch.tensor(t), T, bins)


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


def test_a_bound_needs_steps():
    x = torch.zeros(2, 3)
    for call in (
        lambda: losses.vlb(lambda xt, t: xt, Flow(), x, torch.Generator()),
        lambda: losses.hybrid_loss(lambda xt, t: torch.cat([xt, xt], 1), Flow(), x, torch.tensor([0.1, 0.2]), x),
    ):
        with pytest.raises(ValueError, match=r"expected a discrete schedule, .* got Flow\(T=1\), which has no steps"):
            call()


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (1, 3, 4, 4), (2, 6, 4, 4)])
def test_a_denoiser_of_another_shape_is_refused_in_the_bound(shape):
    """One channel for three would spread over them, and the bound be a number that means nothing."""
    x0, generator = torch.zeros(2, 3, 4, 4), torch.Generator()
    message = re.escape(f"the denoiser must return the shape of x_t, (2, 3, 4, 4), got {shape}")
    with pytest.raises(ValueError, match=message):
        losses.vlb(lambda xt, t: torch.zeros(shape), LINEAR_10, x0, generator)
    with pytest.raises(ValueError, match=message):
        losses.vlb(lambda xt, t: WithVariance(xt, torch.zeros(shape)), LINEAR_10, x0, generator)


@pytest.mark.parametrize(("mean", "std"), [((2, 1), (2, 3)), ((2, 3), (2, 1, 3)), ((2, 3), (4,)), ((3,), ())])
@pytest.mark.parametrize("levels", [256, None])
def test_a_gaussian_of_another_shape_than_the_data_is_refused(levels, mean, std):
    with pytest.raises(ValueError, match=re.escape("mean must have the shape of x0, (2, 3), and std one")):
        losses.reconstruction(torch.zeros(2, 3), torch.zeros(mean), torch.ones(std), levels)


@pytest.mark.parametrize("std", [(), (1,), (3,), (2, 1), (1, 3)])
@pytest.mark.parametrize("levels", [256, None])
def test_one_std_serves_many_pixels(levels, std, generator):
    x0, mean = torch.zeros(2, 3), torch.randn(2, 3, generator=generator)
    std = 0.5 + torch.rand(std, generator=generator)
    expected = losses.reconstruction(x0, mean, std.expand(2, 3), levels)
    assert torch.equal(losses.reconstruction(x0, mean, std, levels), expected)


@pytest.mark.parametrize("dimensions", [0, -3])
def test_bits_of_no_dimension_are_refused(dimensions):
    bound = losses.VLB(torch.zeros(1), torch.zeros(1, 2), torch.zeros(1))
    assert bound.bits_per_dim(1).item() == 0
    with pytest.raises(ValueError, match=rf"dimensions are those of one example, .* at least 1, got {dimensions}"):
        bound.bits_per_dim(dimensions)


@pytest.mark.parametrize("vlb_weight", [-1.0, math.nan, math.inf])
def test_a_bound_of_negative_weight_is_refused(vlb_weight):
    x, t = torch.zeros(2, 3), torch.tensor([1, 2])
    with pytest.raises(
        ValueError, match=f"vlb_weight must be finite and not negative, got {vlb_weight}; 0.001 is usual"
    ):
        losses.hybrid_loss(lambda xt, t: torch.cat([xt, xt], 1), LINEAR, x, t, x, vlb_weight=vlb_weight)


def test_defaults_are_the_published_ones():
    """Hang et al. γ = 5; Choi et al. γ = k = 1; Karras et al. −1.2 ± 1.2; Esser et al. N(0, 1); 8-bit pixels."""
    schedule, t = schedules.linear(), torch.arange(1, 1001, 37)
    assert torch.equal(losses.min_snr()(schedule, t), losses.min_snr(gamma=5)(schedule, t))
    assert torch.equal(losses.p2()(schedule, t), losses.p2(gamma=1, k=1)(schedule, t))

    def draw(function, **options):
        return function(schedules.EDM(), 100, torch.Generator().manual_seed(0), **options)

    logit_normal, sigma = losses.draw_logit_normal_times, losses.draw_sigma_times
    assert torch.equal(draw(logit_normal), draw(logit_normal, mean=0.0, std=1.0))
    assert torch.equal(draw(sigma), draw(sigma, mean=-1.2, std=1.2))

    def bound(**options):
        x0 = torch.full((2, 3), 1 / 255)
        return losses.vlb(lambda xt, t: x0, schedules.linear(4), x0, torch.Generator().manual_seed(0), **options)

    assert torch.equal(bound().reconstruction, bound(levels=256).reconstruction)
    assert not torch.equal(bound().reconstruction, bound(levels=257).reconstruction)
    x0, std = torch.tensor([[1 / 255]]), torch.tensor(0.1)
    assert torch.equal(losses.reconstruction(x0, x0, std), losses.reconstruction(x0, x0, std, levels=256))
