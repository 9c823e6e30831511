"""Random numbers: from generators that the caller hands over, and from nothing else."""

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from diffusion_book._checks import check_floating

Generators = torch.Generator | Sequence[torch.Generator]


def randn_like(x: Tensor, generator: Generators) -> Tensor:
    """Standard normal noise of x's shape, drawn on the generator's device so that a seed means one thing everywhere.

    With a sequence of generators, one for each example of x [B, …], an example's noise does not depend on its batch.
    Chapter 6.

    Raises:
        ValueError: no generators, or another number of them than there are examples; or x is not floating point.
    """
    check_floating("a batch", x)
    if isinstance(generator, torch.Generator):
        return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)
    if not (isinstance(generator, Sequence) and all(isinstance(g, torch.Generator) for g in generator)):
        raise ValueError(
            f"random numbers need a torch.Generator, or a list such as samplers.seeded(range(B)); got {generator!r:.40}"
        )
    if len(generator) != len(x):
        raise ValueError(f"give one generator for each of the {len(x)} examples, got {len(generator)}")
    noises = [torch.randn(x.shape[1:], generator=g, device=g.device, dtype=x.dtype) for g in generator]
    return torch.stack(noises).to(x.device) if noises else x.clone()


def seeded(seeds: Sequence[int], device: torch.device | str = "cpu") -> list[torch.Generator]:
    """One generator for each example, for `randn_like` and the samplers: the same seed gives the same picture.

    Chapter 6 uses it.

    Raises:
        ValueError: one seed, where a list of them is wanted; or what is no whole number.
    """
    if isinstance(seeds, int | str) or not all(isinstance(seed, Integral) for seed in seeds):
        raise ValueError(f"one whole number for each example is needed, such as range(16), got {seeds!r:.80}")
    return [torch.Generator(device).manual_seed(int(seed)) for seed in seeds]
