"""What each step of a run sees, from the seed and the number of the step alone (chapter 11)."""

import functools
import hashlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn


def seed_of(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, unrelated to those of all others: 32 bits of the SHA-256 of its name."""
    text = " ".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def own_randomness(device: torch.device) -> AbstractContextManager[None]:
    """Where seeds can be set, and the caller's global generators are afterwards as they were."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def batch_index(n: int, batch_size: int, step: int, seed: int) -> Tensor:
    """Which of n examples a step sees: each once in an epoch, in an order that the epoch's number decides."""
    places = range(step * batch_size, (step + 1) * batch_size)
    return torch.cat(
        [
            _order(n, seed, epoch)[max(places.start - epoch * n, 0) : places.stop - epoch * n]
            for epoch in range(places.start // n, (places.stop - 1) // n + 1)
        ]
    )


@functools.lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed_of(seed, "epoch", epoch))
    return torch.randperm(n, generator=generator, device="cpu")  # also where somebody has set another default


def sees_pieces(network: nn.Module, size: int) -> bool:
    """Whether it changes the weights into how many pieces of this size a batch is cut.

    Batch norm takes mean and variance of a piece, and dropout draws anew for each.

    Raises:
        ValueError: there is batch norm, and a piece is one example, which has no variance.
    """
    normalises = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in network.modules())
    if normalises and size < 2:
        raise ValueError(
            "this network's batch norm takes the variance of a piece of a batch, and a piece is one example: give a "
            "batch_size of at least two for each process and each part of accumulate"
        )
    return normalises or any(
        isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p for layer in network.modules()
    )
