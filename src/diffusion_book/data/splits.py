"""Splits and what leaks through them: equal images, near ones, and a split that keeps the classes' shares (chapter 10).

Distances are root mean square differences of pixels, so on images in [−1, 1] they lie between 0 and 2.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from diffusion_book._checks import check_floating
from diffusion_book.data.images import Images, check_range, to_uint8


def duplicates(a: Tensor, b: Tensor | None = None) -> Tensor:
    """Pairs of images whose bytes are the same.

    Args:
        a: [N, C, H, W] in [−1, 1]. b: [M, C, H, W], or None to look for equal images within `a`.

    Returns:
        [K, 2] int64, rows (i, j) with a[i] equal to b[j], ordered; within one set, each pair once, with i < j.

    Raises:
        ValueError: the shapes do not fit, or the images are not in [−1, 1], so that their bytes would be clipped.
    """
    _check_pair(a, a if b is None else b)
    for images in (a, a if b is None else b):
        check_range(images)
    where: dict[bytes, list[int]] = {}
    for j, image in enumerate(to_uint8(a if b is None else b).cpu().numpy()):
        where.setdefault(image.tobytes(), []).append(j)
    pairs = [
        (i, j)
        for i, image in enumerate(to_uint8(a).cpu().numpy())
        for j in where.get(image.tobytes(), [])
        if b is not None or i < j
    ]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def nearest(a: Tensor, b: Tensor | None = None, block: int = 256) -> tuple[Tensor, Tensor]:
    """For each image the one most like it: the distance, and which it is.

    Near copies show as distances far below those of the rest; a floor to compare with is `nearest` within one set.

    Args:
        a: [N, C, H, W]. b: [M, C, H, W], or None for the nearest *other* image of `a`.
        block: images of `a` that are compared at a time, which is what bounds the memory.

    Returns:
        Distances [N] in a's dtype and indices [N] into b.

    Raises:
        ValueError: the shapes do not fit, bytes, or there is nothing to compare with.
    """
    other = a if b is None else b
    _check_pair(a, other)
    if len(other) < (2 if b is None else 1):
        raise ValueError(f"nothing to compare with: got {len(a)} images and {len(other)} others")
    flat = other.flatten(1)
    distances, indices = [], []
    for start in range(0, len(a), block):
        part = a[start : start + block].flatten(1)
        gap = torch.cdist(part, flat, compute_mode="use_mm_for_euclid_dist")
        if b is None:
            own = torch.arange(len(part), device=gap.device)
            gap[own, own + start] = torch.inf
        index = gap.argmin(dim=1)
        # That was ‖a‖² − 2a·b + ‖b‖², fast, but a copy's zero is lost in its rounding: measure again, by differences.
        distances.append((part - flat[index]).pow(2).mean(dim=1).sqrt())
        indices.append(index)
    return torch.cat(distances), torch.cat(indices)


def split(images: Images, share: float, generator: torch.Generator) -> tuple[Images, Images]:
    """Divide at random in two, each class in the same proportion.

    Images are divided one by one. Where several come from one source (a writer, a camera, frames of a film), divide
    the sources instead, or the second part knows the first.

    Args:
        share: of the images that go to the second part, in (0, 1); in each class it is rounded.

    Returns:
        What is kept and what is held out, both in the order of `images`.

    Raises:
        ValueError: the share is not in (0, 1), or one part would be empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}")
    device = images.x.device
    y = images.conditions.get("y", torch.zeros(len(images), dtype=torch.int64, device=device))
    held_out = torch.zeros(len(images), dtype=torch.bool, device=device)
    for label in y.unique():
        of_class = (y == label).nonzero()[:, 0]
        order = torch.randperm(len(of_class), generator=generator, device=generator.device).to(of_class.device)
        held_out[of_class[order[: round(share * len(of_class))]]] = True
    if held_out.all() or not held_out.any():
        raise ValueError(f"a share of {share} of {len(images)} images leaves one part empty; choose another")
    parts = []
    for name, keep in (("kept", ~held_out), ("held out", held_out)):
        x, conditions = images.take(keep)
        parts.append(_part(images, x=x, conditions=conditions, name=f"{images.name}, {name}"))
    return parts[0], parts[1]


def _part(images: Images, **values: Any) -> Images:
    """Some of the images, not asked again: of a set that fills [−1, 1] a part may be bright."""
    part = copy.copy(images)
    for name, value in values.items():
        object.__setattr__(part, name, value)
    return part


def _check_pair(a: Tensor, b: Tensor) -> None:
    for images in (a, b):
        check_floating("images", images)
    if a.ndim != 4 or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"two sets [N, C, H, W] of one size are needed, got {list(a.shape)}, {list(b.shape)}")
