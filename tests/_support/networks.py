"""Networks as they are after some training."""

import torch
from torch import nn


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Away from zeros and ones, so that no two weights may be exchanged unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()
