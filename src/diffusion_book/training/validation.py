"""The loss on pictures that a run does not train on: the curve that turns when a model begins to copy (chapter 11).

It is measured with the averaged weights, on the same pictures, times and noise every time, so that what changes from
one measurement to the next is the network alone. The draw has a generator of its own: who measures trains the same.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffusion_book.data import Examples, Images, load
from diffusion_book.training.config import RunConfig
from diffusion_book.training.objectives import Batch, Objective, to_device
from diffusion_book.training.order import seed_of

MOST = 1024
"""Of a larger set, so many pictures are measured, always the same."""

DRAWS = 512
"""Pictures of a smaller set are taken several times, each time with another time and noise, until it is so many."""

TOGETHER = 64
"""Draws whose times share out their distribution."""

RANGES = 16
"""Of time, in which losses are compared with each other for the standard error."""


@dataclass(frozen=True)
class HeldOut:
    """Pictures to measure on, and the seed of the one draw."""

    data: Examples
    objective: Objective
    seed: int

    def loss(self, network: nn.Module, piece: int, device: torch.device) -> tuple[float, float]:
        """The mean loss of a network that is ready for evaluation, and its standard error.

        Args:
            piece: pictures at once; changes memory, not what is drawn.
        """
        generator = torch.Generator().manual_seed(seed_of(self.seed, "held out"))
        n = min(len(self.data), MOST)
        index = torch.randperm(len(self.data), generator=generator, device="cpu")[:n].repeat(-(-DRAWS // n))
        losses, times = [], []
        for some in index.split(TOGETHER):
            batch = self.objective.draw_held_out(*self.data.take(some), generator)
            losses.append(self._losses(network, batch, piece, device))
            times.append(batch.get("t", torch.zeros(len(some), device="cpu")))
        found = torch.cat(losses)
        return float(found.mean()), standard_error(found, torch.cat(times), n)

    @torch.no_grad()
    def _losses(self, network: nn.Module, batch: Batch, piece: int, device: torch.device) -> Tensor:
        B = len(batch["x0"])
        pieces = ({name: v[start : start + piece] for name, v in batch.items()} for start in range(0, B, piece))
        return torch.cat([self.objective.loss(network, to_device(part, device)).cpu().double() for part in pieces])


def standard_error(losses: Tensor, t: Tensor, n: int) -> float:
    """Of the mean of losses [k·n], of which number i is of picture i mod n: the chance in pictures, noise and times.

    Times lie evenly and are no part of the chance, so from each loss the mean of its range of times is taken away. What
    then is left of the k losses of one picture belongs together.
    """
    order = t.argsort(stable=True)
    left = torch.empty_like(losses)
    for some in order.tensor_split(min(RANGES, max(1, len(t) // 4))):
        left[some] = losses[some] - losses[some].mean()
    of_picture = left.view(-1, n).mean(0)
    return float(of_picture.square().sum().sqrt() / n)


def build_held_out(config: RunConfig, data: Examples) -> Examples | None:
    """The held-out pictures that a configuration names, with the labels that the training pictures have.

    Raises:
        ValueError: they cannot be loaded, are of another shape, have no labels where those that are trained on have, or
            are of a class that these do not have.

    Warns:
        UserWarning: some are trained on as well.
    """
    if config.held_out is None:
        return None
    held_out: Examples
    if config.held_out == "scenes":
        held_out = load("scenes", "test", data.shape[-1])
    elif config.held_out.startswith("folder:"):
        held_out = load(config.held_out, size=data.shape[-1], skip_broken=config.skip_broken, labels=config.labels)
    else:
        held_out = load(config.held_out, "test")
    if held_out.shape != data.shape or _told(held_out) != _told(data):
        raise ValueError(
            f"the held-out pictures of {config.held_out} are {_spoken(held_out)}, those to train on {_spoken(data)}; "
            "take them from the same set, such as by `diffusion-book data split`"
        )
    if not isinstance(data, Images) or not isinstance(held_out, Images):
        return held_out
    _warn_of_copies(held_out, data)
    return _said_alike(_named_alike(held_out, data.class_names), data)


def _named_alike(held_out: Images, names: tuple[str, ...]) -> Images:
    """A folder that lacks a class counts the later ones from another number: they are told by their names."""
    if held_out.class_names == names:
        return held_out
    for name in held_out.class_names:
        if name not in names:
            raise ValueError(
                f"{held_out.name} has a subfolder {name!r}, which is no class to train on ({', '.join(names)}); "
                "take it out, or rename it"
            )
    numbers = torch.tensor([names.index(name) for name in held_out.class_names])
    return Images(held_out.x, {"y": numbers[held_out.conditions["y"]]}, held_out.name, names)


def _said_alike(held_out: Images, data: Images) -> Images:
    """Captions with the numbers that their words have in training; a word that it has not is taken for the nearest."""
    if held_out.vocabulary is None or data.vocabulary is None:
        return held_out
    said = held_out.vocabulary.decode(held_out.conditions["tokens"])
    tokens = data.vocabulary.encode(said, nearest=True)
    return Images(held_out.x, {"tokens": tokens}, held_out.name, vocabulary=data.vocabulary)


def _warn_of_copies(held_out: Images, data: Images) -> None:
    known = {hash(x.numpy().tobytes()) for x in data.x}
    twice = sum(hash(x.numpy().tobytes()) in known for x in held_out.x)
    if twice:
        warnings.warn(
            f"{twice} of {len(held_out)} held-out pictures are also trained on, so their loss shows no copying; "
            "`diffusion-book data split` keeps such pictures on one side",
            stacklevel=3,
        )


def _told(data: Examples) -> set[str]:
    """By which names something is known of each."""
    return {*data.take(torch.tensor([0], device="cpu"))[1]}


def _spoken(data: Examples) -> str:
    told = ", ".join(data.take(torch.tensor([0], device="cpu"))[1])
    return f"{'×'.join(map(str, data.shape))} with {told or 'no labels'}"
