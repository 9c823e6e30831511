"""What makes pictures alike: a hash of what is seen, small colours, and the groups that follow from pairs (chapter 10).

The hash is the perceptual hash of the package `imagehash`: 64 bits, the signs of a picture's lowest frequencies
in grey. A picture that was saved again, or scaled, keeps nearly all of its bits; two pictures that have nothing to do
with each other differ in about 32. It is blind to colour, which is why the colours of a small copy are asked too.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

NEAR_BITS, NEAR_COLOUR = 4, 0.05
"""A near-copy differs in at most so many of the hash's bits, and by so little (root mean square, of 2) in colour."""
ALIKE_BITS = 10
"""Pictures that differ in at most so many bits, mirrored or not, do not belong on two sides of a split."""
BURST_BITS, BURST_SECONDS = 16, 10
"""Nor do neighbours in a folder: these may differ in more bits, or were taken within so many seconds."""


class Print(NamedTuple):
    """What is kept of a picture to compare it with others."""

    bits: np.ndarray
    """[64] bool."""
    mirrored: np.ndarray
    """[64] bool, of the picture's mirror image."""
    colours: np.ndarray
    """[16, 16, 3] float32 in [−1, 1]: the picture, small."""


def fingerprint(picture: "Image.Image") -> Print:
    """The hash and the colours of an RGB picture of any size.

    Raises:
        ImportError: the package that computes the hash is not installed.
    """
    from PIL import Image

    try:
        import imagehash
    except ImportError as error:
        raise ImportError("near-copies need the package imagehash: pip install 'diffusion-book[folder]'") from error
    small = picture.resize((16, 16), Image.Resampling.LANCZOS)
    mirror = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    bits, mirrored = (imagehash.phash(image).hash.flatten() for image in (picture, mirror))
    return Print(bits, mirrored, np.asarray(small, dtype=np.float32) / 127.5 - 1)


def near_pairs(prints: list[Print], bits: int = NEAR_BITS) -> list[tuple[int, int]]:
    """Pairs i < j of pictures that are one picture, saved twice: close in hash and in colour, the closest first."""
    found = [
        (gap, difference, i, j)
        for gap, i, j in _pairs_within(prints, bits)
        if (difference := colour_difference(prints[i], prints[j])) <= NEAR_COLOUR
    ]
    return [(i, j) for _, _, i, j in sorted(found)]


def alike_pairs(prints: list[Print], bits: int = ALIKE_BITS) -> list[tuple[int, int]]:
    """Pairs of pictures that look alike, also where one looks like the other's mirror image."""
    return [(i, j) for mirror in (False, True) for _, i, j in _pairs_within(prints, bits, mirror)]


def colour_difference(a: Print, b: Print) -> float:
    """Root mean square difference of the small colours, between 0 and 2."""
    return float(np.sqrt(np.mean((a.colours - b.colours) ** 2)))


def groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Numbers 0 … count − 1 in groups that no pair leads out of, each in order, the groups by their first."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs:
        first, second = sorted((root(i), root(j)))
        parent[second] = first
    found: dict[int, list[int]] = {}
    for i in range(count):
        found.setdefault(root(i), []).append(i)
    return list(found.values())


def _pairs_within(prints: list[Print], bits: int, mirror: bool = False) -> Iterator[tuple[int, int, int]]:
    """(bits that differ, i, j), i < j; the whole table of pairs is never in memory."""
    signs = np.stack([p.bits for p in prints]).astype(np.float32) * 2 - 1
    others = np.stack([p.mirrored for p in prints]).astype(np.float32) * 2 - 1 if mirror else signs
    for start in range(0, len(signs), 512):
        apart = (signs.shape[1] - signs[start : start + 512] @ others.T) / 2
        for i, j in np.argwhere(apart <= bits):
            if start + i < j:
                yield int(apart[i, j]), int(start + i), int(j)
