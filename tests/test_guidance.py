"""Guidance against closed forms: on Gaussians and their mixtures every guided denoiser is known."""

import math

import pytest
import torch
from diffusers.guiders.guider_utils import rescale_noise_cfg
from torch import Tensor

from diffusion_book import denoise, editing, guidance, schedules
from diffusion_book.data import GaussianMixture
from diffusion_book.samplers import ddim, ddpm, heun, karras_times, start_noise, uniform_times

SCHEDULE = schedules.linear(100)
SCHEDULES = [SCHEDULE, schedules.Flow(), schedules.EDM(), schedules.VP()]
TIMES = {
    "Discrete": [1, 17, 60, 100],
    "Flow": [0.01, 0.4, 0.9, 0.99],
    "EDM": [0.01, 0.5, 5, 60],
    "VP": [0.01, 0.3, 0.7, 1],
}


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


COV = tensor([[[1.0, 0.3], [0.3, 0.5]], [[0.2, 0.0], [0.0, 0.4]], [[0.3, -0.1], [-0.1, 0.6]]])
MIXTURE = GaussianMixture(tensor([0.5, 0.3, 0.2]), tensor([[-1.0, 0.2], [1.2, 0.8], [0.3, -1.5]]), COV)


def component(k: int, of: GaussianMixture = MIXTURE) -> GaussianMixture:
    return GaussianMixture(tensor([1.0]), of.mean[k : k + 1], of.cov[k : k + 1])


def batch(schedule: schedules.Schedule, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """x_t [16, 2] where x_t is likely, four at each of four times."""
    kind = torch.long if isinstance(schedule, schedules.Discrete) else torch.float64
    t = torch.tensor(TIMES[type(schedule).__name__], dtype=kind).repeat(4)
    x0 = MIXTURE.sample(16, generator)
    eps = torch.randn(16, 2, generator=generator, dtype=torch.float64)
    _, a, b = schedule.at(t).like(x0)
    return a * x0 + b * eps, t


def gaussian_x0(schedule: schedules.Schedule, mean: Tensor, cov: Tensor, xt: Tensor, t: Tensor) -> Tensor:
    """E[x0|x_t] of N(mean, cov), by a linear solve for each example."""
    _, a, b = schedule.at(t)
    found = []
    for i in range(len(xt)):
        noised = a[i] ** 2 * cov + b[i] ** 2 * torch.eye(len(cov), dtype=cov.dtype)
        found.append(mean + a[i] * cov @ torch.linalg.solve(noised, xt[i] - a[i] * mean))
    return torch.stack(found)


def log_prob_of(k: int, schedule: schedules.Schedule, of: GaussianMixture = MIXTURE):
    """log p(k|x_t), one example at a time from densities of torch.distributions: Bayes, and nothing of our own."""

    def log_prob(xt: Tensor, t: Tensor) -> Tensor:
        rows = []
        for x, a, b in zip(xt, *schedule.at(t)[1:]):
            noise = b**2 * torch.eye(2, dtype=xt.dtype)
            normal = torch.distributions.MultivariateNormal(a * of.mean, a**2 * of.cov + noise)
            joint = of.weight.log() + normal.log_prob(x)
            rows.append(joint[k] - joint.logsumexp(0))
        return torch.stack(rows)

    return log_prob


def counted(denoiser: denoise.Denoiser) -> tuple[denoise.Denoiser, list[Tensor]]:
    calls: list[Tensor] = []

    def counting(xt: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return denoiser(xt, t)

    return counting, calls


def never(xt: Tensor, t: Tensor) -> Tensor:
    raise AssertionError("this denoiser should not be asked")


every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


# Classifier-free -----------------------------------------------------------------------------------------------


@every_schedule
@pytest.mark.parametrize("w", [-1.0, 0.0, 0.5, 1.0, 2.0, 7.5])
def test_on_a_mixture_the_guided_score_is_the_weighted_sum_of_scores(schedule, w, generator):
    """The scores come from the densities by autograd, and go to x̂0 by Tweedie's formula."""
    xt, t = batch(schedule, generator)
    found = guidance.classifier_free(denoise.exact(component(0), schedule), denoise.exact(MIXTURE, schedule), w)(xt, t)
    scores = []
    for mixture in (MIXTURE, component(0)):
        rows = []
        for x, a, b in zip(xt, *(value.tolist() for value in schedule.at(t)[1:])):
            x = x[None].clone().requires_grad_()
            rows.append(torch.autograd.grad(mixture.noised(a, b).log_prob(x).sum(), x)[0][0])
        scores.append(torch.stack(rows))
    a, b = schedule.at(t).a[:, None], schedule.at(t).b[:, None]
    expected = (xt + b**2 * ((1 - w) * scores[0] + w * scores[1])) / a
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@every_schedule
@pytest.mark.parametrize("w", [0.3, 2.0, 5.0])
def test_between_gaussians_of_one_covariance_guidance_moves_the_mean(schedule, w, generator):
    """Then, and only then, the guided denoiser is the exact one of a Gaussian: N(m_u + w(m_c − m_u), Σ)."""
    xt, t = batch(schedule, generator)
    m_c, m_u, cov = tensor([1.0, -0.5]), tensor([-0.2, 0.3]), COV[0]
    c, u = (denoise.exact(GaussianMixture(tensor([1.0]), m[None], cov[None]), schedule) for m in (m_c, m_u))
    expected = gaussian_x0(schedule, m_u + w * (m_c - m_u), cov, xt, t)
    torch.testing.assert_close(guidance.classifier_free(c, u, w)(xt, t), expected, rtol=1e-10, atol=1e-10)


def test_guidance_does_not_sample_the_sharpened_distribution():
    """Two Gaussians of variance s_c² and s_u² around 0, in closed form.

    With a = 1 the probability-flow ODE is dx/dσ = −σ score = σ x (w/(s_c² + σ²) + (1 − w)/(s_u² + σ²)). So
    x_0 = x_T Π (s²/(s² + σ_T²))^{w/2}, one factor for each, with w or 1 − w: from x_T ~ N(0, σ_T²) and σ_T → ∞ the
    variance tends to s_c^{2w} s_u^{2(1−w)}, a geometric mean. But p_u(x) p(c|x)^w ∝ p_c^w p_u^{1−w} has the harmonic
    one, 1/(w/s_c² + (1 − w)/s_u²). (p(c|x) is p(c) p_c/p_u, at most 1 for p(c) ≤ s_c/s_u.)
    """
    s_c, s_u, w, schedule = 0.5, 1.0, 2.0, schedules.EDM(sigma_max=80.0)
    c, u = (
        denoise.exact(GaussianMixture(tensor([1.0]), tensor([[0.0]]), tensor([[[s**2]]])), schedule) for s in (s_c, s_u)
    )
    x_T = tensor([[-80.0], [20.0], [80.0]])
    found = heun(guidance.classifier_free(c, u, w), schedule, x_T, karras_times(schedule, 400, sigma_min=1e-4)) / x_T
    factor = (s_c**2 / (s_c**2 + 80**2)) ** (w / 2) * (s_u**2 / (s_u**2 + 80**2)) ** ((1 - w) / 2)
    # Heun's error falls with the square of the step: 3.5e-3 at 100 steps, so 2e-4 at 400.
    torch.testing.assert_close(found, torch.full_like(found, factor), rtol=1e-3, atol=0)
    sampled = (80 * found[0].item()) ** 2
    assert sampled == pytest.approx(s_c ** (2 * w) * s_u ** (2 * (1 - w)), rel=3e-3)  # 1/16

    x = torch.linspace(-12, 12, 100_001, dtype=torch.float64)  # brute force, without the formula for the variance
    log_c, log_u = (-0.5 * (x / s) ** 2 - math.log(s) for s in (s_c, s_u))
    classifier = math.log(s_c / s_u) + log_c - log_u  # log p(c|x), whose greatest value is log p(c) s_u/s_c = 0
    assert classifier.max() < 1e-12
    density = torch.exp(log_u + w * classifier)
    sharpened = ((density * x**2).sum() / density.sum()).item()
    assert sharpened == pytest.approx(1 / (w / s_c**2 + (1 - w) / s_u**2), rel=1e-9)  # 1/7
    assert sampled < 0.5 * sharpened


@pytest.mark.parametrize("combine", [guidance.classifier_free, guidance.autoguidance])
def test_without_guidance_only_one_denoiser_is_asked(combine, generator):
    xt, t = batch(SCHEDULE, generator)
    exact = denoise.exact(MIXTURE, SCHEDULE)
    assert torch.equal(combine(exact, never, 1.0)(xt, t), exact(xt, t))
    assert torch.equal(combine(never, exact, 0)(xt, t), exact(xt, t))


def test_each_example_may_have_its_own_weight(generator):
    xt, t = batch(SCHEDULE, generator)
    c, u = denoise.exact(component(1), SCHEDULE), denoise.exact(MIXTURE, SCHEDULE)
    w = torch.linspace(-1, 8, 16)
    found = guidance.classifier_free(c, u, w, phi=0.4)(xt, t)
    one_by_one = [guidance.classifier_free(c, u, w[i].item(), 0.4)(xt[i : i + 1], t[i : i + 1]) for i in range(16)]
    torch.testing.assert_close(found, torch.cat(one_by_one), rtol=1e-12, atol=1e-12)


def test_guidance_upon_guidance_multiplies(generator):
    """u + w₂((u + w₁(c − u)) − u) = u + w₁w₂(c − u): what a denoiser is made of is no matter."""
    xt, t = batch(SCHEDULE, generator)
    c, u = denoise.exact(component(1), SCHEDULE), denoise.exact(MIXTURE, SCHEDULE)
    twice = guidance.classifier_free(guidance.classifier_free(c, u, 1.5), u, 4.0)
    torch.testing.assert_close(twice(xt, t), guidance.classifier_free(c, u, 6.0)(xt, t), rtol=1e-12, atol=1e-12)


def test_a_negative_condition_takes_the_place_of_the_unconditional_one(generator):
    """Away from one of two far components and towards the other: sampling ends further from it than without."""
    pair = GaussianMixture(tensor([0.5, 0.5]), tensor([[-2.0, 0.0], [2.0, 0.0]]), COV[:1].expand(2, 2, 2))
    c, negative = (denoise.exact(component(k, pair), SCHEDULE) for k in (1, 0))
    xt, t = batch(SCHEDULE, generator)
    # Both have one covariance, so their difference at any x_t is that of the means through the gain of noise.
    _, a, b = SCHEDULE.at(t)
    eye, shift = torch.eye(2, dtype=torch.float64), pair.mean[1] - pair.mean[0]
    noise = torch.stack([bb**2 * torch.linalg.solve(aa**2 * COV[0] + bb**2 * eye, shift) for aa, bb in zip(a, b)])
    expected = c(xt, t) + (3.0 - 1) * noise
    torch.testing.assert_close(guidance.classifier_free(c, negative, 3.0)(xt, t), expected, rtol=1e-10, atol=1e-10)


# One call ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [0.0, 0.7])
@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
def test_one_call_gives_what_two_give(prediction, phi, generator):
    table = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    sizes = []

    def network(xt: Tensor, t: Tensor, y: Tensor, shift: Tensor) -> Tensor:
        sizes.append(len(xt))
        return torch.tanh(xt + table[y] + t[:, None] / 100) + shift

    xt, t = torch.randn(5, 3, generator=generator, dtype=torch.float64), torch.tensor([3, 20, 50, 80, 100])
    y, null = torch.tensor([0, 1, 2, 0, 1]), torch.full((5,), 3)
    shift = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    c, u = (denoise.from_network(network, SCHEDULE, prediction, {"y": labels, "shift": shift}) for labels in (y, null))
    together = guidance.classifier_free_batched(
        network, SCHEDULE, prediction, {"y": y, "shift": shift}, {"y": null, "shift": shift}, 3.0, phi
    )
    separate = guidance.classifier_free(c, u, 3.0, phi)
    torch.testing.assert_close(together(xt, t), separate(xt, t), rtol=1e-12, atol=1e-12)
    assert sizes == [10, 5, 5]


def test_conditions_that_cannot_share_a_batch_are_refused():
    def make(conditional, unconditional):
        return guidance.classifier_free_batched(lambda xt, t, **_: xt, SCHEDULE, "x0", conditional, unconditional, 2.0)

    y = torch.zeros(3, dtype=torch.long)
    for other in ({}, {"y": y[:2]}, {"context": y}):
        with pytest.raises(ValueError, match=r"the same names and shapes to share a batch, got .*'y': \(3,\)"):
            make({"y": y}, other)
    with pytest.raises(ValueError, match="names and shapes"):
        make({}, {})
    with pytest.raises(ValueError, match="the conditions are for 3 examples, got x_t with 4"):
        make({"y": y}, {"y": y})(torch.zeros(4, 2), torch.full((4,), 5))


# A classifier --------------------------------------------------------------------------------------------------


@every_schedule
@pytest.mark.parametrize("k", [0, 1, 2])
def test_the_exact_classifier_makes_the_exact_conditional_denoiser(schedule, k, generator):
    """Bayes: E[x0|x_t] + (b²/a) ∇ log p(k|x_t) = E[x0|x_t, k], for each component of a mixture."""
    xt, t = batch(schedule, generator)
    guided = guidance.classifier(denoise.exact(MIXTURE, schedule), schedule, log_prob_of(k, schedule))
    expected = gaussian_x0(schedule, MIXTURE.mean[k], MIXTURE.cov[k], xt, t)
    # b²/a, up to 157 here and 3600 for EDM, magnifies the roundings of the gradient.
    torch.testing.assert_close(guided(xt, t), expected, rtol=1e-10, atol=1e-10)


@every_schedule
@pytest.mark.parametrize("w", [0.0, 0.5, 4.0])
def test_with_an_exact_classifier_both_kinds_of_guidance_are_one(schedule, w, generator):
    xt, t = batch(schedule, generator)
    by_gradient = guidance.classifier(denoise.exact(MIXTURE, schedule), schedule, log_prob_of(1, schedule), w)
    free = guidance.classifier_free(denoise.exact(component(1), schedule), denoise.exact(MIXTURE, schedule), w)
    torch.testing.assert_close(by_gradient(xt, t), free(xt, t), rtol=1e-9, atol=1e-9)


def test_the_gradient_is_taken_where_sampling_takes_none_and_leaves_nothing_behind(generator):
    xt, t = batch(SCHEDULE, generator)
    guided = guidance.classifier(denoise.exact(MIXTURE, SCHEDULE), SCHEDULE, log_prob_of(1, SCHEDULE))
    with torch.no_grad():
        silent = guided(xt, t)
    assert torch.equal(silent, guided(xt, t))
    assert not silent.requires_grad
    assert not xt.requires_grad
    assert xt.grad is None


def test_a_guided_model_has_a_divergence(generator):
    """Where x_t carries a graph, as in the likelihood of a model, the gradient is differentiated in its turn."""
    xt, t = batch(SCHEDULE, generator)
    guided = guidance.classifier(denoise.exact(MIXTURE, SCHEDULE), SCHEDULE, log_prob_of(1, SCHEDULE), 2.0)
    assert torch.autograd.gradcheck(lambda x: guided(x, t[:4]), xt[:4].requires_grad_())


@pytest.mark.parametrize(
    "schedule", [schedules.Flow(), schedules.Cosine(), schedules.zero_terminal_snr(SCHEDULE)], ids=repr
)
def test_where_nothing_is_left_a_classifier_cannot_guide(schedule, generator):
    """The limit is not 0, as the gradient is: it says so, and `interval` leaves the time out."""
    exact = denoise.exact(MIXTURE, schedule)
    guided = guidance.classifier(exact, schedule, log_prob_of(1, schedule))
    xt, t = torch.randn(3, 2, generator=generator, dtype=torch.float64), torch.full((3,), schedule.T)
    with pytest.raises(ValueError, match=r"cannot guide where a\(t\) = 0"):
        guided(xt, t)
    assert torch.equal(guidance.interval(guided, exact, schedule, 0, 1e3)(xt, t), exact(xt, t))


def test_a_classifier_that_gives_no_gradient_is_refused(generator):
    xt, t = batch(SCHEDULE, generator)
    exact = denoise.exact(MIXTURE, SCHEDULE)
    for log_prob, message in (
        (lambda xt, t: xt, r"log_prob must return \[16\] numbers, differentiable in x_t, got shape \(16, 2\)"),
        (lambda xt, t: xt.sum(), r"got shape \(\)"),
        (lambda xt, t: xt.detach().sum(1), "without a gradient; is it under torch.no_grad"),
    ):
        with pytest.raises(ValueError, match=message):
            guidance.classifier(exact, SCHEDULE, log_prob)(xt, t)


def test_a_classifier_guides_in_inference_mode(generator):
    """Also where its start, and so each x_t, was made there; a classifier that is in that mode itself is told so."""
    xt, t = batch(SCHEDULE, generator)
    exact = denoise.exact(MIXTURE, SCHEDULE)

    def log_prob(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (t[:, None] * xt**2).sum(1).sin()

    expected = guidance.classifier(exact, SCHEDULE, log_prob)(xt, t)
    with torch.inference_mode():
        assert torch.equal(guidance.classifier(exact, SCHEDULE, log_prob)(xt, t), expected)
        made_there = guidance.classifier(exact, SCHEDULE, log_prob)(xt.clone(), t.clone())
        assert torch.equal(made_there, expected)
    with pytest.raises(ValueError, match=r"without a gradient; is it under torch\.no_grad or inference_mode\?"):
        guidance.classifier(exact, SCHEDULE, torch.inference_mode()(log_prob))(xt, t)


def test_a_classifier_that_returns_no_tensor_is_refused(generator):
    xt, t = batch(SCHEDULE, generator)
    exact = denoise.exact(MIXTURE, SCHEDULE)
    with pytest.raises(ValueError, match="log_prob must return a tensor, got NoneType"):
        guidance.classifier(exact, SCHEDULE, lambda xt, t: None)(xt, t)


# Where guidance goes wrong ---------------------------------------------------------------------------------------


def test_the_interval_asks_one_side_at_a_time(generator):
    """Over a whole walk: σ from high to low, guided where σ_low < σ ≤ σ_high and nowhere else."""
    schedule = schedules.EDM()
    guided, asked_guided = counted(lambda xt, t: 0.5 * xt)
    plain, asked_plain = counted(lambda xt, t: 0.25 * xt)
    times = [80.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.0]
    ddim(guidance.interval(guided, plain, schedule, 1.0, 5.0), schedule, start_noise((3, 2), generator), times)
    assert [float(t[0]) for t in asked_guided] == [5.0, 2.0]  # the upper end belongs to it, the lower does not
    assert [float(t[0]) for t in asked_plain] == [80.0, 10.0, 1.0, 0.5]


def test_a_batch_on_both_sides_of_the_interval_asks_both(generator):
    xt, t = batch(SCHEDULE, generator)
    guided, asked_guided = counted(lambda xt, t: xt + 1)
    plain, asked_plain = counted(lambda xt, t: xt - 1)
    low, high = float(SCHEDULE.at(17).sigma), float(SCHEDULE.at(60).sigma)
    found = guidance.interval(guided, plain, SCHEDULE, low, high)(xt, t)
    assert torch.equal(found, torch.where((t == 60)[:, None], xt + 1, xt - 1))
    assert len(asked_guided) == len(asked_plain) == 1


def test_an_interval_without_ends_is_guidance_everywhere(generator):
    schedule = schedules.zero_terminal_snr(SCHEDULE)
    xt, t = torch.randn(3, 2, generator=generator), torch.tensor([1, 50, 100])
    assert torch.equal(guidance.interval(lambda xt, t: 2 * xt, never, schedule, 0)(xt, t), 2 * xt)


@pytest.mark.parametrize("phi", [0.0, 0.3, 0.7, 1.0])
def test_rescaling_is_that_of_diffusers(phi, generator):
    c, u = (torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    guided = guidance.classifier_free(lambda xt, t: c, lambda xt, t: u, 7.5, phi)
    found = guided(torch.zeros_like(c), torch.full((4,), 50))
    theirs = rescale_noise_cfg(u + 7.5 * (c - u), c, phi)
    torch.testing.assert_close(found, theirs, rtol=1e-12, atol=1e-12)


def test_at_phi_one_each_example_has_the_spread_of_the_conditional(generator):
    scale = tensor([0.1, 1.0, 5.0])[:, None, None, None]  # examples that differ, so that a spread of the batch is wrong
    c, u = (scale * torch.randn(3, 2, 5, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    xt, t = torch.zeros_like(c), torch.full((3,), 50)
    plain = guidance.classifier_free(lambda xt, t: c, lambda xt, t: u, 6.0)(xt, t)
    found = guidance.classifier_free(lambda xt, t: c, lambda xt, t: u, 6.0, phi=1.0)(xt, t)
    torch.testing.assert_close(found.flatten(1).std(1), c.flatten(1).std(1), rtol=1e-12, atol=0)
    assert bool((plain.flatten(1).std(1) > 3 * c.flatten(1).std(1)).all())


def test_the_spread_is_that_of_the_conditional_without_guidance_too(generator):
    """At w = 0 the estimate is the unconditional one, but not its spread: then both are asked."""
    c, u = torch.randn(2, 3, 20, generator=generator, dtype=torch.float64)
    found = guidance.classifier_free(lambda xt, t: 5 * c, lambda xt, t: u, 0.0, phi=1.0)(c, torch.ones(3))
    torch.testing.assert_close(found, u * 5 * (c.std(1) / u.std(1))[:, None], rtol=1e-12, atol=0)


def test_rescale_around_guidance_is_guidance_with_phi(generator):
    xt, t = batch(SCHEDULE, generator)
    (c, asked), u = counted(denoise.exact(component(0), SCHEDULE)), denoise.exact(MIXTURE, SCHEDULE)
    inside = guidance.classifier_free(c, u, 5.0, phi=0.6)(xt, t)
    assert len(asked) == 1
    around = guidance.rescale(guidance.classifier_free(c, u, 5.0), c, 0.6)(xt, t)
    assert len(asked) == 3
    assert torch.equal(inside, around)
    usual = guidance.rescale(guidance.classifier_free(c, u, 5.0), c, 0.7)(xt, t)
    assert torch.equal(guidance.rescale(guidance.classifier_free(c, u, 5.0), c)(xt, t), usual)


def test_a_constant_estimate_is_not_divided_by_its_spread():
    flat = lambda xt, t: torch.full_like(xt, 0.3)  # noqa: E731
    found = guidance.rescale(flat, lambda xt, t: xt, 1.0)(torch.randn(2, 5, generator=torch.Generator()), torch.ones(2))
    assert torch.equal(found, torch.full((2, 5), 0.3))


def test_autoguidance_removes_an_error_that_the_bad_model_has_larger(generator):
    """Where the bad one errs by k times the good one's error, w = k/(k − 1) is the exact denoiser."""
    xt, t = batch(SCHEDULE, generator)
    exact, k = denoise.exact(MIXTURE, SCHEDULE), 3.0
    error = torch.randn(16, 2, generator=generator, dtype=torch.float64)
    guided = guidance.autoguidance(lambda x, t: exact(x, t) + error, lambda x, t: exact(x, t) + k * error, k / (k - 1))
    torch.testing.assert_close(guided(xt, t), exact(xt, t), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("w", [-0.5, 2.0])
def test_autoguidance_with_itself_is_itself(w, generator):
    xt, t = batch(SCHEDULE, generator)
    exact = denoise.exact(MIXTURE, SCHEDULE)
    assert torch.equal(guidance.autoguidance(exact, exact, w)(xt, t), exact(xt, t))


def test_thresholds_bring_guidance_back_into_range(generator):
    x0 = torch.tensor([[0.5, -0.2, 0.9, -1.0], [4.0, -2.0, 1.0, 0.0]])
    xt, t = torch.zeros_like(x0), torch.ones(2)
    static = guidance.threshold(lambda xt, t: x0)(xt, t)
    assert static.tolist() == x0.clamp(-1, 1).tolist()
    # The median of |x̂0| is 0.7 in the first, so it is left at ±1; in the second 1.5: clipped there, and divided by it.
    dynamic = guidance.threshold(lambda xt, t: x0, quantile=0.5)(xt, t)
    torch.testing.assert_close(dynamic[0], x0[0])
    torch.testing.assert_close(dynamic[1], torch.tensor([1.5, -1.5, 1.0, 0.0]) / 1.5)
    half = guidance.threshold(lambda xt, t: x0, x0_max=0.5, quantile=0.5)(xt, t)
    torch.testing.assert_close(half[1], torch.tensor([1.5, -1.5, 1.0, 0.0]) / 3)


def test_the_order_of_composition(generator):
    """The interval and the spread commute, because outside the interval nothing is out of proportion. Clipping does
    not commute with guidance, so it goes outermost."""
    xt, t = batch(SCHEDULE, generator)
    c, u = denoise.exact(component(0), SCHEDULE), denoise.exact(MIXTURE, SCHEDULE)
    low, high = float(SCHEDULE.at(17).sigma), float(SCHEDULE.at(60).sigma)

    def within(guided: denoise.Denoiser) -> denoise.Denoiser:
        return guidance.interval(guided, c, SCHEDULE, low, high)

    first = guidance.rescale(within(guidance.classifier_free(c, u, 6.0)), c, 0.7)(xt, t)
    second = within(guidance.rescale(guidance.classifier_free(c, u, 6.0), c, 0.7))(xt, t)
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)
    # Guided 2·0.9 − 0.8 = 1.0 stays; with clipping at 0.85 inside, 2·0.85 − 0.8 = 0.9 and outside 0.85.
    high_, low_ = (lambda xt, t: torch.full_like(xt, 0.9)), (lambda xt, t: torch.full_like(xt, 0.8))
    inner = guidance.classifier_free(guidance.threshold(high_, 0.85), guidance.threshold(low_, 0.85), 2.0)
    outer = guidance.threshold(guidance.classifier_free(high_, low_, 2.0), 0.85)
    torch.testing.assert_close(inner(xt, t), torch.full_like(xt, 0.9))
    torch.testing.assert_close(outer(xt, t), torch.full_like(xt, 0.85))


def test_a_guided_denoiser_runs_under_a_sampler(generator):
    """Guided to one component of two, ancestral sampling ends around its mean.

    A Gaussian's denoiser is affine, so each step carries the mean a_t μ to a_s μ exactly, whatever the grid. What is
    left of the start is that x_T has the mean 0 and not a_T μ, with a_T = 0.006.
    """
    schedule, cov, n = schedules.linear(), 0.25 * torch.eye(2, dtype=torch.float64), 2000
    pair = GaussianMixture(tensor([0.5, 0.5]), tensor([[-1.0, 0.0], [1.0, 0.5]]), torch.stack([cov, cov]))

    def log_second(xt: Tensor, t: Tensor) -> Tensor:
        _, a, b = schedule.at(t).like(xt)
        nearer = ((xt - a * pair.mean[0]) ** 2 - (xt - a * pair.mean[1]) ** 2) / (2 * (0.25 * a**2 + b**2))
        return torch.nn.functional.logsigmoid(nearer.sum(1))

    guided = guidance.classifier(denoise.exact(pair, schedule), schedule, log_second)
    start = start_noise((n, 2), generator, torch.float64)
    x = ddpm(guided, schedule, start, uniform_times(schedule, 50), generator=generator)
    assert bool(((x.mean(0) - pair.mean[1]).abs() < 4 * 0.5 / n**0.5).all())


# A learned variance --------------------------------------------------------------------------------------------


def with_variance(x0_hat: float, v: float) -> denoise.Denoiser:
    """x̂0 a multiple of x_t and v a constant, so that whose is whose shows."""
    return lambda xt, t: denoise.Estimate(x0_hat * xt, torch.full_like(xt, v))


def plain(x0_hat: float) -> denoise.Denoiser:
    return lambda xt, t: x0_hat * xt


FIRST = torch.tensor([[True, False]])
LOW, HIGH = float(SCHEDULE.at(17).sigma), float(SCHEDULE.at(60).sigma)
RULES = {  # from a maker of two denoisers to a guided one
    "classifier-free": lambda c, u: guidance.classifier_free(c, u, 3.0),
    "w = 1": lambda c, u: guidance.classifier_free(c, never, 1),
    "phi": lambda c, u: guidance.classifier_free(c, u, 3.0, phi=0.7),
    "own weights": lambda c, u: guidance.classifier_free(c, u, torch.linspace(0, 4, 16)),
    "autoguidance": lambda c, u: guidance.autoguidance(c, u, 2.0),
    "classifier": lambda c, u: guidance.classifier(c, SCHEDULE, log_prob_of(1, SCHEDULE), 2.0),
    "rescale": lambda c, u: guidance.rescale(guidance.classifier_free(c, u, 3.0), c, 0.7),
    "static": lambda c, u: guidance.threshold(c, 0.5),
    "dynamic": lambda c, u: guidance.threshold(guidance.classifier_free(c, u, 3.0), 0.5, 0.6),
    "inpaint": lambda c, u: editing.inpaint(guidance.classifier_free(c, u, 3.0), torch.ones(1, 2), FIRST),
}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_guidance_moves_x0_and_keeps_the_conditional_variance(rule, generator):
    """x̂0 is that of the same rule on denoisers without a variance, and v is the conditional one's own."""
    xt, t = batch(SCHEDULE, generator)
    found = rule(with_variance(0.9, 0.25), with_variance(0.4, -0.5))(xt, t)
    assert torch.equal(found.x0_hat, rule(plain(0.9), plain(0.4))(xt, t))
    assert torch.equal(found.v, torch.full_like(xt, 0.25))


def test_without_guidance_the_variance_is_the_unconditional_one(generator):
    xt, t = batch(SCHEDULE, generator)
    assert bool((guidance.classifier_free(never, with_variance(0.4, -0.5), 0)(xt, t).v == -0.5).all())


def test_the_interval_has_the_variance_of_the_side_that_a_time_is_on(generator):
    """Also in a batch with times on both sides: here 60 alone is inside."""
    xt, t = batch(SCHEDULE, generator)
    inside = (t == 60)[:, None]
    mixed = guidance.interval(with_variance(0.9, 0.25), with_variance(0.4, -0.5), SCHEDULE, LOW, HIGH)
    for times, keep in ((t, inside), (torch.full_like(t, 60), inside | True), (torch.full_like(t, 17), inside & False)):
        found = mixed(xt, times)
        assert torch.equal(found.x0_hat, torch.where(keep, 0.9 * xt, 0.4 * xt))
        assert torch.equal(found.v, torch.where(keep, 0.25, -0.5).double().expand_as(xt))


@pytest.mark.parametrize("together", [True, False])
def test_an_interval_between_a_learned_variance_and_none_is_refused(together, generator):
    """In a batch with times on both sides, or when sampling comes from one side to the other."""
    xt, t = batch(SCHEDULE, generator)
    for pair in ((with_variance(0.9, 0.25), lambda xt, t: xt), (lambda xt, t: xt, with_variance(0.9, 0.25))):
        mixed = guidance.interval(*pair, SCHEDULE, LOW, HIGH)
        if not together:
            mixed(xt, torch.full_like(t, 60))
        with pytest.raises(ValueError, match="one of the two denoisers returns a learned variance and the other none"):
            mixed(xt, t if together else torch.full_like(t, 17))


def two_outputs(xt: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """A network of ε and v, [B, 2C, …], whose label changes both."""
    shift = y.to(xt).reshape(-1, *[1] * (xt.ndim - 1))
    return torch.cat([torch.tanh(xt + shift), torch.sin(xt - shift) / (1 + shift)], 1)


def test_the_learned_variance_under_guidance_is_the_formula_by_hand(generator):
    """ε̂ = ε_∅ + w (ε_c − ε_∅), and log σ² between log β̃ and log β by the conditional v, as GLIDE's code has them."""
    c, u = (
        denoise.from_network(two_outputs, SCHEDULE, "eps", {"y": torch.full((5,), label)}, learned_variance=True)
        for label in (1, 2)
    )
    start, w = torch.randn(5, 3, 2, generator=generator, dtype=torch.float64), 2.5
    found = ddpm(
        guidance.classifier_free(c, u, w),
        SCHEDULE,
        start,
        uniform_times(SCHEDULE, 100),
        generator=generator,
        variance="learned",
    )
    again, x = torch.Generator().manual_seed(generator.initial_seed()), start
    torch.randn(5, 3, 2, generator=again, dtype=torch.float64)
    alpha_bar, beta = SCHEDULE.alpha_bar, SCHEDULE.beta
    for t in range(100, 0, -1):
        (eps_c, v), (eps_u, _) = (two_outputs(x, x, torch.full((5,), label)).chunk(2, 1) for label in (1, 2))
        eps = eps_u + w * (eps_c - eps_u)
        mean = (x - beta[t] / (1 - alpha_bar[t]).sqrt() * eps) / (1 - beta[t]).sqrt()
        if t > 1:
            small = beta[t] * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
            log_variance = (v + 1) / 2 * beta[t].log() + (1 - v) / 2 * small.log()
            noise = torch.randn(x.shape, generator=again, dtype=torch.float64)
            x = mean + torch.exp(0.5 * log_variance) * noise
    torch.testing.assert_close(found, mean, rtol=1e-9, atol=1e-9)


def test_one_call_gives_the_variance_that_two_give(generator):
    xt, t = torch.randn(5, 3, 2, generator=generator, dtype=torch.float64), torch.tensor([3, 20, 50, 80, 100])
    y, null = torch.tensor([0, 1, 2, 0, 1]), torch.full((5,), 3)
    c, u = (
        denoise.from_network(two_outputs, SCHEDULE, "eps", {"y": labels}, learned_variance=True) for labels in (y, null)
    )
    conditions = {"y": y}, {"y": null}
    one = guidance.classifier_free_batched(two_outputs, SCHEDULE, "eps", *conditions, 3.0, learned_variance=True)
    separate = guidance.classifier_free(c, u, 3.0)(xt, t)
    torch.testing.assert_close(one(xt, t).x0_hat, separate.x0_hat, rtol=1e-12, atol=1e-12)
    assert torch.equal(one(xt, t).v, separate.v)
    aside = guidance.classifier_free_batched(two_outputs, SCHEDULE, "eps", *conditions, 3.0)
    assert torch.equal(aside(xt, t), one(xt, t).x0_hat)


# Bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("w", [math.nan, math.inf, torch.tensor([1.0, math.nan]), torch.ones(2, 2)])
def test_a_bad_weight_is_refused_before_anything_is_sampled(w):
    for make in (guidance.classifier_free, guidance.autoguidance):
        with pytest.raises(ValueError, match=r"w must be a finite number, or \[B\] of them"):
            make(never, never, w)
    with pytest.raises(ValueError, match="w must be a finite number"):
        guidance.classifier(never, SCHEDULE, never, w)


def test_weights_for_another_batch_are_refused(generator):
    xt, t = batch(SCHEDULE, generator)
    guided = guidance.classifier_free(lambda xt, t: xt, lambda xt, t: -xt, torch.ones(3))
    with pytest.raises(ValueError, match="each of the 16 examples, got 3"):
        guided(xt, t)


@pytest.mark.parametrize("phi", [-0.1, 1.1, math.nan, math.inf])
def test_a_bad_phi_is_refused(phi):
    for make in (lambda: guidance.classifier_free(never, never, 2.0, phi), lambda: guidance.rescale(never, never, phi)):
        with pytest.raises(ValueError, match=r"phi must lie in \[0, 1\]"):
            make()


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (0.5, math.nan), (math.inf, math.inf)]
)
def test_an_empty_interval_is_refused(low, high):
    with pytest.raises(ValueError, match="expected 0 ≤ sigma_low < sigma_high, got"):
        guidance.interval(never, never, SCHEDULE, low, high)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_dynamic_threshold_works_in_every_precision(dtype, generator):
    """torch has no quantile of half precision: it is that of the same numbers in single precision."""
    x = (3 * torch.randn(4, 3, 5, 5, generator=generator)).to(dtype)
    t = torch.full((4,), 50)
    found = guidance.threshold(lambda xt, t: x, quantile=0.995)(x, t)
    assert found.dtype == dtype
    wide = guidance.threshold(lambda xt, t: x.double(), quantile=0.995)(x.double(), t)
    torch.testing.assert_close(found.double(), wide, rtol=4 * torch.finfo(dtype).eps, atol=0)
    sampled = ddim(guidance.threshold(lambda xt, t: 3 * xt, quantile=0.9), SCHEDULE, x, [90, 40, 0])
    assert sampled.dtype == dtype


@pytest.mark.parametrize(
    ("x0_max", "quantile"),
    [(0.0, 1.0), (-1.0, 0.5), (1.0, 0.0), (1.0, 1.5), (math.nan, 1.0), (math.inf, 0.5), (1.0, math.nan)],
)
def test_a_bad_threshold_is_refused(x0_max, quantile):
    with pytest.raises(ValueError, match=r"expected a finite x0_max > 0 and a quantile in \(0, 1\]"):
        guidance.threshold(never, x0_max, quantile)


def test_denoisers_of_two_shapes_are_refused(generator):
    xt, t = batch(SCHEDULE, generator)
    with pytest.raises(ValueError, match=r"one shape, got \(16, 2\) and \(16, 1\)"):
        guidance.classifier_free(lambda xt, t: xt, lambda xt, t: xt[:, :1], 2.0)(xt, t)
