"""A small network that reads scenes, trained on blurred and noisy ones: a second opinion beside the judge. Chapter 9.

    reader = train()
    verdicts = judge(x, said, look=functools.partial(look, reader))

The judge of `judge` asks whether the sprites themselves are there; this one has learnt what they look like. Where both
find the same share of pictures right, neither is fooled by something that only it looks at.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_book._checks import at_least
from diffusion_book.data import Scenes, captions, scenes
from diffusion_book.data.images import check_range
from diffusion_book.evaluation.judge import SIDE, Reading, Seen
from diffusion_book.nn import Classifier, ClassifierConfig

ARRANGED = ("one", "across", "down")
"""How many objects there are, and along which axis two of them stand."""
QUESTIONS: dict[str, int] = {
    "arranged": len(ARRANGED),
    "ground": len(captions.GROUNDS),
    **{f"{what}{j}": n for j in (0, 1) for what, n in (
        ("object", len(scenes.ALL_OBJECTS)), ("tint", len(scenes.ALL_TINTS)), ("size", len(captions.SIZES))
    )},
}  # fmt: skip
"""What the network answers, and among how many answers: of two objects first of the left or upper one."""
SPLITS: tuple[scenes.Split, ...] = ("train", "train", "pairs", "objects", "tints")
"""Where it learns from, in turn: it must know also what a painter has never seen."""
BLUR, NOISE = 1.0, 0.1
"""The most, as standard deviations: in pixels, and of pictures in [−1, 1]."""


def network() -> Classifier:
    """With fresh weights: one classifier that answers all questions at once."""
    return Classifier(ClassifierConfig(image_channels=3, channels=16, features=256, classes=sum(QUESTIONS.values())))


def train(steps: int = 2500, batch_size: int = 64, learning_rate: float = 3e-3, seed: int = 0) -> Classifier:
    """A reader, ready to `look`: AdamW, with a learning rate that falls to zero.

    The global generator is as it was afterwards.
    """
    at_least(1, steps=steps, batch_size=batch_size)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        reader = network()
    optimiser = torch.optim.AdamW(reader.parameters(), learning_rate)
    fall = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps)
    sets = [Scenes(split, seed=seed + 1) for split in SPLITS]
    for step in range(steps):
        data = sets[step % len(sets)]
        index = torch.arange(step * batch_size, (step + 1) * batch_size) % len(data)
        layout = data.layout(index)
        loss = error(reader(spoilt(data.take(index)[0], generator)), answers(layout))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        fall.step()
    return reader.eval().requires_grad_(False)


def spoilt(x: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures blurred by one Gaussian, of a width up to `BLUR`, and each with noise of a strength up to `NOISE`."""
    width = BLUR * float(torch.rand((), generator=generator)) + 1e-3
    line = (-0.5 * (torch.arange(-3, 4) / width) ** 2).exp()
    kernel = (line[:, None] * line / line.sum() ** 2).expand(x.shape[1], 1, 7, 7)
    blurred = F.conv2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), kernel, groups=x.shape[1])
    strength = NOISE * torch.rand(len(x), 1, 1, 1, generator=generator)
    return (blurred + strength * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


def answers(layout: scenes.Layout) -> dict[str, Tensor]:
    """The right ones [K] to each of `QUESTIONS`; −1 where there is no second object."""
    relation = torch.from_numpy(layout.relation)
    found = {"arranged": torch.where(relation < 0, 0, 1 + relation // 2), "ground": torch.from_numpy(layout.ground)}
    first = (relation >= 0).long() * relation % 2  # right of, below: the second stands first
    for what, values in (("object", layout.objects), ("tint", layout.tints), ("size", layout.sizes)):
        both = torch.from_numpy(values)
        found[f"{what}0"], found[f"{what}1"] = (both.gather(1, k[:, None])[:, 0] for k in (first, 1 - first))
    return found


def error(logits: Tensor, right: dict[str, Tensor]) -> Tensor:
    """The mean cross-entropy of the questions that a picture asks."""
    return torch.stack(
        [F.cross_entropy(part, right[name], ignore_index=scenes.NOTHING) for name, part in _parts(logits).items()]
    ).mean()


def _parts(logits: Tensor) -> dict[str, Tensor]:
    return dict(zip(QUESTIONS, logits.split(list(QUESTIONS.values()), dim=1)))


@torch.no_grad()
def look(reader: nn.Module, x: Tensor) -> list[Reading]:
    """What the network sees in pictures [K, 3, H, W] in [−1, 1]. Places are only said as far as relations need them."""
    check_range(x)
    small = F.interpolate(x.detach().float(), (SIDE, SIDE), mode="area")
    told = {name: part.argmax(1).tolist() for name, part in _parts(reader(small)).items()}
    readings = []
    for k in range(len(x)):
        arranged = ARRANGED[told["arranged"][k]]
        seen = []
        for j in (0,) if arranged == "one" else (0, 1):
            what, tint, size = (told[f"{name}{j}"][k] for name in ("object", "tint", "size"))
            thing = captions.Thing(scenes.ALL_OBJECTS[what], scenes.ALL_TINTS[tint], captions.SIZES[size])
            place = SIDE * (2 * j + 1) / 4
            seen.append(Seen(thing, *((place, SIDE / 2) if arranged == "across" else (SIDE / 2, place))))
        readings.append(Reading(tuple(seen), captions.GROUNDS[told["ground"][k]]))
    return readings
