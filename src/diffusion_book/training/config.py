"""What a run is made of, as a file that a person can read (chapter 11).

A configuration is TOML, YAML or JSON. What it leaves out has the defaults of `RunConfig`; a key that is none of its
fields is an error that names the nearest one.
"""

import codecs
import dataclasses
import itertools
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from diffusion_book._checks import at_least, one_of
from diffusion_book._files import expanded, once
from diffusion_book.data import Examples, captions, load
from diffusion_book.nn.build import build, check_fields, configure
from diffusion_book.training import objectives
from diffusion_book.training.loop import TrainConfig
from diffusion_book.training.objectives import DenoisingConfig, Objective

FLAT = {
    "schedule": "cosine",
    "T": None,
    "prediction": "v",
    "times": "uniform",
    "weight": "none",
    "condition_dropout": 0.0,
    "jitter": 1.0,
}
"""Options of objectives that the first configurations have beside all others, and not in a table; their defaults."""

READERS = ("text-unet", "clip")
"""Kinds of networks that read captions."""


@dataclass(frozen=True)
class RunConfig(TrainConfig):
    """All that `TrainConfig` says, and what a run that lives in a folder needs besides.

    Attributes:
        data: a name that `data.load` knows. size: side of a folder's images, in pixels.
        skip_broken: leave out a folder's files that cannot be read, and say so.
        labels: "folders" takes a folder's classes from its subfolders, "captions" its captions from texts beside the
            pictures or from metadata.csv; see `data.load`.
        class_names: what these are called, label by label. Whoever begins a run need not say: `train` fills it in.
        network: "kind" (one of `nn.build.KINDS`), "size" (one of its named sizes) and any of the fields of its
            configuration, such as {"kind": "unet", "size": "digits", "channels": 64}. Channels and classes follow
            from the data where they are not said; classes = 0 trains without labels.
        objective: "kind" (one of `training.objectives.OBJECTIVES`; where it is not said, "classification" for a
            classifier, "autoencoding" for an autoencoder, "contrastive" for a clip and else "denoising") and any of
            the fields of its configuration, such as {"kind": "denoising", "schedule": "linear"}; see
            `DenoisingConfig`, `Classification` and `AutoencodingConfig`.
        accumulate: parts into which each process cuts its share of a batch, one after the other, to save memory.
        decay: of the learning rate after the warm-up: "cosine" to zero, or "none".
        log_every, preview_every, checkpoint_every: steps between two lines of the log, two pictures, two checkpoints;
            a preview every 0 steps is none.
        keep: how many of the newest checkpoints stay. keep_steps: of these steps they stay for good.
        held_out: pictures that the run does not train on, whose loss is measured: "folder:PATH", with the same
            subfolders where these are the classes; or a named set, of which the test split is taken.
        held_out_every: steps between two measurements; at the last step there always is one.
        codec: what a person calls an autoencoder, for `models.trainer_of`: its latents of the pictures are trained on.
        start_from: what a person calls a trained model, for `models.trainer_of`: its weights are where this run begins.
        cycles: steps at which the learning rate has fallen and begins anew, its warm-up too, from the averaged weights.
            Nobody need say it: a run that goes on with more steps than it was begun with adds its old end.
    """

    data: str = "mnist-5k"
    size: int | None = None
    skip_broken: bool = False
    labels: Literal["folders", "captions"] | None = None
    class_names: tuple[str, ...] = ()
    network: Mapping[str, Any] = field(default_factory=lambda: {"kind": "unet", "size": "digits"})
    objective: Mapping[str, Any] = field(default_factory=dict)
    accumulate: int = 1
    decay: Literal["cosine", "none"] = "cosine"
    log_every: int = 100
    preview_every: int = 1000
    checkpoint_every: int = 1000
    keep: int = 2
    keep_steps: tuple[int, ...] = ()
    held_out: str | None = None
    held_out_every: int = 250
    codec: str | None = None
    start_from: str | None = None
    cycles: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, accumulate=self.accumulate, log_every=self.log_every)
        at_least(1, checkpoint_every=self.checkpoint_every, keep=self.keep, held_out_every=self.held_out_every)
        at_least(0, preview_every=self.preview_every)
        for step in self.keep_steps:
            if not (isinstance(step, Integral) and 1 <= step <= self.steps):
                raise ValueError(
                    f"keep_steps must be steps of the run, 1 to steps = {self.steps}, got {step}; "
                    "its checkpoint would never be written"
                )
        if any(start >= end for start, end in itertools.pairwise((0, *self.cycles, self.steps))):
            raise ValueError(f"cycles must rise, from above 0 to below steps = {self.steps}, got {tuple(self.cycles)}")
        one_of("decay", self.decay, ("cosine", "none"))
        if self.flip and self.data == "scenes":
            raise ValueError("flip turns left into right, which the captions of scenes say; leave flip out")
        if self.flip and self.codec:
            raise ValueError("a latent's mirror image is not that of its picture; leave flip or codec out")
        # Of captions nobody need say anything before the data is there.
        found = {"vocabulary": 1, "length": 1} if self.network.get("kind") in READERS else {}
        configure({**found, **self.network})
        kind = _kind(self.network, self.objective)
        configured = objectives.configure({**self.objective, "kind": kind})
        of = self.network["kind"]
        if kind not in _trained_for(of):
            raise ValueError(
                f"a network of kind {of!r} cannot be trained for {kind}; change network.kind or objective.kind"
            )
        if self.codec and kind != "denoising":
            raise ValueError(f"latents can be denoised, and this run trains for {kind}; leave codec out")
        if of == "classifier" and self.network.get("timed", False) != (kind == "noisy-classification"):
            raise ValueError(f"a classifier is told the time where it sees noise: for {kind} change network.timed")
        object.__setattr__(self, "network", dict(self.network))
        object.__setattr__(self, "objective", {"kind": kind, **vars(configured)})
        object.__setattr__(self, "keep_steps", tuple(self.keep_steps))
        object.__setattr__(self, "class_names", tuple(self.class_names))
        object.__setattr__(self, "cycles", tuple(self.cycles))

    def cycle(self, step: int) -> range:
        """The steps, counted from 0, of the learning rate's cycle that this one belongs to."""
        for start, end in itertools.pairwise((0, *self.cycles)):
            if step < end:
                return range(start, end)
        return range((0, *self.cycles)[-1], self.steps)

    def longer(self, steps: int) -> "RunConfig":
        """The configuration of the same run, trained to this step, where that is more.

        A learning rate that stays where it is goes on; one that falls is zero at the old end, and so begins anew there.
        """
        if steps <= self.steps:
            return self
        cycles = self.cycles if self.decay == "none" else (*self.cycles, self.steps)
        return dataclasses.replace(self, steps=steps, cycles=cycles)

    @property
    def denoises(self) -> bool:
        """Whether this trains a denoiser."""
        return bool(self.objective["kind"] == "denoising")

    @property
    def denoising(self) -> DenoisingConfig:
        """How it trains a denoiser.

        Raises:
            ValueError: it trains something else.
        """
        configured = objectives.configure(self.objective)
        if not isinstance(configured, DenoisingConfig):
            raise ValueError(f"this run trains no denoiser: its objective is {self.objective['kind']}")
        return configured

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the configuration") -> "RunConfig":
        """Check names and types, so that a typing error is told before anything runs.

        Raises:
            ValueError: an unknown key, with the nearest known one; or a value of another type.
        """
        known = grouped(values)
        if known != values:
            known["objective"] = _without_idle(known.get("network"), known["objective"])
        check_fields(known, cls, source)
        return cls(**known)

    @classmethod
    def from_file(cls, path: Path | str) -> "RunConfig":
        """Read a .toml, .yaml, .yml or .json file, in UTF-8 or, as Windows writes it, UTF-16.

        Raises:
            ValueError: the file is not there or cannot be parsed, a key stands there twice, or a number in YAML means
                two things; and what `from_dict` raises.
        """
        path = expanded(path)
        return cls.from_dict(_parse(path), str(path))

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it, with lists for tuples: `from_dict` gives the configuration back."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return values


def grouped(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """The same values, with those in the table of the objective that the first configurations have beside it.

    Raises:
        ValueError: one stands in both places.
    """
    flat = {name: value for name, value in values.items() if name in FLAT}
    table = values.get("objective", {})
    if not flat or not isinstance(table, Mapping):
        return dict(values)
    for name in flat:
        if name in table:
            raise ValueError(f"{name} stands in the table [objective] and beside it; take one out")
    return {**{name: value for name, value in values.items() if name not in FLAT}, "objective": {**flat, **table}}


def _without_idle(network: Any, objective: Mapping[str, Any]) -> dict[str, Any]:
    """The first configurations say the options of every kind: those of another, at their defaults, say nothing."""
    kind = _kind(network if isinstance(network, Mapping) else {}, objective)
    of = objectives.OBJECTIVES.get(str(kind))
    own = {option.name for option in dataclasses.fields(of)} if of else set()
    said = {name: value for name, value in FLAT.items() if name not in own}
    return {name: value for name, value in objective.items() if name not in said or value != said[name]}


def _kind(network: Mapping[str, Any], objective: Mapping[str, Any]) -> Any:
    """The objective's kind, where it is not said that which the network is for."""
    return objective.get("kind", _trained_for(network.get("kind"))[0])


def _trained_for(network: Any) -> tuple[str, ...]:
    """The objectives that a kind of network can have, the usual one first."""
    others = {
        "classifier": ("classification", "noisy-classification"),
        "autoencoder": ("autoencoding",),
        "clip": ("contrastive",),
    }
    return others.get(str(network), ("denoising",))


def build_network(config: RunConfig, data: Examples) -> nn.Module:
    """The network that a configuration names, with fresh weights; the data gives channels and classes left unsaid.

    Raises:
        ValueError: the network has fewer classes than the data, or classes of which the data has no labels.
    """
    described = dict(config.network)
    described.setdefault("image_channels", data.shape[0])
    if config.network["kind"] == "autoencoder":  # it is told nothing
        return build(described)
    if data.classes:
        described.setdefault("classes", data.classes)
    _check_classes(config, described.get("classes", 0), data.classes)
    if described["kind"] in READERS:
        described = {**words_of(config, data), **described}
        _check_words(config, described, data)
    return build(described)


def build_objective(config: RunConfig, network: nn.Module) -> Objective:
    """What the configuration minimises."""
    return objectives.configure(config.objective).build(network)


def _check_classes(config: RunConfig, classes: int, labels: int) -> None:
    """`classes` of the network beside those of the data: with fewer, a label would be taken for "no label"."""
    if classes and not labels and config.denoises:
        raise ValueError(
            f"{config.data} has no labels, so the network would learn nothing of its {classes} classes: leave "
            "network.classes out, or set it to 0"
        )
    if labels > classes and (classes or not config.denoises):
        raise ValueError(
            f"network.classes = {classes} is too few for the labels 0 … {labels - 1} of {config.data}: leave it out, "
            + ("or set it to 0 to train without labels" if config.denoises else f"or set it to {labels}")
        )
    dropout = config.denoises and config.denoising.condition_dropout
    if classes and dropout and not config.network.get("no_label", True):
        raise ValueError(
            "condition_dropout needs a network that can be told nothing: leave network.no_label or the dropout out"
        )


def words_of(config: RunConfig, data: Examples) -> dict[str, Any]:
    """What a network that reads is told of the captions of its data.

    Raises:
        ValueError: there are none.
    """
    if "tokens" not in data.take(torch.tensor([0], device="cpu"))[1]:
        kind = config.network["kind"]
        raise ValueError(
            f"{config.data} has no captions for a network of kind {kind!r}; take data = 'scenes', or of a folder that "
            "has some labels = 'captions'"
        )
    words = getattr(data, "vocabulary", None)
    if words is None:
        return {"vocabulary": len(captions.WORDS), "length": captions.LONGEST}
    return {"vocabulary": len(words.words), "length": words.length, "words": list(words.words)}


def _check_words(config: RunConfig, described: Mapping[str, Any], data: Examples) -> None:
    """A network that reads, beside what there is to read."""
    found = words_of(config, data)
    V, L = found["vocabulary"], found["length"]
    if (described["vocabulary"], described["length"]) != (V, L):
        raise ValueError(
            f"captions of {config.data} are of vocabulary = {V} and length = {L}, got {described['vocabulary']} and "
            f"{described['length']}"
        )
    if list(described.get("words", ())) != found.get("words", []):
        raise ValueError(f"the words of {config.data} are others than network.words, which it was begun with")


def build_data(config: RunConfig) -> Examples:
    """What a configuration trains on."""
    if config.data == "scenes":
        return load("scenes", size=config.size)
    return load(config.data, size=config.size, skip_broken=config.skip_broken, labels=config.labels)


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if wide else "utf-8-sig")  # without the mark that some editors begin with
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error})") from error
    try:
        match path.suffix.lower():
            case ".toml":
                values: object = tomllib.loads(text)
            case ".yaml" | ".yml":
                values = _parse_yaml(text)
            case ".json":
                values = json.loads(text, object_pairs_hook=once)
            case other:
                raise ValueError(f"a configuration is .toml, .yaml or .json, not {other!r}")
    except Exception as error:  # each parser has its own
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected names and values, got {type(values).__name__}")
    return values


def _parse_yaml(text: str) -> object:
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML 1.1 takes 1e-3 for a text, since it has no dot; everyone else, YAML 1.2 too, for a number."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            own = (pair for pair in node.value if pair[0].tag != "tag:yaml.org,2002:merge")
            once([self.construct_object(part, True) for part in pair] for pair in own)
            return super().construct_mapping(node, deep)

        def construct_number(self, node: Any) -> int | float:
            if re.match(r"[-+]?0[0-7_]+$|.*:", node.value):  # octal, or of base 60, and in YAML 1.2 neither
                raise ValueError(f"{node.value} means one number in YAML 1.1 and another in 1.2; write it in full")
            is_int = node.tag.endswith(":int")
            return self.construct_yaml_int(node) if is_int else self.construct_yaml_float(node)

    for tag in ("int", "float"):
        Loader.add_constructor(f"tag:yaml.org,2002:{tag}", Loader.construct_number)
    number = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return yaml.load(text, Loader)  # a SafeLoader: it makes nothing but plain values
