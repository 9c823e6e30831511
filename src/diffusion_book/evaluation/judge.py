"""Whether a picture shows what its caption says, found by matching the sprites themselves. Chapter 9.

    verdicts = judge(x, ["a small red cat left of a big blue duck, on white", …])
    shares(verdicts)                    {"object": 0.97, "tint": 0.94, …, "all": 0.91}

`data.scenes` draws from a few hundred sprites, so a picture can be read without a network. With the ground g and a
sprite s, both as differences from g, the squared error that the sprite explains at a place is ‖r‖² − ‖r − s‖² =
2⟨r, s⟩ − ‖s‖²: a convolution. The best sprite is one object; the best that does not overlap it the next.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion_book.data import captions, scenes
from diffusion_book.data.captions import GROUNDS, SIZES, Scene, Thing
from diffusion_book.data.images import check_range
from diffusion_book.models import Guidance, Model, draw

SIDE = 32
"""Pictures are read at this size; larger ones are scaled down first."""
MOST = 3
"""Objects that are looked for: one more than any caption has, so that one too many is seen."""
ENOUGH = 0.25
"""Of its own ‖s‖², so much must a sprite explain to be there: 1 where it is there to the last bit."""
ALIKE = 0.6
"""The cosine ⟨r, s⟩ / ‖r‖‖s‖, within its square, that it must have besides: any dark spot explains some of a sprite."""
TOGETHER = 32
"""Pictures at once, for memory."""

QUESTIONS = ("count", "object", "tint", "size", "relation", "ground")


class Seen(NamedTuple):
    """An object in a picture."""

    thing: Thing
    x: float
    """Of its middle, in pixels from the left, at a side of `SIDE`."""
    y: float
    """From the top."""


class Reading(NamedTuple):
    """What is seen in a picture: objects, the clearest first, and the ground."""

    seen: tuple[Seen, ...]
    ground: str


Order = tuple[Seen | None, ...]
"""What may be meant by each thing of a caption; None where it is missing."""

Verdict = dict[str, bool]
"""Which of `QUESTIONS` that a caption asks the picture answers rightly, and "all" of them."""


def judge(x: Tensor, said: Sequence[str], look: Callable[[Tensor], list[Reading]] | None = None) -> list[Verdict]:
    """Compare pictures with what their captions say.

    Args:
        x: [K, 3, H, W] in [−1, 1], H = W = 32 or a multiple of it.
        said: K captions, of which any may leave something out; that is then not judged.
        look: another way to read pictures than by their sprites, such as that of `reader`.

    Raises:
        ValueError: pictures of another shape, another number of captions, or one that `data.captions` cannot read.
    """
    if len(x) != len(said):
        raise ValueError(f"one caption for each of the {len(x)} pictures is needed, got {len(said)}")
    asked = [captions.read(caption) for caption in said]
    return [verdict(reading, scene) for reading, scene in zip((look or by_sprites)(x), asked)]


def judge_model(
    model: Model | Path | str,
    split: scenes.Split = "test",
    count: int = 96,
    guidance: Guidance | float = 1.0,
    steps: int = 20,
) -> dict[str, float]:
    """Draw a picture after each of so many captions, and say which share shows what is said; see `shares`.

    Args:
        model: one that reads, as `models.draw` takes it.
        split: of the captions: those of "test", or of what training never showed.
        guidance, steps: of the drawing.

    Raises:
        ValueError: there is no such model, or it reads no captions.
    """
    said = scenes.Scenes(split).captions(torch.arange(count))
    return shares(judge(draw(model, said, range(count), steps=steps, guidance=guidance), said))


def shares(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Of the pictures that are asked each question, which share answers it rightly."""
    asked = {name: [v[name] for v in verdicts if name in v] for name in (*QUESTIONS, "all")}
    return {name: sum(answers) / len(answers) for name, answers in asked.items() if answers}


def by_sprites(x: Tensor) -> list[Reading]:
    """What is to be seen in pictures [K, 3, H, W] in [−1, 1]."""
    check_range(x)
    if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] != x.shape[3] or x.shape[2] % SIDE:
        raise ValueError(f"expected pictures [K, 3, H, W], H = W a multiple of {SIDE}, got shape {tuple(x.shape)}")
    small = F.interpolate(x.detach().cpu().float(), (SIDE, SIDE), mode="area")
    grounds = _grounds(small)
    found: list[Reading | None] = [None] * len(x)
    for g in grounds.unique().tolist():
        for some in (grounds == g).nonzero()[:, 0].split(TOGETHER):
            for k, seen in zip(some.tolist(), _objects(small[some], g)):
                found[k] = Reading(seen, GROUNDS[g])
    return [reading for reading in found if reading is not None]


def _grounds(x: Tensor) -> Tensor:
    """The colour that is the nearest one at most pixels [K]."""
    colours = torch.from_numpy(scenes.colours("ground", GROUNDS)) / 127.5 - 1
    distance = (x[:, None] - colours[:, :, None, None]).square().sum(2)
    nearest, near = distance.argmin(1), distance.amin(1) < 0.1  # not where an object is
    return torch.stack([((nearest == g) & near).sum((1, 2)) for g in range(len(GROUNDS))], dim=1).argmax(1)


@functools.cache
def _kernels(g: int) -> tuple[Tensor, Tensor]:
    """All sprites as differences from a ground: [S, 3, h, h], and ‖s‖² of each. S counts as `_named` does."""
    ground = torch.from_numpy(scenes.colours("ground", GROUNDS[g : g + 1]))[0]
    colour, opacity = (torch.from_numpy(values) for values in scenes.sprites(SIDE))
    differences = (colour - opacity[:, :, :, None, ..., None] * ground) / 127.5
    kernels = differences.flatten(0, 3).permute(0, 3, 1, 2).contiguous()
    return kernels, kernels.square().sum((1, 2, 3))


def _named(sprite: int) -> Thing:
    shape = (len(SIZES), 2, len(scenes.ALL_OBJECTS), len(scenes.ALL_TINTS))
    size, _, what, tint = np.unravel_index(sprite, shape)
    return Thing(scenes.ALL_OBJECTS[what], scenes.ALL_TINTS[tint], SIZES[size])


def _objects(x: Tensor, g: int) -> list[tuple[Seen, ...]]:
    """Of pictures on ground g."""
    kernels, norms = _kernels(g)
    ground = torch.from_numpy(scenes.colours("ground", GROUNDS[g : g + 1]))[0] / 127.5 - 1
    room = kernels.shape[-1]
    residual = F.pad(x - ground[:, None, None], (0, room - 1, 0, room - 1))
    product, norms = F.conv2d(residual, kernels), norms[:, None, None]  # [K, S, SIDE, SIDE]
    explained = 2 * product - norms
    sides = scenes.sides(SIDE)
    is_big = torch.arange(len(kernels)) >= len(kernels) // 2  # sizes come first in S
    side = torch.where(is_big, sides[1], sides[0])
    inside = torch.arange(SIDE) <= SIDE - side[:, None]
    energy = torch.stack([_energy(residual, h) for h in sides], dim=1)[:, is_big.long()]
    there = (explained >= ENOUGH * norms) & (product >= ALIKE * (energy * norms).sqrt())
    explained.masked_fill_(~(there & inside[:, :, None] & inside[:, None, :]), -torch.inf)
    return [_greedily(one, side) for one in explained]


def _energy(residual: Tensor, side: int) -> Tensor:
    """‖r‖² of the square of this side that begins at each place, [K, SIDE, SIDE]."""
    sums = F.avg_pool2d(residual.square().sum(1, keepdim=True), side, stride=1)[:, 0] * side**2
    return sums[:, :SIDE, :SIDE]


def _greedily(explained: Tensor, side: Tensor) -> tuple[Seen, ...]:
    """The places and sprites that explain most, and do not overlap by more than a pixel: explained [S, SIDE, SIDE]."""
    seen: list[Seen] = []
    place = torch.arange(SIDE)
    while len(seen) < MOST and torch.isfinite(explained.amax()):
        sprite, top, left = (int(i) for i in np.unravel_index(int(explained.argmax()), explained.shape))
        h = int(side[sprite])
        seen.append(Seen(_named(sprite), left + h / 2, top + h / 2))
        rows, columns = ((place < at + h - 1) & (place + side[:, None] > at + 1) for at in (top, left))
        explained.masked_fill_(rows[:, :, None] & columns[:, None, :], -torch.inf)
    return tuple(seen)


def verdict(reading: Reading, scene: Scene) -> Verdict:
    """What a picture shows against what was asked for. What is missing is wrong in all that is said of it."""
    wanted = scene.things if len(scene.things) == scene.count else scene.things * scene.count
    clearest: Order = (*reading.seen, None, None)[: scene.count]
    # Which of the two is which, nobody tells: the objects say it best, then the tints.
    order = max((clearest, clearest[::-1]), key=lambda order: _agreement(order, wanted, scene.relation))
    answers: Verdict = {"count": len(reading.seen) == scene.count}
    for name in ("object", "tint", "size"):
        if matches := _matches(order, wanted, name):
            answers[name] = all(matches)
    if scene.relation is not None:
        answers["relation"] = _relation(*order) == scene.relation
    if scene.ground is not None:
        answers["ground"] = reading.ground == scene.ground
    return {**answers, "all": all(answers.values())}


def _agreement(order: Order, wanted: tuple[Thing, ...], relation: str | None) -> tuple[int, ...]:
    of_things = (sum(_matches(order, wanted, name)) for name in ("object", "tint", "size"))
    return (*of_things, relation is not None and _relation(*order) == relation)


def _matches(order: Order, wanted: tuple[Thing, ...], name: str) -> list[bool]:
    """For each thing of which the caption says this, whether it is so."""
    pairs = [(getattr(said, name), found and getattr(found.thing, name)) for found, said in zip(order, wanted)]
    return [said == found for said, found in pairs if said is not None]


def _relation(first: Seen | None, second: Seen | None) -> str | None:
    if first is None or second is None:
        return None
    right, down = second.x - first.x, second.y - first.y
    if abs(right) > abs(down):
        return "left of" if right > 0 else "right of"
    return "above" if down > 0 else "below"
