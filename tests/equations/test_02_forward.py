"""Chapter 2: every derived equation of the forward process, by another route."""

import math

import pytest
import torch
from torch import Tensor

torch64 = {"dtype": torch.float64}


def some_beta(T: int = 40, seed: int = 0) -> Tensor:
    """β_0 = 0 and T irregular steps, so that no special schedule makes a wrong formula right."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.zeros(1, **torch64), 0.15 * torch.rand(T, generator=generator, **torch64) + 0.01])


def walk(x: Tensor, beta: Tensor, generator: torch.Generator, start: int = 0, end: int | None = None) -> Tensor:
    """The chain of def-forward-step from time `start` to `end`; it knows nothing of ᾱ."""
    for t in range(start + 1, (len(beta) if end is None else end + 1)):
        x = (1 - beta[t]).sqrt() * x + beta[t].sqrt() * torch.randn(x.shape, generator=generator, **torch64)
    return x


def responses(beta: Tensor, t: int) -> Tensor:
    """The weight of x_0 (entry 0) and of ε_1 … ε_t in x_t, from t + 1 walks with one unit input each: exact."""
    x = torch.zeros(t + 1, **torch64)
    x[0] = 1
    for step in range(1, t + 1):
        x = (1 - beta[step]).sqrt() * x
        x[step] += beta[step].sqrt()
    return x


def alpha_bar_of(beta: Tensor) -> Tensor:
    return (1 - beta).cumprod(0)


def normal_pdf(x: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    return torch.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))


@pytest.mark.equation("eq-forward-variance")
def test_variance_of_simulated_chain() -> None:
    beta, generator, n = some_beta(), torch.Generator().manual_seed(1), 200_000
    for variance_0 in (0.2, 1.0, 3.0):
        x0 = math.sqrt(variance_0) * torch.randn(n, generator=generator, **torch64)
        x = walk(x0, beta, generator, end=12)
        exact = 1 + alpha_bar_of(beta)[12] * (variance_0 - 1)
        assert abs(x.var() - exact) < 4.5 * exact * math.sqrt(2 / n)


@pytest.mark.equation("eq-forward-closed-form", by="process.add_noise")
def test_closed_form_against_the_chain() -> None:
    beta, generator, n, x0, t = some_beta(), torch.Generator().manual_seed(2), 200_000, 1.7, 15
    x = walk(torch.full((n,), x0, **torch64), beta, generator, end=t)
    a, b = alpha_bar_of(beta)[t].sqrt(), (1 - alpha_bar_of(beta)[t]).sqrt()
    assert abs(x.mean() - a * x0) < 4.5 * b / math.sqrt(n)
    assert abs(x.var() - b**2) < 4.5 * b**2 * math.sqrt(2 / n)
    z = (x - a * x0) / b
    assert abs((z**4).mean() - 3) < 4.5 * math.sqrt(96 / n)  # Gaussian, not only the right two moments
    weights = responses(beta, t)
    assert torch.allclose(weights[0], a)
    assert torch.allclose((weights[1:] ** 2).sum(), b**2)


BLOBS = torch.tensor([-1.0, 0.5], **torch64), torch.tensor([0.25, 0.4], **torch64), torch.tensor([0.3, 0.7], **torch64)


@pytest.mark.equation("eq-forward-bayes")
def test_what_was_there_before_a_step() -> None:
    """Make many pairs of a point and its next, keep those whose next is near 0.3, and count where they came from."""
    (mean, std, share), generator, n, beta = BLOBS, torch.Generator().manual_seed(11), 4_000_000, 0.3
    blob = (torch.rand(n, generator=generator, **torch64) > share[0]).long()
    x = mean[blob] + std[blob] * torch.randn(n, generator=generator, **torch64)
    xt = math.sqrt(1 - beta) * x + math.sqrt(beta) * torch.randn(n, generator=generator, **torch64)
    came_from = x[(xt - 0.3).abs() < 0.005]
    grid = torch.linspace(-4, 4, 8001, **torch64)
    product = (share * normal_pdf(grid[:, None], mean, std)).sum(1)
    product = product * normal_pdf(torch.tensor(0.3, **torch64), math.sqrt(1 - beta) * grid, math.sqrt(beta))
    product = product / torch.trapezoid(product, grid)
    for statistic in (lambda z: z, lambda z: z**2, lambda z: (z < 0).double()):
        expected = torch.trapezoid(product * statistic(grid), grid)
        got = statistic(came_from)
        assert abs(got.mean() - expected) < 4.5 * got.std() / math.sqrt(len(came_from)) + 1e-3  # the grid's edge at 0


@pytest.mark.equation("eq-forward-blobs", by="data.toys.GaussianMixture")
def test_density_of_noised_blobs() -> None:
    """Each step is an integral over where the point was: done one after the other, on a grid."""
    (mean, std, share), beta, t = BLOBS, some_beta(), 9
    alpha_bar = alpha_bar_of(beta)[t]
    a, b = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x = torch.linspace(-6, 6, 1201, **torch64)
    formula = (share * normal_pdf(x[:, None], a * mean, (a**2 * std**2 + b**2).sqrt())).sum(1)
    density = (share * normal_pdf(x[:, None], mean, std)).sum(1)
    for step in range(1, t + 1):
        kernel = normal_pdf(x[:, None], (1 - beta[step]).sqrt() * x, beta[step].sqrt())
        density = torch.trapezoid(kernel * density, x)
    assert torch.allclose(density, formula, atol=1e-9)


@pytest.mark.equation("eq-forward-noise-weights")
def test_weights_of_the_noises() -> None:
    beta, t = some_beta(), 33
    ab = alpha_bar_of(beta)
    w = (beta[1 : t + 1] / (1 - ab[t]) * ab[t] / ab[1 : t + 1]).sqrt()
    assert torch.allclose(w, responses(beta, t)[1:] / (1 - ab[t]).sqrt())
    assert torch.allclose((w**2).sum(), torch.ones((), **torch64))


@pytest.mark.equation("eq-forward-noise-correlation")
def test_correlation_of_two_noises_of_one_chain() -> None:
    beta = some_beta()
    lam = torch.special.logit(alpha_bar_of(beta))
    for s, t in [(1, 2), (5, 30), (20, 40)]:
        noise_s, noise_t = responses(beta, s)[1:], responses(beta, t)[1:]
        correlation = (noise_s @ noise_t[:s]) / (noise_s.norm() * noise_t.norm())
        assert torch.allclose(correlation, ((lam[t] - lam[s]) / 2).exp())


@pytest.mark.equation("eq-forward-jump")
def test_jump_from_any_time() -> None:
    beta, generator, n, s, t = some_beta(), torch.Generator().manual_seed(3), 200_000, 6, 18
    kept = alpha_bar_of(beta)[t] / alpha_bar_of(beta)[s]
    x = walk(torch.full((n,), -0.8, **torch64), beta, generator, start=s, end=t)
    assert abs(x.mean() + 0.8 * kept.sqrt()) < 4.5 * ((1 - kept) / n).sqrt()
    assert abs(x.var() - (1 - kept)) < 4.5 * (1 - kept) * math.sqrt(2 / n)


@pytest.mark.equation("eq-forward-sigmoid", by="schedules.sigmoid")
def test_coefficients_from_log_snr() -> None:
    for alpha_bar in (1e-9, 0.03, 0.5, 0.9999):
        lam = torch.tensor(math.log(alpha_bar) - math.log1p(-alpha_bar), **torch64)
        assert math.isclose(torch.sigmoid(lam).item(), alpha_bar, rel_tol=1e-12)
        assert math.isclose(torch.sigmoid(-lam).item(), 1 - alpha_bar, rel_tol=1e-12)


def cosine_log_snr(u: Tensor) -> Tensor:
    """log(ᾱ / (1 − ᾱ)) for ᾱ = cos²(πu/2), without offset and clip."""
    alpha_bar = torch.cos(math.pi * u / 2) ** 2
    return alpha_bar.log() - (1 - alpha_bar).log()


@pytest.mark.equation("eq-forward-density")
def test_density_of_log_snr_is_its_histogram() -> None:
    generator, n, T = torch.Generator().manual_seed(4), 400_000, 1000.0
    edges = torch.linspace(-5, 5, 41, **torch64)
    t = T * torch.rand(n, generator=generator, **torch64)
    counts = torch.histogram(cosine_log_snr(t / T), bins=edges).hist
    t = torch.linspace(0.001, T - 0.001, 200_001, **torch64).requires_grad_()
    (slope,) = torch.autograd.grad(cosine_log_snr(t / T).sum(), t)
    density, lam = 1 / (T * slope.abs()), cosine_log_snr(t.detach() / T)
    for i in range(40):
        inside = (lam >= edges[i]) & (lam < edges[i + 1])
        expected = n * density[inside].mean() * (edges[i + 1] - edges[i])
        # The mean over equal times is not that over equal log-SNRs, by up to (width · |p'/p|)²/12 with |p'/p| ≤ ½.
        assert abs(counts[i] - expected) < 4.5 * expected.sqrt() + (0.25 / 2) ** 2 / 12 * expected


@pytest.mark.equation("eq-forward-cosine-density")
def test_density_of_the_cosine() -> None:
    u = torch.linspace(0.01, 0.99, 99, **torch64).requires_grad_()
    lam = cosine_log_snr(u)
    (slope,) = torch.autograd.grad(lam.sum(), u)
    assert torch.allclose(1 / slope.abs(), 1 / (2 * math.pi * torch.cosh(lam / 2)), rtol=1e-9)
    grid = torch.linspace(-80, 80, 400_001, **torch64)
    total = torch.trapezoid(1 / (2 * math.pi * torch.cosh(grid / 2)), grid)
    assert math.isclose(total.item(), 1.0, rel_tol=1e-9)


@pytest.mark.equation("eq-forward-resolution")
def test_averaging_blocks_lowers_the_noise() -> None:
    generator, k, a, b, n = torch.Generator().manual_seed(5), 4, 0.6, 0.8, 3000
    x0 = torch.randn(n, 1, 5, 5, generator=generator, **torch64).repeat_interleave(k, -1).repeat_interleave(k, -2)
    xt = a * x0 + b * torch.randn(x0.shape, generator=generator, **torch64)
    pool = torch.nn.functional.avg_pool2d
    signal, noise = a * pool(x0, k), pool(xt, k) - a * pool(x0, k)
    assert abs(noise.std() - b / k) < 4.5 * (b / k) / math.sqrt(2 * noise.numel())
    # λ + 2 log k for a signal that is constant on blocks, here of variance one
    measured = (signal.var() / noise.var()).log()
    exact = 2 * math.log(a / b) + 2 * math.log(k)
    assert abs(measured - exact) < 4.5 * 2 / math.sqrt(noise.numel())


@pytest.mark.equation("eq-forward-shift")
def test_shifted_schedule() -> None:
    alpha_bar = torch.tensor([0.9999, 0.7, 0.2, 1e-4], **torch64)
    for k in (2, 11):
        shifted = alpha_bar / (alpha_bar + k**2 * (1 - alpha_bar))
        by_logarithms = torch.sigmoid(torch.special.logit(alpha_bar) - 2 * math.log(k))
        assert torch.allclose(shifted, by_logarithms, rtol=1e-10)


@pytest.mark.equation("eq-forward-information")
def test_information_of_a_gaussian_pixel() -> None:
    """E[log q(x_t | x_0) − log q(x_t)] by Monte Carlo."""
    generator, n, mu, s = torch.Generator().manual_seed(6), 400_000, 0.4, 0.7
    for a, b in [(0.9, math.sqrt(1 - 0.81)), (0.2, math.sqrt(1 - 0.04))]:
        x0 = mu + s * torch.randn(n, generator=generator, **torch64)
        xt = a * x0 + b * torch.randn(n, generator=generator, **torch64)
        ratio = normal_pdf(xt, a * x0, b).log() - normal_pdf(xt, a * mu, math.sqrt(a**2 * s**2 + b**2)).log()
        exact = 0.5 * math.log(1 + s**2 * a**2 / b**2)
        assert abs(ratio.mean() - exact) < 4.5 * ratio.std() / math.sqrt(n)


@pytest.mark.equation("eq-forward-information-bound")
def test_information_is_below_the_gaussian_bound() -> None:
    """Correlated Gaussians, by entropies of the pair, must meet it; data on four points of the plane stay below."""
    generator, snr = torch.Generator().manual_seed(7), 1.7
    root = torch.randn(3, 3, generator=generator, **torch64)
    cov = root @ root.T
    eigen = 0.5 * torch.log1p(snr * torch.linalg.eigvalsh(cov)).sum()
    # I(x_0; y) = h(x_0) + h(y) − h(x_0, y) with the covariance of the pair, for y = √SNR x_0 + ε
    cross, noisy = math.sqrt(snr) * cov, snr * cov + torch.eye(3, **torch64)
    joint = torch.cat([torch.cat([cov, cross], 1), torch.cat([cross, noisy], 1)])
    assert torch.allclose(eigen, 0.5 * (torch.logdet(cov) + torch.logdet(noisy) - torch.logdet(joint)))

    points = torch.tensor([[1.0, 1.0], [1.0, 0.4], [-1.0, -1.0], [-0.7, -1.0]], **torch64)
    n = 200_000
    bound_cov = torch.cov(points.T, correction=0)
    for snr in (1.0, 4.0):
        index = torch.randint(4, (n,), generator=generator)
        y = math.sqrt(snr) * points[index] + torch.randn(n, 2, generator=generator, **torch64)
        log_p = -0.5 * ((y[:, None] - math.sqrt(snr) * points) ** 2).sum(-1)
        ratio = log_p[torch.arange(n), index] - (log_p.logsumexp(1) - math.log(4))
        bound = 0.5 * torch.log1p(snr * torch.linalg.eigvalsh(bound_cov)).sum()
        assert ratio.mean() + 4.5 * ratio.std() / math.sqrt(n) < bound


@pytest.mark.equation("eq-forward-prior-kl", by="process.prior_kl")
def test_prior_kl_against_torch_distributions() -> None:
    x0 = torch.tensor([-1.0, -0.2, 0.0, 0.9], **torch64)
    for alpha_bar in (0.3, 4.66e-3, 4.036e-5):
        q = torch.distributions.Normal(math.sqrt(alpha_bar) * x0, math.sqrt(1 - alpha_bar))
        p = torch.distributions.Normal(torch.zeros(4, **torch64), torch.ones(4, **torch64))
        exact = torch.distributions.kl_divergence(q, p).sum().item()
        formula = 0.5 * (alpha_bar * (x0**2).sum().item() - 4 * (alpha_bar + math.log1p(-alpha_bar)))
        assert math.isclose(formula, exact, rel_tol=1e-9)


@pytest.mark.equation("eq-forward-prior-split")
def test_prior_kl_is_information_plus_mismatch() -> None:
    """Two points of unequal weight, all three terms by integration on a grid."""
    weight, points, a = torch.tensor([0.3, 0.7], **torch64), torch.tensor([-1.5, 0.8], **torch64), 0.6
    b, x = math.sqrt(1 - a**2), torch.linspace(-12, 12, 200_001, **torch64)
    given = normal_pdf(x, a * points[:, None], b)
    marginal, prior = (weight[:, None] * given).sum(0), normal_pdf(x, 0.0, 1.0)

    def kl(q: Tensor, p: Tensor) -> Tensor:
        return torch.trapezoid(torch.where(q > 0, q * (q / p).log(), 0.0), x)

    prior_kl = (weight * torch.stack([kl(q, prior) for q in given])).sum()
    information = (weight * torch.stack([kl(q, marginal) for q in given])).sum()
    assert torch.allclose(prior_kl, information + kl(marginal, prior), rtol=1e-9)


@pytest.mark.equation("eq-forward-immse")
def test_slope_of_information_is_half_the_error() -> None:
    """Both sides by integration on a grid, for three points and for a Gaussian."""
    y = torch.linspace(-25, 25, 20_001, **torch64)
    weight, points = torch.tensor([0.2, 0.5, 0.3], **torch64), torch.tensor([-1.0, 0.3, 1.4], **torch64)

    def information(snr: float) -> Tensor:
        density = (weight[:, None] * normal_pdf(y, math.sqrt(snr) * points[:, None], 1.0)).sum(0)
        return -torch.trapezoid(torch.xlogy(density, density), y) - 0.5 * math.log(2 * math.pi * math.e)

    for snr in (0.3, 1.0, 4.0):
        joint = weight[:, None] * normal_pdf(y, math.sqrt(snr) * points[:, None], 1.0)
        mean = (joint * points[:, None]).sum(0) / joint.sum(0).clamp(min=1e-300)
        mmse = torch.trapezoid((joint * (points[:, None] - mean) ** 2).sum(0), y)
        slope = (information(snr + 1e-3) - information(snr - 1e-3)) / 2e-3
        assert math.isclose(slope.item(), mmse.item() / 2, rel_tol=1e-5)

    s2, snr = 0.6, torch.tensor(2.3, **torch64, requires_grad=True)
    (slope,) = torch.autograd.grad(0.5 * torch.log1p(s2 * snr), snr)
    z = torch.randn(2, 400_000, generator=torch.Generator().manual_seed(8), **torch64)
    x0, seen = math.sqrt(s2) * z[0], snr.detach().sqrt() * math.sqrt(s2) * z[0] + z[1]
    residual = x0 - (x0 @ seen) / (seen @ seen) * seen  # for Gaussians the conditional mean is the linear regression
    assert abs(slope - (residual**2).mean() / 2) < 4.5 * (residual**2).std() / 2 / math.sqrt(z.shape[1])


@pytest.mark.equation("eq-forward-mean-leak")
def test_the_mean_of_the_last_image_leaks() -> None:
    generator, n, D, s_m, a = torch.Generator().manual_seed(9), 20_000, 100, 0.5, 0.15
    b = math.sqrt(1 - a**2)
    picture = torch.randn(n, D, generator=generator, **torch64)
    picture = picture - picture.mean(1, keepdim=True)  # detail of mean zero, which must not matter
    m0 = s_m * torch.randn(n, 1, generator=generator, **torch64)
    xT = a * (picture + m0) + b * torch.randn(n, D, generator=generator, **torch64)
    measured = torch.corrcoef(torch.stack([m0[:, 0], xT.mean(1)]))[0, 1].item()
    rho = a * s_m / math.sqrt(a**2 * s_m**2 + b**2 / D)
    assert abs(measured - rho) < 4.5 * (1 - rho**2) / math.sqrt(n)


@pytest.mark.equation("eq-forward-dark-enough")
def test_the_largest_alpha_bar_for_a_leak() -> None:
    rho, s_m, D, n = 0.6, 0.3, 4, 20_000  # few pixels, so that every term matters
    alpha_bar = rho**2 / (D * s_m**2 * (1 - rho**2) + rho**2)
    generator = torch.Generator().manual_seed(10)
    m0 = s_m * torch.randn(n, 1, generator=generator, **torch64)
    noise = torch.randn(n, D, generator=generator, **torch64)
    xT = math.sqrt(alpha_bar) * m0 + math.sqrt(1 - alpha_bar) * noise
    measured = torch.corrcoef(torch.stack([m0[:, 0], xT.mean(1)]))[0, 1].item()
    assert abs(measured - rho) < 4.5 * (1 - rho**2) / math.sqrt(n)


@pytest.mark.equation("eq-forward-brightness")
def test_spread_of_brightness_from_the_wrong_start() -> None:
    """The posterior by brute force on a grid, started from N(0, 1) and, as a control, from the true end."""
    a, S, mu = 0.3, 4.0, 1.0
    b = math.sqrt(1 - a**2)
    V = a**2 * S**2 + b**2
    c0 = torch.linspace(mu - 12 * S, mu + 12 * S, 4001, **torch64)
    cT = torch.linspace(-12, 12, 1201, **torch64)
    posterior = normal_pdf(c0, mu, S) * normal_pdf(cT[:, None], a * c0, b)
    posterior = posterior / torch.trapezoid(posterior, c0)[:, None]
    for start, ratio in [
        (normal_pdf(cT, 0.0, 1.0), b**2 / V + a**2 * S**2 / V**2),
        (normal_pdf(cT, a * mu, math.sqrt(V)), 1.0),
    ]:
        sampled = torch.trapezoid(start[:, None] * posterior, cT, dim=0)
        mean = torch.trapezoid(sampled * c0, c0)
        variance = torch.trapezoid(sampled * (c0 - mean) ** 2, c0)
        assert math.isclose(variance.item() / S**2, ratio, rel_tol=1e-5)


@pytest.mark.equation("eq-forward-zero-terminal", by="schedules.zero_terminal_snr")
def test_rescaled_schedule_meets_its_two_conditions() -> None:
    a = alpha_bar_of(some_beta()).sqrt()
    rescaled = (a[1:] - a[-1]) * a[1] / (a[1] - a[-1])
    assert rescaled[-1] == 0
    assert torch.allclose(rescaled[0], a[1])
    # The straight line through the two conditions, by solving for it.
    system = torch.stack([torch.stack([a[1], a.new_ones(())]), torch.stack([a[-1], a.new_ones(())])])
    c, d = torch.linalg.solve(system, torch.stack([a[1], a.new_zeros(())]))
    assert torch.allclose(rescaled, c * a[1:] + d)
    # It must agree with another implementation, too.
    diffusers = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    beta = diffusers.rescale_zero_terminal_snr(some_beta()[1:])
    assert torch.allclose(1 - beta, torch.cat([rescaled[:1] ** 2, (rescaled[1:] / rescaled[:-1]) ** 2]), atol=1e-12)
