"""Whether a network hears its caption, long before its pictures show it: what a wrong word costs. Chapter 9.

    heard(models.load("runs/scenes"))           {"object": {"2": {"gap": 0.004, "standard error": 0.001}, …}, …}

A picture gets noise, and the network is asked twice, with its own caption and with one in which a word is exchanged:
"a small red cat" for "a small blue cat". The loss with the wrong word less that with the right one is the gap. It is
zero as long as nobody listens to the word, and it is measured on real pictures, so nothing need be drawn. Captions that
say nothing stand beside it, for what all words together are worth.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffusion_book._checks import at_least
from diffusion_book.conditions import take
from diffusion_book.data import Scenes, captions
from diffusion_book.data.captions import GROUNDS, OBJECTS, RELATIONS, SIZES, TINTS, Scene, Thing
from diffusion_book.losses import simple_loss
from diffusion_book.models import Model

NOISE = (0.5, 1.0, 2.0, 4.0, 8.0)
"""b/a: what a picture shows is decided at high noise, how it is drawn at low noise."""

Change = Callable[[Scene, torch.Generator], Scene | None]
"""One word of a caption exchanged; None where it does not say such a word."""


def _of_first(name: str, words: Sequence[str]) -> Change:
    def change(scene: Scene, generator: torch.Generator) -> Scene | None:
        first: Thing = scene.things[0]
        other = dataclasses.replace(first, **{name: _another(getattr(first, name), words, generator)})
        return dataclasses.replace(scene, things=(other, *scene.things[1:]))

    return change


def _ground(scene: Scene, generator: torch.Generator) -> Scene | None:
    return dataclasses.replace(scene, ground=_another(scene.ground, GROUNDS, generator))


def _relation(scene: Scene, generator: torch.Generator) -> Scene | None:
    """For its opposite, which is true of no picture of which it is."""
    if scene.relation is None:
        return None
    place = RELATIONS.index(scene.relation)
    return dataclasses.replace(scene, relation=RELATIONS[place ^ 1])


def _count(scene: Scene, generator: torch.Generator) -> Scene | None:
    """ "a red cat" for "two red cats", and back."""
    return dataclasses.replace(scene, count=3 - scene.count) if scene.relation is None else None


CHANGES: dict[str, Change] = {
    "count": _count,
    "object": _of_first("object", OBJECTS),
    "tint": _of_first("tint", TINTS),
    "size": _of_first("size", SIZES),
    "relation": _relation,
    "ground": _ground,
}
"""What is said wrongly, by the names that the judge's questions have."""


@torch.no_grad()
def heard(
    model: Model, count: int = 96, noise: Sequence[float] = NOISE, seed: int = 0, data: Scenes | None = None
) -> dict[str, dict[str, dict[str, float]]]:
    """The gap of each attribute at each level of noise, and its standard error over the pictures.

    Args:
        model: one that reads the captions of `scenes`.
        count: pictures; of an attribute those count whose captions say it.
        noise: levels b/a. seed: of noise and of wrong words, the same for every model.
        data: None for the test split.

    Returns:
        By attribute, those of `CHANGES` and "everything" for captions that say nothing; then by the level of noise.

    Raises:
        ValueError: the model reads no captions; or there are too few pictures.
    """
    at_least(2, count=count)
    if "tokens" not in model.conditioner.nothing:
        raise ValueError("what is heard can be asked of a model that reads captions, and may be told nothing")
    index = torch.arange(count)
    data = Scenes("test", model.known_shape[-1], count=10_000) if data is None else data
    x0, told = data.take(index)
    generator = torch.Generator().manual_seed(seed)
    wrong = _wrong([captions.read(one) for one in data.captions(index)], generator)
    eps = torch.randn(x0.shape, generator=generator)
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in wrong}
    for level in noise:
        t = model.schedule.time_at(-2 * math.log(level)).expand(count)
        right = _losses(model, x0, t, eps, told["tokens"])
        for name, (rows, tokens) in wrong.items():
            gap = _losses(model, x0[rows], t[rows], eps[rows], tokens) - right[rows]
            error = float(gap.std()) / math.sqrt(len(gap))
            found[name][f"{level:g}"] = {"gap": float(gap.mean()), "standard error": error}
    return found


def _wrong(scenes: Sequence[Scene], generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
    """By attribute: which of the captions say it, and these with the wrong word, as tokens."""
    found = {}
    for name, change in CHANGES.items():
        changed = [change(scene, generator) for scene in scenes]
        rows = torch.tensor([k for k, scene in enumerate(changed) if scene is not None], dtype=torch.int64)
        found[name] = rows, captions.encode([captions.write(scene) for scene in changed if scene is not None])
    found["everything"] = torch.arange(len(scenes)), captions.encode([""] * len(scenes))
    return {name: both for name, both in found.items() if len(both[0]) > 1}


TOGETHER = 32
"""Pictures at once, for memory."""


def _losses(model: Model, x0: Tensor, t: Tensor, eps: Tensor, tokens: Tensor) -> Tensor:
    device = next(model.network.parameters()).device
    parts = []
    for rows in torch.arange(len(x0)).split(TOGETHER):
        few = {name: values.to(device) for name, values in take({"tokens": tokens}, rows).items()}
        noisy = x0[rows].to(device), t[rows], eps[rows].to(device)
        parts.append(simple_loss(model.network, model.schedule, *noisy, model.prediction, few).cpu().double())
    return torch.cat(parts)


def _another(word: str | None, words: Sequence[str], generator: torch.Generator) -> str:
    others = [other for other in words if other != word]
    return others[int(torch.randint(len(others), (), generator=generator))]
