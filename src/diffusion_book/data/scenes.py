"""Colour pictures with captions that need no network, as many as one wants: icons on a coloured ground. Chapter 9.

    scenes = data.load("scenes")
    scenes.captions(torch.tensor([0]))      "a small yellow moon left of a big red car, on pink"
    scenes.take(torch.tensor([0]))          the picture, and the numbers of these words

A picture follows from the seed and its number alone, so none is stored. The sprites are OpenMoji's icons (`icons`), of
which only the light and dark are kept: bright parts take the tint, dark ones stay dark. `ATTRIBUTION` is what stands
beside the pictures, and beside those of a network that learnt from them.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from diffusion_book._checks import at_least
from diffusion_book._names import check_known
from diffusion_book.conditions import Conditions
from diffusion_book.data import captions, icons
from diffusion_book.data.captions import GROUNDS, NEW_OBJECTS, NEW_TINTS, OBJECTS, RELATIONS, SIZES, TINTS, Scene, Thing
from diffusion_book.data.examples import Examples

Split = Literal["train", "test", "pairs", "objects", "tints"]
ATTRIBUTION = (
    "Icons by OpenMoji, the open-source emoji and icon project, https://openmoji.org, drawn small, tinted and put on "
    "coloured grounds. Licence: CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/"
)

ALL_OBJECTS, ALL_TINTS = (*OBJECTS, *NEW_OBJECTS), (*TINTS, *NEW_TINTS)
CHARACTERS = {
    **{"anchor": "2693", "ball": "26BD", "boat": "26F5", "book": "1F4D5", "cactus": "1F335", "car": "1F697"},
    **{"cat": "1F431", "chair": "1FA91", "crab": "1F980", "crown": "1F451", "dinosaur": "1F995", "duck": "1F986"},
    **{"flower": "1F33C", "guitar": "1F3B8", "hat": "1F3A9", "house": "1F3E0", "key": "1F511", "magnet": "1F9F2"},
    **{"moon": "1F319", "mushroom": "1F344", "octopus": "1F419", "pear": "1F350", "plane": "2708", "rabbit": "1F407"},
    **{"snake": "1F40D", "star": "2B50", "trophy": "1F3C6", "umbrella": "2602"},
}
"""Of the icons. Any two differ, small and turned round or not, in one tint, by a root mean square of 0.55 (of 2)."""
COLOURS = {
    "tint": {"red": 0xE02828, "green": 0x28A828, "blue": 0x2850F0, "yellow": 0xF0D000, "purple": 0x9028C8},
    "ground": {
        **{"white": 0xFFFFFF, "grey": 0xA0A0A0, "yellow": 0xFFF0A0, "pink": 0xFFC8DC},
        **{"blue": 0xB4DCFF, "green": 0xBEF0BE},
    },
}
HELD_OUT_PAIRS = tuple((OBJECTS[i], TINTS[(i // 3) % len(TINTS)]) for i in range(0, len(OBJECTS), 3))
"""Objects in tints that no training picture shows together, although it shows both: eight of ninety-six."""
ONE, ALIKE, RELATED = 0, 1, 2
KINDS = np.array([ONE] * 2 + [ALIKE] + [RELATED] * 3)
"""What is drawn, each as likely: a third of the pictures show one thing, a sixth two alike, half two in a relation."""
UNSAID = 0.1
"""The share of sizes, of tints and of grounds that a varied caption leaves out."""
NOTHING = -1


class Layout(NamedTuple):
    """K scenes as numbers; a column for each of two objects, of which the second is `NOTHING` where there is none."""

    kind: np.ndarray
    """[K]: `ONE`, two `ALIKE`, or two `RELATED`."""
    objects: np.ndarray
    """[K, 2], places in `ALL_OBJECTS`."""
    tints: np.ndarray
    """[K, 2], places in `ALL_TINTS`."""
    sizes: np.ndarray
    """[K, 2], places in `SIZES`."""
    flipped: np.ndarray
    """[K, 2], whether the icon is turned round; no caption says so."""
    top: np.ndarray
    """[K, 2] in pixels, of the square that the object fills."""
    left: np.ndarray
    """[K, 2] in pixels."""
    relation: np.ndarray
    """[K], of the first to the second, a place in `RELATIONS`; of two alike too, though no caption says it."""
    ground: np.ndarray
    """[K], places in `GROUNDS`."""


@dataclass(frozen=True)
class Scenes(Examples):
    """Captioned pictures by their numbers, drawn when they are asked for.

    Attributes:
        split: "train"; "test", other pictures of the same kind; or pictures that show, first of all, what no training
            picture does: "pairs" an object in a tint that is new to it, "objects" and "tints" new ones.
        size: side in pixels, 32 or 64.
        varied: whether captions take synonyms, and leave sizes, tints and grounds unsaid.
        seed: of everything.
        count: how many there are; no more work for a million than for one.

    Raises:
        ValueError: another split or size, or no picture.
    """

    split: Split = "train"
    size: int = 32
    varied: bool = False
    seed: int = 0
    count: int = 1_000_000

    def __post_init__(self) -> None:
        check_known("split", self.split, get_args(Split))
        if self.size not in (32, 64):
            raise ValueError(f"scenes are of 32 or 64 pixels a side, got size = {self.size}")
        at_least(1, count=self.count)
        at_least(0, seed=self.seed)

    def __len__(self) -> int:
        return self.count

    def take(self, index: Tensor) -> tuple[Tensor, Conditions]:
        """The pictures of these numbers [K, 3, size, size], and the words of their captions, {"tokens": [K, LONGEST]}.

        Raises:
            IndexError: there is no such number.
        """
        pixels = torch.from_numpy(draw(self.layout(index), self.size))
        return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1, {"tokens": captions.encode(self.captions(index))}

    def captions(self, index: Tensor) -> list[str]:
        """What the pictures of these numbers show, as sentences of `captions`."""
        scenes = described(self.layout(index))
        if not self.varied:
            return [captions.write(scene) for scene in scenes]
        return [_loosely(scene, uniform) for scene, uniform in zip(scenes, self._uniform(index, "words", 14))]

    def layout(self, index: Tensor) -> Layout:
        """What is where, in the pictures of these numbers."""
        return arrange(self._uniform(index, "layout", 16), self.split, self.size)

    @property
    def name(self) -> str:
        """Where they come from."""
        return f"scenes/{self.split}"

    @property
    def sha256(self) -> str:
        """Of what all of them follow from, and of the first 256."""
        x, told = self.take(torch.arange(min(256, self.count), device="cpu"))
        pixels = ((x + 1) * 127.5).round().to(torch.uint8).numpy()
        digest = hashlib.sha256(repr(self).encode())
        digest.update(pixels.tobytes() + told["tokens"].numpy().tobytes())
        return digest.hexdigest()

    def _uniform(self, index: Tensor, purpose: str, n: int) -> np.ndarray:
        """[K, n] in [0, 1), from the seed, the split, the purpose and the picture's number alone."""
        wanted = index.cpu().numpy().astype(np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < self.count:
            raise IndexError(f"pictures are numbered 0 … {self.count - 1}, got {wanted.min()} … {wanted.max()}")
        name = hashlib.sha256(f"{self.seed} {self.split} {purpose}".encode()).digest()
        start = np.frombuffer(name[:8], dtype="<u8")
        return _scrambled(start + (wanted[:, None] * n + np.arange(n)).astype(np.uint64))


def _scrambled(number: np.ndarray) -> np.ndarray:
    """Whole numbers of 64 bits to others that look drawn at random, in [0, 1): SplitMix64 (Steele et al. 2014)."""
    z = (number + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


# What is where ---------------------------------------------------------------------------------------------------


def arrange(uniform: np.ndarray, split: Split = "train", size: int = 32) -> Layout:
    """Scenes from 16 numbers in [0, 1) each: uniform [K, 16].

    Two objects stand apart along one axis, by their relation, and are about level along the other, so that only one
    relation is true of them.
    """
    u = iter(uniform.T)
    kind, relation, ground = _pick(next(u), KINDS), _below(next(u), len(RELATIONS)), _below(next(u), len(GROUNDS))
    usual, first = _pairs("train"), _pairs(split)
    what = np.stack([_pick(next(u), first), _pick(next(u), usual)], axis=1)
    sizes = np.stack([_below(next(u), 2), _below(next(u), 2)], axis=1)
    alike = kind == ALIKE
    what[alike, 1], sizes[alike, 1] = what[alike, 0], sizes[alike, 0]
    flipped = np.stack([_below(next(u), 2), _below(next(u), 2)], axis=1)

    side = np.array(sides(size))[sizes]
    along = np.sort(_below(np.stack([next(u), next(u)], axis=1), size - side.sum(1, keepdims=True) + 1), axis=1)
    swapped = relation % 2 == 1  # right of, below: the second comes first
    before = np.where(swapped, side[:, 1], side[:, 0])
    along[:, 1] += before
    along[swapped] = along[swapped, ::-1]
    across = _below(next(u), size - side[:, 0] + 1)
    shift = _below(next(u), size // 4 + 1) - size // 8 + (side[:, 0] - side[:, 1]) // 2
    across = np.stack([across, np.clip(across + shift, 0, size - side[:, 1])], axis=1)
    one = kind == ONE
    along[one, 0] = _below(next(u)[one], size - side[one, 0] + 1)
    vertical = (relation >= 2)[:, None]
    top, left = np.where(vertical, along, across), np.where(vertical, across, along)

    for column in (what[:, 1], sizes[:, 1], flipped[:, 1], top[:, 1], left[:, 1], relation):
        column[one] = NOTHING
    return Layout(kind, what[..., 0], what[..., 1], sizes, flipped, top, left, relation, ground)


@functools.cache
def _pairs(split: Split) -> np.ndarray:
    """[P, 2]: objects and tints that the first thing of a picture may have."""
    held_out = [(ALL_OBJECTS.index(name), ALL_TINTS.index(tint)) for name, tint in HELD_OUT_PAIRS]
    if split == "pairs":
        return np.array(held_out)
    objects = NEW_OBJECTS if split == "objects" else OBJECTS
    tints = NEW_TINTS if split == "tints" else TINTS
    every = [(ALL_OBJECTS.index(name), ALL_TINTS.index(tint)) for name in objects for tint in tints]
    return np.array([pair for pair in every if pair not in held_out])


def _below(uniform: np.ndarray, n: int | np.ndarray) -> np.ndarray:
    """Whole numbers 0 … n − 1."""
    return (uniform * n).astype(np.int64)


def _pick(uniform: np.ndarray, of: np.ndarray) -> np.ndarray:
    return of[_below(uniform, len(of))]


def described(layout: Layout) -> list[Scene]:
    """What is to be said of each."""
    found = []
    for k, kind in enumerate(layout.kind):
        columns = (0, 1) if kind == RELATED else (0,)
        things = tuple(
            Thing(ALL_OBJECTS[layout.objects[k, j]], ALL_TINTS[layout.tints[k, j]], SIZES[layout.sizes[k, j]])
            for j in columns
        )
        relation = RELATIONS[layout.relation[k]] if kind == RELATED else None
        found.append(Scene(things, relation, 1 if kind == ONE else 2, GROUNDS[layout.ground[k]]))
    return found


def _loosely(scene: Scene, uniform: np.ndarray) -> str:
    """A caption with synonyms, half of the time, and with some things unsaid."""
    u = iter(uniform)
    unsaid = [next(u) < UNSAID for _ in range(5)]
    things = tuple(
        Thing(thing.object, None if unsaid[2 * j] else thing.tint, None if unsaid[2 * j + 1] else thing.size)
        for j, thing in enumerate(scene.things)
    )
    said = Scene(things, scene.relation, scene.count, None if unsaid[4] else scene.ground)
    return captions.write(said, lambda word: captions.SYNONYMS[word] if next(u) < 0.5 else word)


# How it is drawn -------------------------------------------------------------------------------------------------


def sides(size: int) -> tuple[int, int]:
    """Of the squares that a small and a big object fill, in pictures of this size: 11 and 15 pixels at 32."""
    return size * 11 // 32, size * 15 // 32


def draw(layout: Layout, size: int = 32) -> np.ndarray:
    """The pictures, [K, size, size, 3] uint8."""
    colour, opacity = sprites(size)
    room = opacity.shape[-1]
    x = np.empty((len(layout.kind), size + room, size + room, 3), dtype=np.float32)  # small sprites reach over the edge
    x[:] = colours("ground", GROUNDS)[layout.ground][:, None, None]
    for j in (0, 1):
        k = np.flatnonzero(layout.objects[:, j] != NOTHING)
        place = _window(layout, k, j, room)
        which = layout.sizes[k, j], layout.flipped[k, j], layout.objects[k, j]
        alpha = opacity[which][..., None]
        x[place] = x[place] * (1 - alpha) + colour[(*which, layout.tints[k, j])]
    return (x[:, :size, :size] + 0.5).astype(np.uint8)


def masks(layout: Layout, size: int = 32) -> Tensor:
    """Where each object is, [K, 2, size, size] bool: true where it covers at least half of a pixel."""
    _, opacity = sprites(size)
    room = opacity.shape[-1]
    covered = np.zeros((len(layout.kind), 2, size + room, size + room), dtype=bool)
    for j in (0, 1):
        k = np.flatnonzero(layout.objects[:, j] != NOTHING)
        row, height, width = _window(layout, k, j, room)
        covered[row, j, height, width] = opacity[layout.sizes[k, j], layout.flipped[k, j], layout.objects[k, j]] >= 0.5
    return torch.from_numpy(covered[:, :, :size, :size].copy())


def edges(x: Tensor, threshold: float = 0.5) -> Tensor:
    """Where neighbours differ, [K, 1, H, W] bool of pictures [K, C, H, W] in [−1, 1]: a drawing in lines. Chapter 14.

    Args:
        threshold: the length of the gradient, by central differences, of the channel in which it is the longest.
    """
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return (across.square() + down.square()).sqrt().amax(1, keepdim=True) > threshold


@functools.cache
def sprites(size: int) -> tuple[np.ndarray, np.ndarray]:
    """All that can be drawn: colours times opacity [sizes, 2, objects, tints, h, h, 3], and opacity without the tints.

    h is the side of the big ones; what is smaller lies in the upper left corner. The colours reach to 255.
    """
    small_and_big = sides(size)
    opacity = np.zeros((len(SIZES), 2, len(ALL_OBJECTS), small_and_big[-1], small_and_big[-1]), dtype=np.float32)
    light = np.zeros_like(opacity)  # times opacity
    for s, side in enumerate(small_and_big):
        for o, name in enumerate(ALL_OBJECTS):
            light[s, 0, o, :side, :side], opacity[s, 0, o, :side, :side] = _sprite(name, side)
        for values in (light, opacity):
            values[s, 1, :, :, :side] = values[s, 0, :, :, :side][..., ::-1]
    return light[:, :, :, None, :, :, None] * colours("tint", ALL_TINTS)[:, None, None], opacity


def _sprite(name: str, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Light times opacity, and opacity, [side, side] each: the icon without the room around it, scaled down."""
    rgba = icons.render(CHARACTERS[name], 165).permute(1, 2, 0).numpy().astype(np.float32) / 255
    rows, columns = np.nonzero(rgba[..., 3] > 0.15)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    square = np.zeros((max(height, width),) * 2 + (2,), dtype=np.float32)
    inside = rgba[rows.min() : rows.min() + height, columns.min() : columns.min() + width]
    y, x = (len(square) - height) // 2, (len(square) - width) // 2
    light = inside[..., :3] @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    light = np.minimum(light / np.quantile(light[inside[..., 3] > 0.5], 0.9), 1)  # a brown duck is as bright as a white
    square[y : y + height, x : x + width] = np.stack([light * inside[..., 3], inside[..., 3]], axis=-1)
    small = torch.nn.functional.interpolate(torch.from_numpy(square).permute(2, 0, 1)[None], (side, side), mode="area")[
        0
    ].numpy()
    return small[0], small[1]


def colours(what: str, names: Sequence[str]) -> np.ndarray:
    """Of "tint" or "ground", by their names: [N, 3] float32 in 0 … 255."""
    codes = [COLOURS[what][name] for name in names]
    return np.array([[code >> 16, code >> 8 & 255, code & 255] for code in codes], dtype=np.float32)


def _window(layout: Layout, k: np.ndarray, j: int, room: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An index of the squares in which objects j of pictures k are drawn."""
    reach = np.arange(room)
    top, left = layout.top[k, j, None] + reach, layout.left[k, j, None] + reach
    return k[:, None, None], top[:, :, None], left[:, None, :]
