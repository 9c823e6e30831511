"""An exponential moving average of weights (chapter 6).

One average, whose length is said before the run. Karras et al. (2024, section 3) choose the length afterwards: they
keep two averages of power-function profile (3.1), store both now and then, and combine what is stored by least squares
into one of any length (3.2), so that many lengths can be compared after a single run. That costs a second average and
all those snapshots. The runs here take minutes, so another length can be tried by another run.
"""

import copy
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class EMA:
    """Keeps w̄ ← d w̄ + (1 − d) w, with d warmed up so that the average never remembers the random start for long.

    Args:
        network: the network that trains; `self.network` is a frozen copy that follows it.
        decay: the final d in [0, 1). At step n the decay is min(decay, (1 + n)/(10 + n)).
    """

    def __init__(self, network: Network, decay: float = 0.999) -> None:
        check_decay(decay)
        self.decay = decay
        self.updates = 0
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take one step towards the weights; buffers, such as batch statistics, are copied."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages: list[torch.Tensor] = list(self.network.parameters())
        weights = [parameter.detach() for parameter in network.parameters()]
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, value in zip(self.network.buffers(), network.buffers()):
            average.copy_(value)


def check_decay(decay: float) -> None:
    """Raise a ValueError unless an average with this decay moves, and towards the weights."""
    if not 0 <= decay < 1:
        raise ValueError(f"the EMA's decay must lie in [0, 1), got {decay}; 0.999 averages over about 1000 steps")
