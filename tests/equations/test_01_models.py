"""Chapter 1: every derived equation of the introduction, by another route."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MultivariateNormal, Normal, kl_divergence

from diffusion_book import data

f64 = {"dtype": torch.float64}
X = torch.linspace(-9, 9, 18001, **f64)
DX = X[1] - X[0]


def integral(values: Tensor) -> Tensor:
    return values.sum(-1) * DX


def mixture(x: Tensor) -> Tensor:
    """The density of two unequal bells on a line."""
    return 0.3 * Normal(-1.5, 0.4).log_prob(x).exp() + 0.7 * Normal(1.0, 0.6).log_prob(x).exp()


# Density estimation ----------------------------------------------------------------------------------------------


@pytest.mark.equation("eq-models-mle")
def test_log_likelihood_is_entropy_and_divergence_of_named_distributions():
    """The library's closed forms of entropy and divergence against an integral that knows neither."""
    q, p = Normal(torch.tensor(0.3, **f64), 0.8), Normal(torch.tensor(-0.5, **f64), 1.7)
    average = integral(q.log_prob(X).exp() * p.log_prob(X))
    assert torch.isclose(average, -q.entropy() - kl_divergence(q, p), atol=1e-10)


@pytest.mark.equation("eq-models-mle")
def test_the_most_probable_coin_is_the_share_that_was_thrown():
    """Among all coins, that of greatest likelihood is the one of least divergence: the share of heads."""
    theta = torch.linspace(0.001, 0.999, 999, **f64)
    throws = torch.tensor([1.0] * 7 + [0.0] * 3, **f64)
    likelihood = torch.distributions.Bernoulli(theta[:, None]).log_prob(throws).mean(1)
    coins = Categorical(torch.stack([theta, 1 - theta], 1))
    divergence = kl_divergence(Categorical(torch.tensor([0.7, 0.3], **f64)), coins)
    assert likelihood.argmax() == divergence.argmin() == (theta - 0.7).abs().argmin()
    assert torch.allclose(likelihood + divergence, likelihood.max().expand(999), atol=1e-9)
    assert abs(divergence[499] - 0.082) < 5e-4  # what the page says of the fair coin


@pytest.mark.equation("eq-models-garbage")
@pytest.mark.parametrize("spread", [0.5, 3.0, 100.0])
def test_a_hundredth_of_the_truth_costs_at_most_the_logarithm_of_a_hundred(spread):
    """In sixty dimensions, and for garbage of any size; the bound is reached where the garbage is nowhere."""
    eye = torch.eye(60, **f64)
    q, r = MultivariateNormal(torch.zeros(60, **f64), eye), MultivariateNormal(4 * eye[0], spread**2 * eye)
    x = torch.randn(2000, 60, generator=torch.Generator().manual_seed(0), **f64)
    spoilt = torch.logaddexp(q.log_prob(x) + math.log(0.01), r.log_prob(x) + math.log(0.99))
    lost = (q.log_prob(x) - spoilt).mean()
    assert lost <= math.log(100) + 1e-12
    if spread == 100:
        assert lost > math.log(100) - 1e-6


# Four families ---------------------------------------------------------------------------------------------------


def bend(x: Tensor) -> Tensor:
    """A map of the plane that can be undone: two coupling layers, written for one point [2]."""
    x = torch.stack([x[0], x[1] * torch.exp(torch.sin(x[0])) + x[0] ** 2 / 2])
    return torch.stack([x[0] * torch.exp(0.5 * torch.cos(x[1])) - 0.3 * x[1], x[1]])


@pytest.mark.equation("eq-models-flow")
def test_the_density_of_a_flow_is_that_of_its_samples():
    """Its integral over the plane is one, and over a box it is the share of samples that fall there."""
    axis = torch.linspace(-12, 12, 601, **f64)
    points = torch.cartesian_prod(axis, axis)
    z = torch.vmap(bend)(points)
    log_det = torch.linalg.slogdet(torch.vmap(torch.func.jacrev(bend))(points)).logabsdet
    density = (Normal(0.0, 1.0).log_prob(z).sum(1) + log_det).exp()
    cell = (axis[1] - axis[0]) ** 2
    assert abs(density.sum() * cell - 1) < 1e-3
    # Undo the two layers by hand, for samples.
    n = 200_000
    y = torch.randn(n, 2, generator=torch.Generator().manual_seed(0), **f64)
    first = (y[:, 0] + 0.3 * y[:, 1]) * torch.exp(-0.5 * torch.cos(y[:, 1]))
    samples = torch.stack([first, (y[:, 1] - first**2 / 2) * torch.exp(-torch.sin(first))], 1)
    low, high = torch.tensor([-0.98, -1.42], **f64), torch.tensor([0.46, 0.5], **f64)  # edges between grid points
    inside = ((points > low) & (points < high)).all(1)
    expected = (density[inside].sum() * cell).item()
    share = ((samples > low) & (samples < high)).all(1).double().mean().item()
    assert abs(share - expected) < 4.5 * math.sqrt(expected * (1 - expected) / n) + 2e-3


@pytest.mark.equation("eq-models-vae")
def test_the_bound_lies_below_and_touches_at_the_posterior():
    """For x = w z + noise the likelihood is known; the bound misses it by the divergence from the true causes."""
    w, std, x = 1.7, 0.6, torch.tensor(0.9, **f64)
    exact = Normal(torch.tensor(0.0, **f64), math.sqrt(w**2 + std**2)).log_prob(x)
    prior = Normal(torch.tensor(0.0, **f64), 1.0)
    joint = prior.log_prob(X).exp() * Normal(w * X, std).log_prob(x).exp()
    posterior = joint / integral(joint)
    mean = integral(posterior * X)
    spread = integral(posterior * (X - mean) ** 2).sqrt()
    for m, s in [(0.0, 1.0), (0.5, 0.2), (-1.0, 0.7), (mean.item(), spread.item())]:
        guess = Normal(torch.tensor(m, **f64), s)
        density = guess.log_prob(X).exp()
        bound = integral(density * Normal(w * X, std).log_prob(x)) - kl_divergence(guess, prior)
        gap = integral(torch.xlogy(density, density) - torch.xlogy(density, posterior.clamp_min(1e-300)))
        assert torch.isclose(exact - bound, gap, atol=1e-8)
        assert bound <= exact + 1e-10
    assert torch.isclose(bound, exact, atol=1e-8)  # the last one is the posterior


@pytest.mark.equation("eq-models-critic")
def test_a_critic_of_free_values_learns_the_ratio_of_densities():
    """Gradient descent on the two losses, with one free number at each place, ends at q / (q + p)."""
    x = torch.linspace(-3, 3, 61, **f64)
    q, p = mixture(x), Normal(0.0, 1.2).log_prob(x).exp()
    logits = torch.zeros(61, **f64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (q * nn.functional.softplus(-logits) + p * nn.functional.softplus(logits)).sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert torch.allclose(torch.sigmoid(logits), q / (q + p), atol=1e-4)


# Why denoise -----------------------------------------------------------------------------------------------------


@pytest.mark.equation("eq-models-tweedie", by="data.toys.GaussianMixture")
@pytest.mark.parametrize(("a", "b"), [(0.9, 0.2), (0.6, 0.8), (0.1, 1.0)])
def test_the_guess_is_the_point_moved_uphill(a, b):
    """The mean by Bayes' rule on a grid, the slope by automatic differentiation of an integral."""
    xt = torch.tensor([-2.0, -0.3, 0.4, 1.1], **f64, requires_grad=True)
    joint = mixture(X) * Normal(a * X, b).log_prob(xt[:, None]).exp()
    log_q = integral(joint).log()
    (score,) = torch.autograd.grad(log_q.sum(), xt)
    mean = integral(joint * X) / integral(joint)
    assert torch.allclose(mean, (xt + b**2 * score) / a, atol=1e-8)


@pytest.mark.equation("eq-models-tweedie", by="data.toys.GaussianMixture")
def test_the_guess_on_the_ring_is_the_point_moved_uphill():
    """In the plane, with the library's mixture and a derivative of its log-density by central differences."""
    ring, a, b, h = data.ring_of_gaussians(), 0.7, 0.5, 1e-5
    xt = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), **f64)
    noisy = ring.noised(a, b)
    score = torch.stack(
        [(noisy.log_prob(xt + h * e) - noisy.log_prob(xt - h * e)) / (2 * h) for e in torch.eye(2, **f64)], dim=1
    )
    assert torch.allclose(ring.posterior_mean(xt, a, b), (xt + b**2 * score) / a, atol=1e-7)
