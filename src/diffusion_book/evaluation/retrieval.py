"""How often a CLIP finds the caption of a picture among 64, and the picture of a caption. Chapter 9.

Chance is 1/64. Captions that say the same would be a tie that no one could break, so in each group no two do: "a cat
left of a key" and "a key right of a cat" are one.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from diffusion_book._checks import at_least
from diffusion_book.data import Scenes, captions
from diffusion_book.data.captions import Scene
from diffusion_book.models import TrainedClip

AMONG = 64
RETRIEVED = ("caption of a picture", "picture of a caption")
"""What is looked for, by the names of the numbers."""
OPPOSITE = {"right of": "left of", "below": "above"}


def retrieval(clip: TrainedClip, data: Scenes | None = None, groups: int = 20, among: int = AMONG) -> dict[str, Any]:
    """Retrieval at 1: of each group, the share of pictures whose own caption is the nearest, and the same backwards.

    Args:
        data: where the pictures and captions are from; None for the test split, with its full captions.
        groups: of `among` pictures each, from the first on.

    Returns:
        "caption of a picture" and "picture of a caption", each with its mean over the groups and the standard error
        that they show; chance; and what was measured.

    Raises:
        ValueError: there are fewer than two groups or captions, or too few different captions.
    """
    at_least(2, groups=groups, among=among)
    data = Scenes("test", count=10_000) if data is None else data
    found: list[tuple[Tensor, Tensor]] = []
    for index in different(data, groups, among):
        cosines = clip.images(data.take(index)[0]) @ clip.texts(data.captions(index)).mT
        own = torch.arange(among, device=cosines.device)
        found.append(((cosines.argmax(1) == own).double().mean(), (cosines.argmax(0) == own).double().mean()))
    shares = {name: torch.stack(each) for name, each in zip(RETRIEVED, zip(*found))}
    return {
        **{
            name: {"mean": float(each.mean()), "standard error": float(each.std()) / math.sqrt(groups)}
            for name, each in shares.items()
        },
        "chance": 1 / among,
        "among": among,
        "N": groups * among,
        "split": data.name,
        "training runs": 1,
        "notes": "Of a single training run; in a group no two captions say the same; the standard error is that of "
        "the groups.",
    }


def different(data: Scenes, groups: int, among: int = AMONG) -> Iterator[Tensor]:
    """The numbers [among] of pictures, group by group: the next ones whose captions say what none in the group says.

    Raises:
        ValueError: there are not so many.
    """
    said: set[object] = set()
    group: list[int] = []
    for start in range(0, len(data), among):
        index = torch.arange(start, min(start + among, len(data)))
        for number, caption in zip(index.tolist(), data.captions(index)):
            meant = meaning(captions.read(caption))
            if meant in said:
                continue
            said.add(meant)
            group.append(number)
            if len(group) == among:
                yield torch.tensor(group)
                groups, group, said = groups - 1, [], set()
            if not groups:
                return
    raise ValueError(f"{data.name} has no {groups} more groups of {among} captions that say different things")


def meaning(scene: Scene) -> object:
    """The same of two captions that say the same: what is right of something is said from the other side."""
    if scene.relation not in OPPOSITE:
        return scene
    return Scene(scene.things[::-1], OPPOSITE[scene.relation], scene.count, scene.ground)
