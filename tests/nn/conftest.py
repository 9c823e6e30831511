"""What the tests of networks share."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import diffusion_book._torchvision  # noqa: F401  (diffusers imports torchvision, which may need mending first)


@pytest.fixture
def randomised() -> Callable[[nn.Module], nn.Module]:
    """Takes a network away from its zero start, as after some training."""

    def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return network.eval()

    return randomise
