"""Guide by two conditions, each with a strength of its own."""

import torch
from diffusion_book import data


def guided_twice(
    x_nothing: torch.Tensor,
    x_1: torch.Tensor,
    x_2: torch.Tensor,
    w_1: float,
    w_2: float,
) -> torch.Tensor:
    """Return the guess that both guide, from three guesses [B, …]."""
    # solution
    return x_nothing + w_1 * (x_1 - x_nothing) + w_2 * (x_2 - x_nothing)
    # end solution


def check(guided_twice):
    corners = torch.cartesian_prod(*2 * [torch.tensor([-1.0, 1.0]).double()])

    def guess(mean, xt):  # of four blobs, or of those of them that are left
        weight = torch.full((len(mean),), 1 / len(mean), dtype=torch.float64)
        cov = 0.1 * torch.eye(2, dtype=torch.float64).expand(len(mean), 2, 2)
        return data.GaussianMixture(weight, mean, cov).posterior_mean(xt, 0.6, 0.8)

    generator = torch.Generator().manual_seed(0)
    xt = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    nothing = guess(corners, xt)
    right, upper = corners[corners[:, 0] > 0], corners[corners[:, 1] > 0]
    x_1, x_2 = guess(right, xt), guess(upper, xt)
    both = guess(corners[(corners > 0).all(dim=1)], xt)
    found = guided_twice(nothing, x_1, x_2, 1.0, 1.0)
    assert torch.allclose(found, both), (
        "w_1 = w_2 = 1 must guess as who is told both"
    )
    assert torch.allclose(guided_twice(nothing, x_1, x_2, 0.0, 0.0), nothing), (
        "w_1 = w_2 = 0 must guess as who is told nothing"
    )
    found = guided_twice(nothing, x_1, x_2, 3.0, 0.0)
    assert torch.allclose(found, nothing + 3 * (x_1 - nothing)), (
        "with w_2 = 0 only the first may guide, three times as far"
    )
