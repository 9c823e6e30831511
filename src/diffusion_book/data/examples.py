"""What training asks of data, whatever it holds: pictures, points, latents (chapter 10)."""

from typing import Protocol

import torch
from torch import Tensor

from diffusion_book.conditions import Conditions


class Source(Protocol):
    """Anything that hands out training batches, such as `GaussianMixture`: what `training.train` needs."""

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Conditions]:
        """`size` examples [size, …] drawn at random, and what a network is to be told of them."""
        ...


class Examples(Source, Protocol):
    """So many examples that have numbers, such as `Images`: what `training.Trainer` needs.

    A class of your own that inherits from this one has to write `__len__`, `take` and `sha256`.
    """

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> tuple[Tensor, Conditions]:
        """The examples of these numbers [K]: x0 [K, …], and what a network is to be told of them, [K, …] each."""
        ...

    @property
    def sha256(self) -> str:
        """Of all examples and conditions: a run goes on only with those that it was begun with."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example."""
        return tuple(self.take(torch.tensor([0], device="cpu"))[0].shape[1:])

    @property
    def classes(self) -> int:
        """How many classes the labels y are of: the largest, and one; 0 where there are none."""
        if "y" not in self.take(torch.tensor([0], device="cpu"))[1]:
            return 0
        return int(self.take(torch.arange(len(self), device="cpu"))[1]["y"].max()) + 1

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Conditions]:
        """`size` examples drawn with replacement, and what a network is to be told of them."""
        index = torch.randint(len(self), (size,), generator=generator, device=generator.device)
        return self.take(index.cpu())
