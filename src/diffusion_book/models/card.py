"""A model's card: how its weights were made, on what, and what was measured; JSON beside them. Chapter 12."""

import dataclasses
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from diffusion_book._files import write_whole
from diffusion_book.training import RunConfig

GUIDANCE = "guidance by distance to training digits"


@dataclass(frozen=True)
class Card:
    """What is known of a model; what nobody has said is None or empty.

    Attributes:
        name: of the model. command: that made it.
        licence: of the weights. source: where its training data come from, and on what terms.
        use: what it is for, and what not.
        sha256: of the file of weights. weights_sha256: of the weights as they are loaded, whatever file they are in.
        recipe: the configuration of its training. seed: of every random number in it.
        step: of the optimiser, at which the weights were taken. images_seen: until then.
        wall_time: of the training, in seconds. hardware, versions: on what.
        metrics: what was measured, by the names that the numbers have.
        studies: what else was found, by benchmarks, each under its title.
    """

    name: str = ""
    sha256: str = ""
    command: str = ""
    recipe: RunConfig | None = None
    seed: int | None = None
    step: int | None = None
    images_seen: int | None = None
    wall_time: float | None = None
    hardware: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""
    studies: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    source: str = ""
    use: str = ""

    @property
    def accuracy(self) -> float | None:
        """Of a classifier, on images that it has not seen."""
        return self.metrics.get("accuracy")

    @property
    def best_guidance(self) -> tuple[float, tuple[float, float]] | None:
        """The strength w and the interval of σ that were found best for a class."""
        best = self.studies.get(GUIDANCE, {}).get("best")
        return best and (best["w"], (best["interval"][0], best["interval"][1]))

    @classmethod
    def from_json(cls, text: str) -> "Card":
        """The inverse of `to_json`.

        Raises:
            ValueError: it is no JSON, or its recipe is none that this version understands.
        """
        values = dict(json.loads(text))
        known = {f.name for f in dataclasses.fields(cls)} - {"studies"}
        studies = {name: values.pop(name) for name in list(values) if name not in known}
        if "recipe" in values:
            values["recipe"] = RunConfig.from_dict(values["recipe"], "the recipe of the card")
        return cls(**values, studies=studies)

    def to_json(self) -> str:
        """What is known, as text; each study stands under its own name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "studies"}
        if self.recipe is not None:
            values["recipe"] = self.recipe.to_dict()
        known = {name: value for name, value in values.items() if value is not None and value not in ("", {})}
        return json.dumps({**known, **self.studies}, indent=1) + "\n"

    @classmethod
    def beside(cls, weights: Path) -> "Card":
        """The card of a file of weights, which must say whose it is; an empty one where there is none.

        Raises:
            ValueError: what lies there cannot be read, or is no card.
        """
        path = weights.with_suffix(".json")
        if not path.exists():
            return cls()
        try:
            text = path.read_text(encoding="utf-8")
            values = json.loads(text)
            if not isinstance(values, dict) or not isinstance(values.get("sha256"), str):
                raise ValueError(f"{path} is no card of {weights.name}: it has no sha256; replace or remove it")
            return cls.from_json(text)
        except (OSError, ValueError, TypeError) as error:
            if "is no card of" in str(error):
                raise
            raise ValueError(f"{path}, the card of {weights.name}, cannot be read ({error}); mend it") from error

    def write(self, weights: Path) -> None:
        """Put it beside its weights, whole or as it was."""
        write_whole(weights.with_suffix(".json"), self.to_json().encode())


def hardware(device: torch.device) -> dict[str, Any]:
    """What computes: the processor, the threads it uses, and the GPU where there is one."""
    found = {"cpu": _processor(), "threads": torch.get_num_threads()}
    return found if device.type != "cuda" else {"gpu": torch.cuda.get_device_name(device), **found}


def threads_in_words(count: int) -> str:
    """1 thread, 2 threads."""
    return "1 thread" if count == 1 else f"{count} threads"


def versions() -> dict[str, str]:
    """Of what decides about the numbers."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusion_book": version("diffusion-book"),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()
