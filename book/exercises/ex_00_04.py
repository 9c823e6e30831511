"""Fill in the missing entries of a Gaussian vector."""

import torch


def fill_in(
    mean: torch.Tensor, cov: torch.Tensor, seen: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean [D − k] and the covariance of the unseen entries.

    mean is [D], cov [D, D], and seen [k] are the first k entries.
    """
    # solution
    k = len(seen)
    K = torch.linalg.solve(cov[:k, :k], cov[:k, k:]).T  # C_yx C_xx⁻¹
    return mean[k:] + K @ (seen - mean[:k]), cov[k:, k:] - K @ cov[:k, k:]
    # end solution


def check(fill_in):
    double = {"dtype": torch.float64}
    cov = torch.tensor([[1.0, 0.8], [0.8, 1.0]], **double)
    mean, rest = fill_in(torch.zeros(2, **double), cov, torch.ones(1, **double))
    assert (mean.shape, rest.shape) == ((1,), (1, 1)), (
        "give a mean [D − k] and a covariance [D − k, D − k]"
    )
    got = torch.cat([mean, rest[0]])
    assert torch.allclose(got, torch.tensor([0.8, 0.36], **double)), (
        "two numbers with covariance 0.8, of which you see 1, leave N(0.8, 0.36)"
    )
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(4, 4, generator=generator, **double)
    cov, mu = root @ root.T, torch.randn(4, generator=generator, **double)
    joint = torch.distributions.MultivariateNormal(mu, cov)
    x, y = torch.randn(2, 2, generator=generator, **double)
    mean, rest = fill_in(mu, cov, x)
    assert torch.allclose(rest, rest.T), "a covariance is symmetric"
    slice_ = torch.distributions.MultivariateNormal(mean, rest)
    steps = torch.randn(5, 2, generator=generator, **double)
    for step in steps:  # along the slice the two log-densities differ by a constant
        along = joint.log_prob(torch.cat([x, y + step]))
        along = along - joint.log_prob(torch.cat([x, y]))
        wanted = slice_.log_prob(y + step) - slice_.log_prob(y)
        assert torch.allclose(along, wanted), "this is not the slice of the joint"
