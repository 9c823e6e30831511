"""Undo one noisy step exactly, from the log-density after it."""

from collections.abc import Callable

import torch


def undo_step(log_q: Callable, xt: torch.Tensor, beta: float):
    """Return the mean and the variance of x_{t−1} given x_t, each [N].

    log_q maps points [N] to log-densities [N], in one dimension.
    """
    # solution
    xt = xt.detach().requires_grad_()
    (score,) = torch.autograd.grad(log_q(xt).sum(), xt, create_graph=True)
    (curvature,) = torch.autograd.grad(score.sum(), xt)
    mean = (xt + beta * score) / (1 - beta) ** 0.5
    return mean.detach(), beta / (1 - beta) * (1 + beta * curvature)
    # end solution


def check(undo_step):
    from diffusion_book import data

    weight = torch.tensor([0.3, 0.7], dtype=torch.float64)
    centre = torch.tensor([[-1.0], [0.5]], dtype=torch.float64)
    mixture = data.GaussianMixture(
        weight, centre, torch.full((2, 1, 1), 0.2, dtype=torch.float64)
    )
    x = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    xt = torch.tensor([-0.6, 0.1, 1.3], dtype=torch.float64)
    for beta in (0.6, 0.05):
        noisy = mixture.noised((1 - beta) ** 0.5, beta**0.5)
        mean, var = undo_step(
            lambda y, noisy=noisy: noisy.log_prob(y[:, None]), xt, beta
        )
        assert mean.shape == var.shape == xt.shape, (
            "give one mean and one variance for each point"
        )
        joint = mixture.log_prob(x[:, None]) - (
            xt[:, None] - (1 - beta) ** 0.5 * x
        ) ** 2 / (2 * beta)
        q = joint.softmax(1)  # Bayes' rule on a grid
        true_mean = (q * x).sum(1)
        true_var = (q * (x - true_mean[:, None]) ** 2).sum(1)
        assert torch.allclose(mean, true_mean, atol=1e-6), (
            f"the mean is not the grid's at beta = {beta}"
        )
        assert torch.allclose(var, true_var, atol=1e-6), (
            f"the variance is not the grid's at beta = {beta}"
        )
