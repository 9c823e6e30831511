"""What trains an encoder: closed forms of torch, autograd on a layer whose gradients are known, and definitions."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from diffusion_book.losses import adaptive_weight, critic_loss, feature_distance, fooling_loss, kl_to_normal


def test_the_kl_is_that_of_torch(generator):
    mean, log_var = torch.randn(5, 3, 4, 4, generator=generator), 2 * torch.randn(5, 3, 4, 4, generator=generator)
    theirs = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(kl_to_normal(mean, log_var), theirs)


def test_the_kl_is_what_samples_say(generator):
    """The mean of log q − log p over samples, within four standard errors."""
    mean, log_var = torch.tensor([[0.5, -1.0]]).double(), torch.tensor([[0.3, -2.0]]).double()
    std = (0.5 * log_var).exp()
    z = mean + std * torch.randn(40_000, 2, generator=generator, dtype=torch.float64)
    ratio = (Normal(mean, std).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(1)
    assert abs(float(ratio.mean() - kl_to_normal(mean, log_var)[0])) < 4 * float(ratio.std()) / 200


def test_a_standard_normal_costs_nothing_and_another_shape_is_refused():
    assert kl_to_normal(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"log_var must have the shape of the mean, \(2, 3\), got \(2, 1\)"):
        kl_to_normal(torch.zeros(2, 3), torch.zeros(2, 1))


def test_features_are_compared_by_their_directions(generator):
    """Of unit vectors at an angle the squared distance is 2 − 2 cos: lengths do not matter."""
    angle = torch.tensor(0.7)
    one = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    other = 5 * torch.stack([angle.cos(), angle.sin()]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
    wanted = 2 - 2 * math.cos(0.7)
    torch.testing.assert_close(feature_distance([one, one], [other, other]), torch.tensor([2 * wanted]))
    maps = [torch.randn(4, 5, 6, 6, generator=generator)]
    assert feature_distance(maps, maps).tolist() == [0, 0, 0, 0]


def test_features_that_are_all_zero_have_a_gradient():
    dead = torch.zeros(1, 2, 2, 2, requires_grad=True)
    feature_distance([dead], [torch.ones(1, 2, 2, 2)]).sum().backward()
    assert dead.grad.isfinite().all()


def test_maps_of_other_layers_are_refused():
    with pytest.raises(ValueError, match="maps of as many layers are compared, got 1 and 2"):
        feature_distance([torch.ones(1, 2, 2, 2)], [torch.ones(1, 2, 2, 2)] * 2)
    with pytest.raises(ValueError, match="maps of as many layers are compared, got 0 and 0"):
        feature_distance([], [])


def test_a_critic_is_content_beyond_one(generator):
    """The hinge by hand: real pictures below 1 cost, and others above −1."""
    real, fake = torch.tensor([[2.0, 0.5], [-1.0, 3.0]]), torch.tensor([[-2.0, 0.0], [1.0, -0.5]])
    torch.testing.assert_close(critic_loss(real, fake), 0.5 * torch.tensor([(0.5 + 1) / 2, (2 + 2 + 0.5) / 2]))
    torch.testing.assert_close(fooling_loss(fake), torch.tensor([1.0, -0.25]))


def test_the_adaptive_weight_makes_both_losses_pull_as_hard(generator):
    """On a linear last layer W h the gradients of c·sum(W h) are c·h in every row: their norms are known."""
    W = torch.randn(3, 4, generator=generator, requires_grad=True)
    h = torch.randn(4, generator=generator)
    out = W @ h
    norm = math.sqrt(3) * float(h.norm())
    found = adaptive_weight(6 * out.sum(), 2 * out.sum(), W)
    assert float(found) == pytest.approx(6 * norm / (2 * norm + 1e-4), rel=1e-5)
    assert not found.requires_grad
    assert W.grad is None  # nothing is left behind for the optimiser


def test_the_adaptive_weight_is_what_finite_differences_say(generator):
    W = torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    h = torch.randn(3, generator=generator, dtype=torch.float64)

    def losses(weights):
        out = weights @ h
        return out.square().sum(), out.tanh().sum()

    norms = []
    for which in (0, 1):
        slopes = []
        for i in range(W.numel()):
            step = torch.zeros(W.numel(), dtype=torch.float64)
            step[i] = 1e-6
            up, down = (losses(W.detach() + sign * step.view_as(W))[which] for sign in (1, -1))
            slopes.append(float(up - down) / 2e-6)
        norms.append(math.hypot(*slopes))
    assert float(adaptive_weight(*losses(W), W)) == pytest.approx(norms[0] / (norms[1] + 1e-4), rel=1e-6)


def test_the_adaptive_weight_has_a_bound():
    W = torch.ones(2, requires_grad=True)
    assert float(adaptive_weight(1e6 * W.sum(), 0 * W.sum(), W)) == 1e4
