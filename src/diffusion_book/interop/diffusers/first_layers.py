"""A U-Net's first layers, which in `diffusers` must hold what it has no option for: patches, and where time begins.

A network with `patch` = p is, inside, one of unshuffled images, C p² channels of H/p × W/p, and as such it is written.
They are the same pixels in another order, in which independent noise stays independent, so every scheduler there walks
them as it would walk the images; in the end `pixel_shuffle` puts them together.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_book._checks import at_least
from diffusion_book.nn import UNetConfig, timestep_embedding


def without_patches(config: UNetConfig) -> UNetConfig:
    """The network of unshuffled images that is inside one of images."""
    return replace(config, image_channels=config.image_channels * config.patch**2, patch=1)


def with_patches(config: UNetConfig, patch: int) -> UNetConfig:
    """The network of images that one of unshuffled images is inside of."""
    at_least(1, patch=patch)
    channels, left = divmod(config.image_channels, patch**2)
    if left:
        raise ValueError(
            f"in_channels = {config.image_channels} does not fit: patch = {patch} needs a multiple of {patch**2}"
        )
    return replace(config, image_channels=channels, patch=patch)


def size_in_patches(image_size: int | tuple[int, int] | None, patch: int) -> int | tuple[int, int] | None:
    """The side, or (height, width), of unshuffled images."""
    if image_size is None:
        return None
    two = isinstance(image_size, tuple | list) and len(image_size) == 2
    sides: Any = image_size if two else (image_size, image_size)
    for side in sides:
        at_least(1, image_size=side)
        if side % patch:
            raise ValueError(f"image_size = {image_size!r} does not fit: patch = {patch} needs multiples of {patch}")
    height, width = (int(side) // patch for side in sides)
    return height if height == width else (height, width)


def widen(weight: Tensor, patch: int) -> Tensor:
    """A stem's weight of patches [F, C, p, p] as one of unshuffled images [F, C p², 3, 3]: it looks at no neighbour."""
    return F.pad(weight.reshape(len(weight), -1, 1, 1), (1, 1, 1, 1)) if patch > 1 else weight


def narrow(weight: Tensor, patch: int) -> Tensor:
    """The way back."""
    if patch == 1:
        return weight
    centre = weight[:, :, 1:2, 1:2]
    if weight.count_nonzero() > centre.count_nonzero():
        raise ValueError(
            f"conv_in.weight looks beyond the patch of its position, which no stem with patch = {patch} does; "
            "read it with patch = 1, and unshuffle the images"
        )
    return centre.reshape(len(weight), -1, patch, patch).contiguous()


def turn(weight: Tensor, step: int, config: UNetConfig) -> Tensor:
    """Let a layer behind the sinusoids of k see those of k + step: W' [cos kf; sin kf] = W [cos (k+s)f; sin (k+s)f].

    By the addition theorems the sinusoids of a later time are those of this time, turned by sf.
    """
    if step == 0:
        return weight
    time = torch.tensor([step], device=weight.device)
    cos, sin = timestep_embedding(time, config.channels, frequency_shift=config.frequency_shift).chunk(2, dim=1)
    if config.sines_first:
        of_sin, of_cos = weight.chunk(2, dim=1)
        turned = [of_sin * cos - of_cos * sin, of_cos * cos + of_sin * sin]
    else:
        of_cos, of_sin = weight.chunk(2, dim=1)
        turned = [of_cos * cos + of_sin * sin, of_sin * cos - of_cos * sin]
    return torch.cat(turned, dim=1).to(weight.dtype)
