"""Double precision, and what to do on a device that has none, such as Apple's."""

from functools import cache

import torch
from torch import Tensor


@cache
def real_on(device: torch.device) -> torch.dtype:
    """The dtype of real times on a device: float64, or float32 where there is no such thing."""
    try:
        return torch.empty(0, dtype=torch.float64, device=device).dtype
    except TypeError:  # what torch raises for "mps"
        return torch.float32


def in_double(x: Tensor) -> Tensor:
    """x in float64: where it is, or on the CPU where its device has no float64."""
    return x.double() if real_on(x.device) is torch.float64 else x.cpu().double()
