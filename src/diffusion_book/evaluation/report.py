"""One report that holds everything a number needs to be believed. Chapter 12.

Every measure stands beside what real images get in the same way, with the same number of them; beside yardsticks that
anybody can picture; and beside the nearest training images, since copies win every comparison of sets.
`viz.show_report` draws it.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion_book._files import write_whole
from diffusion_book.evaluation.accuracy import Scores
from diffusion_book.evaluation.neighbours import Memorisation
from diffusion_book.evaluation.words import markdown


@dataclass(frozen=True)
class Origin:
    """How samples were made; whoever draws them knows, and the report cannot.

    Attributes:
        model: its name and hash, or what else finds it again.
        sampler: and its options. nfe: evaluations of the network for one sample, both of guidance counted.
        guidance: w, 1 for none. seed: of the noise.
        notes: precision, hardware, date: what else should be said.
    """

    model: str
    sampler: str
    nfe: int
    guidance: float
    seed: int
    notes: str = ""


@dataclass(frozen=True)
class Measure:
    """A number, and the same for real images.

    Attributes:
        name: what it may be called. value: of the samples.
        real: of real images in the place of samples, for each seed.
        n: how many samples it is of. n_reference: against how many real images.
        n_real_reference: against how many the real images were measured; fewer where there are no more.
        interval: of value, 95 %, where one can be had.
        lower_is_better: for distances; shares are the other way.
    """

    name: str
    value: float
    real: Scores
    n: int
    n_reference: int
    n_real_reference: int
    interval: tuple[float, float] | None = None
    lower_is_better: bool = False


@dataclass(frozen=True)
class Yardstick:
    """The Fréchet distance that held-out images get with Gaussian noise of this standard deviation.

    Attributes:
        noise: on the scale of [−1, 1]; the noisy images are cut to that range, as samples are. 0 for none.
        value: measured against the same reference as the samples. n: how many images.
    """

    noise: float
    value: float
    n: int


@dataclass(frozen=True)
class Pictures:
    """Some samples [M, C, H, W], and the nearest training image of each, by pixels and by features."""

    samples: Tensor
    by_pixels: Tensor
    by_features: Tensor


@dataclass(frozen=True)
class Report:
    """What `evaluate` found; see there.

    Attributes:
        name: of the first measure, the Fréchet distance.
        origin: of the samples. n: how many.
        measures: the first is the Fréchet distance.
        yardsticks: the same distance of images that anybody can picture.
        memorisation: by "features" and by "pixels". memorisation_n: how many samples each is of.
        accuracy_score: of classifiers that were trained on "samples" and on as many "real" images; None without labels.
        extractor, reference, held_out: what identifies them.
        seeds: of the real-against-real splits, and of the classifiers. versions: of the software.
    """

    name: str
    n: int
    origin: Origin
    measures: tuple[Measure, ...]
    yardsticks: tuple[Yardstick, ...]
    memorisation: dict[str, Memorisation]
    memorisation_n: dict[str, int]
    accuracy_score: dict[str, Scores] | None
    extractor: dict[str, Any]
    reference: dict[str, Any]
    held_out: dict[str, Any]
    seeds: tuple[int, ...]
    versions: dict[str, str]
    pictures: Pictures = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """All but the pictures, as names, numbers and lists."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "pictures"}
        plain: dict[str, Any] = _plain(values)
        return plain

    def to_json(self, path: Path | str | None = None) -> str:
        """`to_dict` as JSON; written to a file where a path is given."""
        return _written(json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n", path)

    def to_markdown(self, path: Path | str | None = None) -> str:
        """For people; written to a file where a path is given."""
        return _written(markdown(self), path)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _written(text: str, path: Path | str | None) -> str:
    if path is not None:
        write_whole(Path(path), text.encode())
    return text
