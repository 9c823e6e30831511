"""Chapter 0: every derived equation of the prerequisites, by another route."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from diffusion_book import data, process, schedules

torch64 = {"dtype": torch.float64}
GRID = torch.linspace(-14, 14, 56_001, **torch64)
FEW = schedules.linear(5)  # too few steps to end in noise, so that there is something to compare
LAST = FEW.at(5)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def density(mean: float, std: float, x: Tensor = GRID) -> Tensor:
    return Normal(torch.tensor(mean, **torch64), torch.tensor(std, **torch64)).log_prob(x).exp()


def integral(values: Tensor) -> float:
    return float(torch.trapezoid(values, GRID))


def some_probabilities(*shape: int, generator: torch.Generator) -> Tensor:
    table = torch.rand(shape, generator=generator, **torch64) + 0.05
    return table / table.sum()


def some_covariance(D: int, generator: torch.Generator) -> Tensor:
    root = torch.randn(D, D, generator=generator, **torch64)
    return root @ root.T + 0.1 * torch.eye(D, **torch64)


@pytest.mark.equation("eq-prerequisites-bayes")
def test_bayes_rule_against_counting(generator: torch.Generator) -> None:
    prior = torch.tensor([0.5, 0.2, 0.3], **torch64)
    likelihood = torch.tensor([[0.1, 0.9], [0.6, 0.4], [0.3, 0.7]], **torch64)
    n = 400_000
    z = torch.multinomial(prior, n, True, generator=generator)
    x = torch.rand(n, generator=generator, **torch64) < likelihood[z, 1]
    for seen in (0, 1):
        posterior = likelihood[:, seen] * prior / (likelihood[:, seen] @ prior)
        kept = z[x == bool(seen)]
        share = torch.bincount(kept, minlength=3) / len(kept)
        assert ((share - posterior).abs() < 4.5 * (posterior * (1 - posterior) / len(kept)).sqrt()).all()


@pytest.mark.equation("eq-prerequisites-two-values")
@pytest.mark.parametrize(("a", "b"), [(0.8, 0.6), (0.2, 1.3), (1.0, 0.1)])
def test_guess_of_a_coin_against_densities(a: float, b: float) -> None:
    x = torch.linspace(-2, 2, 41, **torch64)
    heads, tails = (Normal(torch.tensor(c, **torch64), b).log_prob(x) for c in (a, -a))
    share = torch.exp(heads - torch.logaddexp(heads, tails))
    torch.testing.assert_close(torch.tanh(a * x / b**2), 2 * share - 1)


@pytest.mark.equation("eq-prerequisites-best-guess")
def test_squared_error_splits(generator: torch.Generator) -> None:
    chance, value = some_probabilities(7, generator=generator), torch.randn(7, generator=generator, **torch64)
    mean = chance @ value
    variance = chance @ value**2 - mean**2
    for g in (-1.0, 0.3, float(mean)):
        assert float(chance @ (value - g) ** 2) == pytest.approx(float(variance + (mean - g) ** 2))
    guesses = torch.linspace(-3, 3, 6001, **torch64)
    error = ((value[:, None] - guesses) ** 2 * chance[:, None]).sum(0)
    assert abs(guesses[error.argmin()] - mean) < 1e-3


@pytest.mark.equation("eq-prerequisites-total-variance")
def test_total_variance_on_a_table(generator: torch.Generator) -> None:
    joint, value = some_probabilities(5, 4, generator=generator), torch.randn(5, generator=generator, **torch64)
    seen, prior = joint.sum(0), joint.sum(1)
    mean = (joint * value[:, None]).sum(0) / seen
    variance = (joint * (value[:, None] - mean) ** 2).sum(0) / seen
    whole = prior @ (value - prior @ value) ** 2
    parts = seen @ variance + seen @ (mean - seen @ mean) ** 2
    torch.testing.assert_close(parts, whole)
    pixel = torch.tensor([[0.60, 0.20], [0.05, 0.15]], **torch64)  # truly black or white, looks black or white
    white = pixel[1] / pixel.sum(0)
    hidden = pixel.sum(0) @ (white * (1 - white))
    assert [round(float(v), 3) for v in (hidden, 0.16 - hidden)] == [0.132, 0.028]


@pytest.mark.equation("eq-prerequisites-standard-error")
@pytest.mark.parametrize("N", [4, 100])
def test_error_of_an_average(N: int, generator: torch.Generator) -> None:
    repeats = 20_000
    draws = -torch.rand(repeats, N, generator=generator, **torch64).log()  # exponential: mean and variance are one
    spread = draws.mean(1).std()
    kurtosis = 3 + 6 / N  # of an average of N exponentials; the standard error of a deviation follows
    assert abs(spread * math.sqrt(N) - 1) < 4.5 * math.sqrt((kurtosis - 1) / (4 * repeats))


@pytest.mark.equation("eq-prerequisites-product")
def test_product_of_bells_on_a_grid() -> None:
    for (m1, t1), (m2, t2) in [((0.0, 1.0), (4.0, 2.0)), ((-1.0, 0.5), (2.0, 0.7))]:
        product = density(m1, t1) * density(m2, t2)
        product = product / integral(product)
        variance = 1 / (1 / t1**2 + 1 / t2**2)
        mean = variance * (m1 / t1**2 + m2 / t2**2)
        torch.testing.assert_close(product, density(mean, math.sqrt(variance)), atol=1e-9, rtol=0)


@pytest.mark.equation("eq-prerequisites-linear", by="data.toys.GaussianMixture.sample")
def test_covariance_of_a_linear_map(generator: torch.Generator) -> None:
    L, mu = torch.randn(3, 3, generator=generator, **torch64), torch.randn(3, generator=generator, **torch64)
    n = 400_000
    x = mu + torch.randn(n, 3, generator=generator, **torch64) @ L.T
    products = (x - mu)[:, :, None] * (x - mu)[:, None, :]
    assert ((products.mean(0) - L @ L.T).abs() < 4.5 * products.std(0) / math.sqrt(n)).all()
    assert ((x.mean(0) - mu).abs() < 4.5 * x.std(0) / math.sqrt(n)).all()


@pytest.mark.equation("eq-prerequisites-conditional")
def test_slice_of_a_bivariate_gaussian(generator: torch.Generator) -> None:
    cov = some_covariance(2, generator)
    mean = torch.tensor([0.4, -0.7], **torch64)
    joint = MultivariateNormal(mean, cov)
    for x in (-1.0, 0.5):
        slice_ = joint.log_prob(torch.stack([torch.full_like(GRID, x), GRID], 1)).exp()
        slice_ = slice_ / integral(slice_)
        centre = integral(GRID * slice_)
        spread = integral((GRID - centre) ** 2 * slice_)
        k = cov[0, 1] / cov[0, 0]
        assert centre == pytest.approx(float(mean[1] + k * (x - mean[0])))
        assert spread == pytest.approx(float(cov[1, 1] - k * cov[0, 1]))


@pytest.mark.equation("eq-prerequisites-conditional-many", by="data.toys.GaussianMixture.posterior_mean")
def test_slice_of_a_gaussian_vector(generator: torch.Generator) -> None:
    cov, mean, k = some_covariance(5, generator), torch.randn(5, generator=generator, **torch64), 2
    slope = cov[k:, :k] @ torch.linalg.inv(cov[:k, :k])
    x = torch.randn(k, generator=generator, **torch64)
    # The exponent is a parabola in y: its curvature is minus the inverse covariance, its top the mean.
    joint = MultivariateNormal(mean, cov)
    log_density = lambda y: joint.log_prob(torch.cat([x, y]))  # noqa: E731
    y = (mean[k:] + slope @ (x - mean[:k])).requires_grad_()
    (gradient,) = torch.autograd.grad(log_density(y), y)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0)
    curvature = torch.autograd.functional.hessian(log_density, y.detach())
    torch.testing.assert_close(-torch.linalg.inv(curvature), cov[k:, k:] - slope @ cov[:k, k:])
    # The library's case: x_0 given x_t = a x_0 + b ε, for one blob.
    one = data.GaussianMixture(torch.ones(1, **torch64), mean[None], cov[None])
    xt, a, b = torch.randn(1, 5, generator=generator, **torch64), 0.8, 0.6
    K = a * cov @ torch.linalg.inv(a**2 * cov + b**2 * torch.eye(5, **torch64))
    torch.testing.assert_close(one.posterior_mean(xt, a, b), (mean + K @ (xt[0] - a * mean))[None])


@pytest.mark.equation("eq-prerequisites-gibbs")
def test_divergence_is_not_negative(generator: torch.Generator) -> None:
    for _ in range(50):
        p, q = some_probabilities(2, 6, generator=generator)
        p, q = p / p.sum(), q / q.sum()
        middle = float((p * (q / p - 1)).sum())
        assert -float(kl_divergence(*map(torch.distributions.Categorical, (p, q)))) <= middle == pytest.approx(0)
    same = torch.distributions.Categorical(p)
    assert float(kl_divergence(same, same)) == 0
    half = torch.tensor([0.5, 0.5, 0.0], **torch64)  # p leaves out what q does not: the second inequality is strict
    q = torch.tensor([0.3, 0.3, 0.4], **torch64)
    terms = torch.xlogy(half, half / q)
    assert -float(terms.sum()) < float((half[:2] * (q[:2] / half[:2] - 1)).sum()) + 1e-12 < 0


@pytest.mark.equation("eq-prerequisites-gaussian-kl", by="process.prior_kl")
def test_gaussian_divergence_by_an_integral() -> None:
    for m1, t1, m2, t2 in [(1.0, 1.0, 0.0, 2.0), (-0.5, 0.8, 0.7, 0.5), (0.0, 1.1, 0.0, 1.0)]:
        p, q = (Normal(torch.tensor(m, **torch64), t).log_prob(GRID) for m, t in ((m1, t1), (m2, t2)))
        rho = t1**2 / t2**2
        formula = (m1 - m2) ** 2 / (2 * t2**2) + 0.5 * (rho - 1 - math.log(rho))
        assert formula == pytest.approx(integral(p.exp() * (p - q)), abs=1e-9)
    noised = Normal(0.7 * LAST.a, LAST.b).log_prob(GRID)  # the library's case: against a standard normal
    exact = integral(noised.exp() * (noised - Normal(torch.zeros((), **torch64), 1.0).log_prob(GRID)))
    assert float(process.prior_kl(FEW, torch.full((1, 1), 0.7, **torch64))) == pytest.approx(exact, abs=1e-9)


@pytest.mark.equation("eq-prerequisites-kl-same-width", by="process.posterior_kl")
def test_divergence_of_equal_widths_is_a_squared_error(generator: torch.Generator) -> None:
    m1, m2 = torch.randn(2, 6, generator=generator, **torch64)
    tau = 0.7
    p, q = (MultivariateNormal(m, tau**2 * torch.eye(6, **torch64)) for m in (m1, m2))
    torch.testing.assert_close(((m1 - m2) ** 2).sum() / (2 * tau**2), kl_divergence(p, q))
    x = m1 + tau * torch.randn(200_000, 6, generator=generator, **torch64)
    gain = p.log_prob(x) - q.log_prob(x)
    assert abs(gain.mean() - kl_divergence(p, q)) < 4.5 * gain.std() / math.sqrt(len(gain))


@pytest.mark.equation("eq-prerequisites-gaussian-entropy")
def test_entropy_of_a_gaussian(generator: torch.Generator) -> None:
    for tau in (0.1, 1.0, 1.7):  # the first is negative
        p = density(0.3, tau)
        assert -integral(torch.xlogy(p, p)) == pytest.approx(0.5 * math.log(2 * math.pi * math.e * tau**2), abs=1e-9)
    cov = some_covariance(4, generator)
    formula = 0.5 * torch.logdet(2 * math.pi * math.e * cov)
    joint = MultivariateNormal(torch.zeros(4, **torch64), cov)
    x = torch.randn(200_000, 4, generator=generator, **torch64) @ torch.linalg.cholesky(cov).T
    surprise = -joint.log_prob(x)
    assert abs(surprise.mean() - formula) < 4.5 * surprise.std() / math.sqrt(len(surprise))


@pytest.mark.equation("eq-prerequisites-information")
def test_information_is_what_a_look_removes(generator: torch.Generator) -> None:
    joint = some_probabilities(4, 3, generator=generator)
    x, y = joint.sum(1), joint.sum(0)
    entropy = -(x * x.log()).sum()
    left = -(joint * (joint / y).log()).sum()
    torch.testing.assert_close(entropy - left, (joint * (joint / (x[:, None] * y)).log()).sum())
    other = -(y * y.log()).sum() + (joint * (joint / x[:, None]).log()).sum()
    torch.testing.assert_close(entropy - left, other)  # as large the other way round


@pytest.mark.equation("eq-prerequisites-information-gaussian")
def test_information_of_a_noisy_gaussian_by_a_double_integral() -> None:
    a, b, kappa = 0.8, 0.6, 1.5
    x0 = torch.linspace(-9, 9, 601, **torch64)[:, None]
    xt = torch.linspace(-9, 9, 601, **torch64)
    p0 = Normal(torch.zeros((), **torch64), math.sqrt(kappa)).log_prob(x0)
    given = Normal(a * x0, b).log_prob(xt)
    cell = float((xt[1] - xt[0]) ** 2)
    marginal = ((p0 + given).exp().sum(0) * (xt[1] - xt[0])).log()  # by a sum over x0, not by its formula
    information = float(((p0 + given).exp() * (given - marginal)).sum()) * cell
    assert 0.5 * math.log(1 + kappa * a**2 / b**2) == pytest.approx(information, abs=1e-6)


@pytest.mark.equation("eq-prerequisites-elbo")
def test_price_is_surprise_plus_divergence(generator: torch.Generator) -> None:
    joint = some_probabilities(6, 3, generator=generator)
    for x in range(3):
        q = some_probabilities(6, generator=generator)
        price = (q * (q / joint[:, x]).log()).sum()
        posterior = torch.distributions.Categorical(joint[:, x])  # scales by itself
        gap = kl_divergence(torch.distributions.Categorical(q), posterior)
        torch.testing.assert_close(price, -joint[:, x].sum().log() + gap)


@pytest.mark.equation("eq-prerequisites-elbo")
def test_price_with_a_hidden_number() -> None:
    x, m, s = 1.0, 0.3, 0.9
    log_joint = torch.log(density(0.0, 1.0)) + Normal(0.8 * GRID, 0.6).log_prob(torch.tensor(x, **torch64))
    log_q = Normal(torch.tensor(m, **torch64), s).log_prob(GRID)
    price = integral(log_q.exp() * (log_q - log_joint).nan_to_num(posinf=0.0))
    evidence = integral(log_joint.exp())
    gap = kl_divergence(Normal(m, s), Normal(0.8, 0.6))
    assert price == pytest.approx(-math.log(evidence) + float(gap), abs=1e-6)


@pytest.mark.equation("eq-prerequisites-elbo-split")
def test_price_is_explanation_plus_stray(generator: torch.Generator) -> None:
    prior = some_probabilities(6, generator=generator)
    likelihood = torch.rand(6, generator=generator, **torch64)
    q = some_probabilities(6, generator=generator)
    price = (q * (q / (prior * likelihood)).log()).sum()
    stray = kl_divergence(*map(torch.distributions.Categorical, (q, prior)))
    torch.testing.assert_close(price, -(q * likelihood.log()).sum() + stray)


@pytest.mark.equation("eq-prerequisites-difference")
def test_difference_errs_by_a_third_derivative() -> None:
    x = torch.tensor(0.5, **torch64)
    derivatives, value = [], x.clone().requires_grad_()
    leaf, result = value, torch.tanh(value) + value**4
    for _ in range(3):
        (result,) = torch.autograd.grad(result, leaf, create_graph=True)
        derivatives.append(result.item())
    f = lambda x: torch.tanh(x) + x**4  # noqa: E731
    rest = []
    for h in (0.02, 0.01):
        quotient = float(f(x + h) - f(x - h)) / (2 * h)
        rest.append(quotient - derivatives[0] - h**2 / 6 * derivatives[2])
        assert abs(rest[-1]) < 0.01 * h**2 / 6 * abs(derivatives[2])
    assert rest[0] / rest[1] == pytest.approx(16, rel=0.01)  # what is left is of the fourth order
