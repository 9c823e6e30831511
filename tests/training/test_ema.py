"""The moving average of weights against closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from diffusion_book.training import EMA


class One(nn.Module):
    """One weight, and one buffer."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(value, dtype=torch.float64))
        self.register_buffer("count", torch.tensor(0.0))

    def set(self, value: float) -> "One":
        with torch.no_grad():
            self.w.fill_(value)
        self.count += 1
        return self


@pytest.mark.parametrize("steps", [1, 2, 10, 200, 2000])
def test_while_it_warms_up_the_start_is_forgotten_like_a_beta_function(steps):
    """From 0 towards a constant 1: what is left of the start is ∏ (1 + n)/(10 + n) = 9! N!/(N + 9)!."""
    network = One(0.0)
    ema = EMA(network, decay=0.999)
    network.set(1.0)
    for _ in range(steps):
        ema.update(network)
    left = math.exp(math.lgamma(10) + math.lgamma(steps + 1) - math.lgamma(steps + 10))
    assert 1 - ema.network.w.item() == pytest.approx(left, rel=1e-9, abs=1e-14)


def test_once_warm_the_start_is_forgotten_at_the_rate_of_the_decay():
    """With d = 0.5 the warm-up ends at n = 8, where (1 + n)/(10 + n) passes ½: then every step halves the rest."""
    network = One(0.0)
    ema = EMA(network, decay=0.5)
    network.set(1.0)
    left = []
    for _ in range(20):
        ema.update(network)
        left.append(1 - ema.network.w.item())
    ratios = [after / before for before, after in pairwise(left)]
    assert ratios[8:] == pytest.approx([0.5] * 11)
    assert all(ratio < 0.5 for ratio in ratios[:7])


def test_a_ramp_is_followed_with_the_lag_of_the_decay():
    """Of weights that grow by one a step the average is d/(1 − d) behind, once the start is forgotten."""
    network, decay = One(), 0.9
    ema = EMA(network, decay)
    for n in range(1, 1001):
        ema.update(network.set(float(n)))
    assert 1000 - ema.network.w.item() == pytest.approx(decay / (1 - decay), rel=1e-9)


def test_sampled_early_it_is_not_the_random_start():
    """EMA sampled before it has warmed up: after ten steps at decay 0.9999 less than a millionth of the start is left.

    Without the warm-up 99.9 % of the random start would be.
    """
    network = One(1e3)
    ema = EMA(network, decay=0.9999)
    network.set(1.0)
    for _ in range(10):
        ema.update(network)
    assert abs(ema.network.w.item() - 1) < 1e3 * 1.1e-5


def test_decay_zero_is_a_copy(generator):
    network = nn.Linear(3, 3)
    ema = EMA(network, decay=0.0)
    with torch.no_grad():
        network.weight.normal_(generator=generator)
    ema.update(network)
    assert torch.equal(ema.network.weight, network.weight)


def test_the_average_is_neither_the_network_nor_overwritten_by_it():
    """EMA overwritten: it owns its memory, so that an optimiser's step in place does not reach it."""
    network = nn.Linear(3, 3)
    ema = EMA(network)
    before = ema.network.weight.clone()
    assert ema.network is not network
    with torch.no_grad():
        network.weight.add_(1)
    assert torch.equal(ema.network.weight, before)
    trained = network.weight.clone()
    ema.update(network)
    assert torch.equal(network.weight, trained)
    assert not torch.equal(ema.network.weight, before)


def test_the_average_does_not_train_and_is_ready_to_sample():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    ema = EMA(network)
    assert not ema.network.training
    assert not any(p.requires_grad for p in ema.network.parameters())
    assert network.training
    assert all(p.requires_grad for p in network.parameters())


def test_buffers_are_copied():
    network = One()
    ema = EMA(network)
    for _ in range(3):
        ema.update(network.set(0.0))
    assert ema.network.count.item() == 3


@pytest.mark.parametrize("decay", [1.0, 1.5, -0.1, float("nan")])
def test_a_decay_that_never_or_wrongly_updates_is_refused(decay):
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\), got .*; 0.999 averages over about 1000"):
        EMA(nn.Linear(1, 1), decay)
