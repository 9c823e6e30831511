"""What each step of a run sees, from the seed and the number of the step alone (chapter 11)."""

import functools
import hashlib

import torch
from torch import Tensor


def seed_of(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, unrelated to those of all others: 32 bits of the SHA-256 of its name."""
    text = " ".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


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
