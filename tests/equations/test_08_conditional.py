"""The equations of chapter 8, each against a route that does not use it."""

import math
from itertools import pairwise

import pytest
import torch
from scipy import integrate
from torch import Tensor

from diffusion_book import data, denoise, guidance, samplers, schedules
from diffusion_book.predictions import PREDICTIONS, from_x0

# Three classes of points on a line, of different weights, widths and numbers of modes.
WEIGHT = {"A": [0.3], "B": [0.1, 0.25], "C": [0.35]}
MEAN = {"A": [-1.5], "B": [0.0, 2.0], "C": [0.7]}
STD = {"A": [0.4], "B": [0.2, 0.3], "C": [0.8]}
LEVELS = [(1.0, 0.3), (0.6, 0.8), (0.1, 0.99)]


def density(x: Tensor, name: str) -> Tensor:
    """p(x, c), from torch.distributions."""
    weight, mean, std = (torch.tensor(table[name], dtype=torch.float64) for table in (WEIGHT, MEAN, STD))
    return (weight * torch.distributions.Normal(mean, std).log_prob(x[..., None]).exp()).sum(-1)


def mixture(*names: str) -> data.GaussianMixture:
    weight, mean, std = ([v for name in names for v in table[name]] for table in (WEIGHT, MEAN, STD))
    total = torch.tensor(weight, dtype=torch.float64)
    cov = torch.tensor(std, dtype=torch.float64)[:, None, None] ** 2
    return data.GaussianMixture(total / total.sum(), torch.tensor(mean, dtype=torch.float64)[:, None], cov)


GRID = torch.linspace(-12, 12, 40_001, dtype=torch.float64)
POINTS = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)


def by_integration(xt: float, a: float, b: float, names: str) -> tuple[float, float]:
    """q(x_t, c) and E[x_0 | x_t, c], by sums over x_0; c is any of the names."""
    joint = sum(density(GRID, name) for name in names) * torch.exp(-((xt - a * GRID) ** 2) / (2 * b**2))
    return float(joint.sum()), float((joint * GRID).sum() / joint.sum())


@pytest.mark.equation("eq-conditional-average")
@pytest.mark.parametrize(("a", "b"), LEVELS)
def test_not_knowing_is_averaging(a, b):
    """The right side by the library's mixtures and Bayes' rule, the left by integration over x_0."""
    every = mixture("A", "B", "C")
    for xt in POINTS.tolist():
        x = torch.tensor([[xt]], dtype=torch.float64)
        averaged = 0.0
        for name in "ABC":
            of_class = mixture(name)
            share = sum(WEIGHT[name])
            chance = share * math.exp(float(of_class.noised(a, b).log_prob(x) - every.noised(a, b).log_prob(x)))
            averaged += chance * float(of_class.posterior_mean(x, a, b))
        assert averaged == pytest.approx(by_integration(xt, a, b, "ABC")[1], abs=1e-8)
    if (a, b) == (0.6, 0.8):  # the pixel by hand
        up = 1 / (1 + math.exp(-2 * a * 0.4 / b**2))
        assert (up, math.tanh(a * 0.4 / b**2)) == (pytest.approx(0.679, abs=5e-4), pytest.approx(0.358, abs=5e-4))
        assert up - (1 - up) == pytest.approx(math.tanh(a * 0.4 / b**2), abs=1e-12)


@pytest.mark.equation("eq-conditional-bayes")
@pytest.mark.parametrize(("a", "b"), LEVELS)
def test_a_classifiers_slope_is_the_difference_of_two_scores(a, b):
    """Slopes of log q(x_t | c), log q(x_t) and log p(c | x_t), each by finite differences of integrals."""
    h = 1e-4
    for xt in POINTS.tolist():

        def slope(log_of, xt=xt):
            return (log_of(xt + h) - log_of(xt - h)) / (2 * h)

        of_class = slope(lambda x: math.log(by_integration(x, a, b, "B")[0]))
        of_all = slope(lambda x: math.log(by_integration(x, a, b, "ABC")[0]))
        of_classifier = slope(lambda x: math.log(by_integration(x, a, b, "B")[0] / by_integration(x, a, b, "ABC")[0]))
        assert of_class == pytest.approx(of_all + of_classifier, abs=1e-6)
        x = torch.tensor([[xt]], dtype=torch.float64)
        assert float(mixture("B").score(x, a, b)) == pytest.approx(of_class, abs=1e-5)
        assert float(mixture("A", "B", "C").score(x, a, b)) == pytest.approx(of_all, abs=1e-5)


@pytest.mark.equation("eq-conditional-classifier", by="guidance.classifier")
@pytest.mark.parametrize("t", [100, 500, 900])
def test_the_exact_classifier_makes_the_conditional_denoiser(t):
    """The library's guided denoiser, whose classifier is an integral by autograd, against integration over x_0."""
    schedule = schedules.cosine()
    a, b = float(schedule.at(t).a), float(schedule.at(t).b)

    def log_prob(xt: Tensor, t: Tensor) -> Tensor:
        noise = torch.exp(-((xt - a * GRID) ** 2) / (2 * b**2))
        return torch.log((noise * density(GRID, "B")).sum(1) / (noise * sum(density(GRID, c) for c in "ABC")).sum(1))

    plain = denoise.exact(mixture("A", "B", "C"), schedule)
    found = guidance.classifier(plain, schedule, log_prob)(POINTS[:, None], torch.full((len(POINTS),), t))
    wanted = [by_integration(xt, a, b, "B")[1] for xt in POINTS.tolist()]
    torch.testing.assert_close(found[:, 0], torch.tensor(wanted, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@pytest.mark.equation("eq-conditional-implied", by="guidance.classifier_free")
@pytest.mark.parametrize(("a", "b"), LEVELS)
def test_two_guesses_imply_a_classifier(a, b):
    """The slope of an integrated log p(c | x_t), by finite differences, against two integrated guesses."""
    h = 1e-4
    for xt in POINTS.tolist():
        (up_c, up), (down_c, down) = (
            (math.log(by_integration(x, a, b, "A")[0]), math.log(by_integration(x, a, b, "ABC")[0]))
            for x in (xt + h, xt - h)
        )
        slope = ((up_c - up) - (down_c - down)) / (2 * h)
        told, not_told = by_integration(xt, a, b, "A")[1], by_integration(xt, a, b, "ABC")[1]
        assert a / b**2 * (told - not_told) == pytest.approx(slope, abs=2e-5 / b**2)


@pytest.mark.equation("eq-conditional-faces", by="guidance.classifier_free")
@pytest.mark.parametrize("face", PREDICTIONS)
@pytest.mark.parametrize("w", [-1.0, 0.5, 3.0])
def test_every_face_may_be_mixed(face, w, generator):
    """A network's output of any kind, mixed as it stands, is that of the guided x̂0."""
    schedule = schedules.cosine()
    x_c, x_u, xt = torch.randn(3, 8, 2, generator=generator, dtype=torch.float64)
    t = torch.full((8,), 400)
    mixed = guidance.classifier_free(lambda xt, t: x_c, lambda xt, t: x_u, w)(xt, t)
    out_c, out_u = (from_x0(face, x, schedule, xt, t) for x in (x_c, x_u))
    torch.testing.assert_close(from_x0(face, mixed, schedule, xt, t), out_u + w * (out_c - out_u))


@pytest.mark.equation("eq-conditional-tilted", by="guidance.classifier_free")
@pytest.mark.parametrize("w", [0.0, 2.0, 5.0])
@pytest.mark.parametrize("t", [100, 500, 900])
def test_at_each_level_the_guided_score_is_that_of_a_tilted_density(w, t):
    schedule, h = schedules.cosine(), 1e-4
    a, b = float(schedule.at(t).a), float(schedule.at(t).b)
    c, u = (denoise.exact(mixture(*names), schedule) for names in ("B", "ABC"))
    found = guidance.classifier_free(c, u, w)(POINTS[:, None], torch.full((len(POINTS),), t))[:, 0]

    def log_tilted(x: float) -> float:
        of_class, of_all = by_integration(x, a, b, "B")[0], by_integration(x, a, b, "ABC")[0]
        return math.log(of_all) + w * math.log(of_class / of_all)

    for xt, x0_hat in zip(POINTS.tolist(), found.tolist()):
        slope = (log_tilted(xt + h) - log_tilted(xt - h)) / (2 * h)
        assert (a * x0_hat - xt) / b**2 == pytest.approx(slope, abs=1e-4 / b**2)


# The Gaussian example: N(0, 1) given c, N(0, 2) of all -----------------------------------------------------------


@pytest.mark.equation("eq-conditional-tilted-variance")
@pytest.mark.parametrize("w", [1.0, 2.0, 3.0, 7.5])
def test_the_variance_of_the_tilted_law(w):
    """By integration of p(x) p(c|x)^w, where c is a number near which x lies: c ~ N(0, 1), x | c ~ N(c, 1), c = 0."""

    def moment(power: int) -> float:
        def integrand(x: float) -> float:
            p, p_of_c = math.exp(-(x**2) / 4), math.exp(-((0 - x / 2) ** 2) / (2 * 0.5))
            return x**power * p * p_of_c**w

        return integrate.quad(integrand, -30, 30, epsabs=1e-12, limit=200)[0]

    assert moment(2) / moment(0) == pytest.approx(2 / (1 + w), rel=1e-6)
    if w == 3:
        assert moment(2) / moment(0) == pytest.approx(0.5, rel=1e-6)


def gaussian_pair(schedule: schedules.Schedule, w: float) -> denoise.Denoiser:
    one = torch.ones(1, dtype=torch.float64)
    c, u = (denoise.exact(data.GaussianMixture(one, 0 * one[None], v * one[None, None]), schedule) for v in (1.0, 2.0))
    return guidance.classifier_free(c, u, w)


@pytest.mark.equation("eq-conditional-ode-variance", by="samplers.heun")
@pytest.mark.parametrize("w", [1.0, 2.0, 3.0, 7.5])
def test_the_variance_of_the_guided_ode(w):
    """The walk is linear, so it multiplies its start by one number, which Heun's method finds with our denoisers."""
    schedule = schedules.EDM(sigma_max=2000.0)
    times = samplers.karras_times(schedule, 1500, sigma_min=1e-4)
    start = torch.tensor([[2000.0]], dtype=torch.float64)
    factor = float(samplers.heun(gaussian_pair(schedule, w), schedule, start, times)) / 2000
    assert (2000 * factor) ** 2 == pytest.approx(2 ** (1 - w), rel=2e-3 * w)


@pytest.mark.equation("eq-conditional-sde-variance", by="samplers.ddpm")
@pytest.mark.parametrize("w", [1.0, 2.0, 3.0])
def test_the_variance_of_the_guided_walk_with_noise(w):
    """DDPM's own chain, whose variance is followed step by step; its error falls with the step, so two are compared."""

    def variance(steps: int) -> float:
        sigmas = torch.logspace(math.log10(3000), -3, steps, dtype=torch.float64).tolist()
        found = sigmas[0] ** 2
        for sigma_t, sigma_s in pairwise([*sigmas, 0.0]):
            share = sigma_s**2 / sigma_t**2
            x0_hat = w / (1 + sigma_t**2) + (1 - w) * 2 / (2 + sigma_t**2)  # as a multiple of y
            found = found * ((1 - share) * x0_hat + share) ** 2 + sigma_s**2 * (1 - share)
        return found

    coarse, fine = variance(4000), variance(8000)
    wanted = (2 - 2 ** (2 - 2 * w)) / (2 * w - 1)
    assert 2 * fine - coarse == pytest.approx(wanted, rel=1e-4)
    assert abs(fine - wanted) < 0.6 * abs(coarse - wanted) + 1e-6


def test_the_sde_chain_is_the_librarys():
    """One walk of `samplers.ddpm` on the same σ has the variance that the test above follows."""
    schedule, w, n = schedules.EDM(sigma_max=50.0), 3.0, 40_000
    times = samplers.log_snr_times(schedule, 200)
    start = 50 * torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = samplers.ddpm(
        gaussian_pair(schedule, w), schedule, start, times, generator=torch.Generator().manual_seed(1)
    )
    found, sigmas = 50.0**2, schedule.at(torch.tensor(times, dtype=torch.float64)).sigma.tolist()
    for sigma_t, sigma_s in pairwise(sigmas):
        share = sigma_s**2 / sigma_t**2
        x0_hat = w / (1 + sigma_t**2) + (1 - w) * 2 / (2 + sigma_t**2)
        found = found * ((1 - share) * x0_hat + share) ** 2 + sigma_s**2 * (1 - share)
    assert float(drawn.var()) == pytest.approx(found, rel=5 * math.sqrt(2 / n))


@pytest.mark.parametrize("original", [False, True])
def test_the_conventions_of_diffusers_are_as_the_page_says(original):
    """Its guider means our w, and 1 + s where it is told to use the original formulation."""
    guiders = pytest.importorskip("diffusers.guiders")
    c, u = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    guider = guiders.ClassifierFreeGuidance(guidance_scale=0.3, use_original_formulation=original)
    guider._step, guider._num_inference_steps, guider._timestep = 0, 10, 0
    x, t = torch.zeros(4, dtype=torch.float64), torch.zeros(1)
    ours = guidance.classifier_free(lambda xt, t: c, lambda xt, t: u, 1.3 if original else 0.3)(x, t)
    torch.testing.assert_close(guider.forward(c, u).pred, ours)
    assert guiders.ClassifierFreeGuidance().guidance_scale == 7.5
