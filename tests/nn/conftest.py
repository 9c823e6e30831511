"""What the tests of networks share."""

from collections.abc import Callable

import pytest
from torch import nn

import diffusion_book._torchvision  # noqa: F401  (diffusers imports torchvision, which may need mending first)
from _support import networks


@pytest.fixture
def randomised() -> Callable[[nn.Module], nn.Module]:
    """Takes a network away from its zero start, as after some training."""

    return networks.randomised
