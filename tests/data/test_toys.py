"""The oracle of the book, itself checked: against scipy, autograd, integration on a grid and Monte Carlo."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, multivariate_normal

from diffusion_book.data import (
    GaussianMixture,
    checkerboard,
    grid_of_gaussians,
    ring_of_gaussians,
    two_moons,
)

MIXTURE = GaussianMixture(
    torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
    torch.tensor([[-1.5, 0.0], [1.0, 1.0], [0.5, -1.5]], dtype=torch.float64),
    torch.tensor([[[0.3, 0.1], [0.1, 0.2]], [[0.2, 0.0], [0.0, 0.2]], [[0.4, -0.3], [-0.3, 0.3]]], dtype=torch.float64),
)
LEVELS = [(1.0, 0.0), (0.9, 0.3), (0.5, 0.8), (0.01, 1.0), (0.0, 1.0), (0.3, 2.0)]


def scipy_log_prob(mixture: GaussianMixture, x: torch.Tensor) -> torch.Tensor:
    density = sum(
        float(w) * multivariate_normal(m.numpy(), c.numpy()).pdf(x.numpy())
        for w, m, c in zip(mixture.weight, mixture.mean, mixture.cov)
    )
    return torch.as_tensor(density).log()


@pytest.mark.parametrize("mixture", [MIXTURE, ring_of_gaussians(), grid_of_gaussians(2)], ids=["mix", "ring", "grid"])
def test_log_prob_is_that_of_scipy(mixture, generator):
    x = 2 * torch.randn(100, 2, generator=generator, dtype=torch.float64)
    expected = scipy_log_prob(mixture, x)
    seen = expected > -600  # below, scipy's density underflows to zero
    assert seen.sum() > 50
    torch.testing.assert_close(mixture.log_prob(x)[seen], expected[seen], rtol=1e-10, atol=1e-10)


def test_the_density_integrates_to_one():
    axis = torch.linspace(-6, 6, 601, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    # A Riemann sum of a smooth function that vanishes at the border converges faster than any power of the spacing.
    assert (MIXTURE.log_prob(x).exp().sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize(("a", "b"), LEVELS)
def test_score_is_the_gradient_of_the_noised_log_density(a, b, generator):
    x = torch.randn(50, 2, generator=generator, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(MIXTURE.noised(a, b).log_prob(x).sum(), x)
    torch.testing.assert_close(MIXTURE.score(x.detach(), a, b), gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("a", "b"), LEVELS)
def test_noising_adds_what_it_says(a, b, generator):
    """The noised mixture against draws noised by hand: mean and covariance by Monte Carlo, density by scipy."""
    n = 20_000
    x0 = MIXTURE.sample(n, generator)
    xt = a * x0 + b * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    noised = MIXTURE.noised(a, b)
    mean = noised.weight @ noised.mean
    offset = noised.mean - mean
    cov = torch.einsum("k,kij->ij", noised.weight, noised.cov + offset[:, :, None] * offset[:, None, :])
    products = (xt - mean)[:, :, None] * (xt - mean)[:, None, :]
    assert bool(((xt.mean(0) - mean).abs() < 4 * xt.std(0) / n**0.5).all())
    assert bool(((products.mean(0) - cov).abs() < 4 * products.std(0) / n**0.5).all())
    torch.testing.assert_close(noised.log_prob(xt[:50]), scipy_log_prob(noised, xt[:50]), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("a", "b"), [level for level in LEVELS if level[0] > 0])
def test_posterior_mean_is_tweedies(a, b, generator):
    """E[x0 | x_t] = (x_t + b² ∇ log p_t(x_t)) / a, with the gradient from autograd."""
    xt = torch.randn(50, 2, generator=generator, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(MIXTURE.noised(a, b).log_prob(xt).sum(), xt)
    expected = (xt + b**2 * gradient) / a
    torch.testing.assert_close(MIXTURE.posterior_mean(xt.detach(), a, b), expected.detach(), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("a", "b"), [(0.9, 0.4), (0.4, 0.9), (0.05, 1.0), (0.0, 1.0)])
def test_posterior_mean_is_bayes_rule_integrated_on_a_grid(a, b):
    """In one dimension: ∫ x0 p(x0) q(x_t | x0) dx0 over the same without x0."""
    mixture = GaussianMixture(
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([[-1.0], [0.8]], dtype=torch.float64),
        torch.tensor([[[0.04]], [[0.25]]], dtype=torch.float64),
    )
    x0 = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    xt = torch.tensor([-1.5, -0.1, 0.4, 2.0], dtype=torch.float64)
    prior = scipy_log_prob(mixture, x0[:, None])
    weight = (prior - 0.5 * ((xt[:, None] - a * x0) / b) ** 2).softmax(1)
    torch.testing.assert_close(mixture.posterior_mean(xt[:, None], a, b)[:, 0], weight @ x0, rtol=1e-8, atol=1e-8)


def test_without_noise_the_posterior_mean_is_the_point(generator):
    x = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(MIXTURE.posterior_mean(x, 1.0, 0.0), x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(MIXTURE.posterior_mean(0.5 * x, 0.5, 0.0), x, rtol=1e-10, atol=1e-10)


def test_without_signal_the_posterior_mean_is_the_mean(generator):
    x = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    expected = (MIXTURE.weight @ MIXTURE.mean).expand(20, 2)
    torch.testing.assert_close(MIXTURE.posterior_mean(x, 0.0, 1.0), expected, rtol=1e-12, atol=1e-12)


def test_noise_levels_may_differ_by_example(generator):
    x = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    a, b = torch.tensor([[0.9], [0.5], [0.1]]).double(), torch.tensor([[0.1], [0.7], [1.0]]).double()
    for function in (MIXTURE.score, MIXTURE.posterior_mean):
        together = function(x, a, b)
        for i in range(3):
            torch.testing.assert_close(together[i : i + 1], function(x[i : i + 1], float(a[i]), float(b[i])))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_away_nothing_underflows(dtype):
    """All components underflow there; the nearest must win, not NaN."""
    x = torch.tensor([[1000.0, 1000.0], [-1000.0, 0.0]], dtype=dtype)
    ring = ring_of_gaussians()
    for found in (ring.log_prob(x), ring.score(x), ring.posterior_mean(x, 0.5, 0.1)):
        assert found.dtype == dtype
        assert bool(torch.isfinite(found).all())
    nearest = torch.tensor([2**0.5, 2**0.5]).double()  # the blob at 45°
    expected = -(x[0].double() - nearest) / 0.15**2
    torch.testing.assert_close(ring.score(x)[0].double(), expected, rtol=1e-4, atol=0)


def test_draws_have_the_mean_covariance_and_density_of_the_mixture(generator):
    n = 20_000
    x = MIXTURE.sample(n, generator)
    mean = MIXTURE.weight @ MIXTURE.mean
    offset = MIXTURE.mean - mean
    cov = torch.einsum("k,kij->ij", MIXTURE.weight, MIXTURE.cov + offset[:, :, None] * offset[:, None, :])
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    assert bool(((x.mean(0) - mean).abs() < 4 * x.std(0) / n**0.5).all())
    assert bool(((products.mean(0) - cov).abs() < 4 * products.std(0) / n**0.5).all())
    # The entropy, by integration on a grid and by the draws.
    axis = torch.linspace(-6, 6, 601, dtype=torch.float64)
    log_p = MIXTURE.log_prob(torch.cartesian_prod(axis, axis))
    entropy = -(log_p.exp() * log_p).sum() * (axis[1] - axis[0]) ** 2
    found = -MIXTURE.log_prob(x)
    assert abs(found.mean() - entropy) < 4 * found.std() / n**0.5


def test_a_seed_gives_one_set_of_draws():
    first, second = (MIXTURE.sample(9, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)


def test_a_batch_is_single_precision_and_has_no_conditions(generator):
    x, y = MIXTURE.batch(7, generator)
    assert (x.shape, x.dtype, y) == ((7, 2), torch.float32, {})


@given(st.integers(1, 12), st.floats(0.5, 5), st.floats(0.01, 1))
def test_a_ring_is_centred_and_of_its_radius(count, radius, std):
    ring = ring_of_gaussians(count, radius, std)
    torch.testing.assert_close(ring.mean.norm(dim=1), torch.full((count,), radius, dtype=torch.float64))
    if count > 1:
        torch.testing.assert_close(ring.mean.mean(0), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
        gap = (ring.mean - ring.mean.roll(1, 0)).norm(dim=1)
        torch.testing.assert_close(gap, torch.full_like(gap, 2 * radius * math.sin(math.pi / count)))
    torch.testing.assert_close(torch.linalg.eigvalsh(ring.cov).sqrt(), torch.full((count, 2), std).double())


def test_a_grid_is_a_centred_lattice():
    grid = grid_of_gaussians(3, 1.5, 0.12)
    assert sorted(map(tuple, grid.mean.tolist())) == [(x, y) for x in (-1.5, 0, 1.5) for y in (-1.5, 0, 1.5)]
    assert grid.weight.tolist() == pytest.approx([1 / 9] * 9)


def test_moons_are_two_half_circles_roughly_centred(generator):
    x = two_moons(20_000, generator, noise=0.0) / 1.5 + torch.tensor([0.5, 0.25])
    upper = (x.norm(dim=1) - 1).abs() < 1e-5
    lower = ((x - torch.tensor([1.0, 0.5])).norm(dim=1) - 1).abs() < 1e-5
    assert bool((upper | lower).all())
    assert abs(upper.float().mean().item() - 0.5) < 4 * 0.5 / 20_000**0.5
    assert bool((x[upper, 1] >= -1e-6).all())
    noisy = two_moons(20_000, generator)
    assert bool((noisy.mean(0).abs() < 4 * noisy.std(0) / 20_000**0.5).all())
    assert bool((noisy.std(0) > 0.5).all())
    assert bool((noisy.std(0) < 1.5).all())


@pytest.mark.parametrize("cells", [2, 4, 6])
def test_a_checkerboard_is_uniform_on_its_dark_squares(cells, generator):
    n = 20_000
    x = checkerboard(n, generator, cells)
    assert x.abs().max() <= 2
    column, row = ((x + 2) * cells / 4).long().clamp(max=cells - 1).unbind(1)
    assert bool(((column + row) % 2 == 0).all())
    counts = torch.bincount(cells * column + row, minlength=cells**2)
    dark = (torch.arange(cells)[:, None] + torch.arange(cells)) % 2 == 0
    assert chisquare(counts[dark.flatten()].numpy()).pvalue > 1e-4
    inside = ((x + 2) * cells / 4) % 1
    assert bool(((inside.mean(0) - 0.5).abs() < 4 / (12 * n) ** 0.5).all())


def mixture(weight=(0.5, 0.5), mean=((0.0, 0.0), (1.0, 1.0)), cov=(((1.0, 0.0), (0.0, 1.0)),) * 2):
    return GaussianMixture(torch.tensor(weight), torch.tensor(mean), torch.tensor(cov))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"mean": (0.0, 1.0)}, r"mean must be \[K, D\], got shape \(2,\)"),
        ({"weight": (1.0,)}, r"weight must be \[2\] and cov \[2, 2, 2\], got \(1,\) and \(2, 2, 2\)"),
        ({"cov": ((1.0, 0.0), (0.0, 1.0))}, r"cov \[2, 2, 2\], got \(2,\) and \(2, 2\)"),
        ({"weight": (0.5, 0.6)}, "positive and sum to one, got"),
        ({"weight": (1.5, -0.5)}, "positive and sum to one, got"),
        ({"weight": (float("nan"), 0.5)}, "positive and sum to one, got"),
        ({"cov": (((1.0, 2.0), (2.0, 1.0)),) * 2}, "symmetric and positive definite, got"),
        ({"cov": (((1.0, 0.5), (0.0, 1.0)),) * 2}, "symmetric and positive definite, got"),
        ({"cov": (((0.0, 0.0), (0.0, 0.0)),) * 2}, "symmetric and positive definite, got"),
    ],
)
def test_what_is_no_mixture_is_refused(parts, message):
    assert mixture().log_prob(torch.zeros(1, 2)).shape == (1,)
    with pytest.raises(ValueError, match=message):
        mixture(**parts)


@pytest.mark.parametrize("cells", [0, 1, 3, -2])
def test_a_board_with_an_odd_side_is_refused(cells, generator):
    """Its columns do not have equally many dark squares, so a draw by column would not be uniform."""
    with pytest.raises(ValueError, match=f"cells must be even.* got {cells}"):
        checkerboard(5, generator, cells)
