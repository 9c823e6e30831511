"""A model that draws: a trained network, and all that must be known to draw with it. Chapters 6, 8 and 12."""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from diffusion_book.conditions import Conditions, checked
from diffusion_book.data import DATASETS, describe
from diffusion_book.data.icons import CLASSES
from diffusion_book.denoise import Denoiser, from_network
from diffusion_book.guidance import autoguidance, classifier_free_batched, interval, threshold
from diffusion_book.models.card import Card
from diffusion_book.models.codec import PIXELS, Codec
from diffusion_book.models.conditioner import Captions, Conditioner, Labels, vocabulary_of
from diffusion_book.nn import TextUNetConfig
from diffusion_book.predictions import Prediction
from diffusion_book.schedules import Schedule
from diffusion_book.training import RunConfig


@dataclass(frozen=True)
class Guidance:
    """How far a model is pushed, where, and away from what. Chapter 8.

    Attributes:
        w: 1 is none, 0 leaves the condition out.
        interval: guide only where σ_low < σ ≤ σ_high; see `guidance.interval`.
        bad: push away from this worse model rather than from "no label"; see `guidance.autoguidance`.

    Raises:
        ValueError: w is no number of at least 0; or there is an interval or a bad model, and w = 1 asks for neither.
    """

    w: float = 1.0
    interval: tuple[float, float] = (0.0, math.inf)
    bad: "Model | None" = None

    def __post_init__(self) -> None:
        if not 0 <= self.w < math.inf:
            raise ValueError(f"guidance must be a number of at least 0, got {self.w}; 1 is none, 2 or 3 are usual")
        if self.w == 1 and self.bad is not None:
            raise ValueError("a guidance of 1 does not ask the bad model; give --guidance above 1, such as 2")
        if self.w == 1 and not self.everywhere:
            raise ValueError("an interval is of guidance; give --guidance above 1, such as 2")

    @property
    def everywhere(self) -> bool:
        """Whether it acts at every noise level."""
        return self.interval == (0, math.inf)

    @property
    def where(self) -> str:
        """The noise at which it acts, in words."""
        return "everywhere" if self.everywhere else f"where {self.interval[0]:g} < σ ≤ {self.interval[1]:g}"


@dataclass(frozen=True)
class Model:
    """A network that denoises, with what it was trained on and what it can be told.

    Attributes:
        network: called as network(x_t, t, **conditions); for evaluation, its weights frozen.
        schedule, prediction: what it was trained with.
        shape: (C, H, W) of the pictures; None where a file does not say.
        conditioner: from what a person wants to what the network is told.
        codec: between pictures and what the network denoises.
        card: how it was made; an empty one where nobody has said.
    """

    network: nn.Module
    schedule: Schedule
    prediction: Prediction
    shape: tuple[int, int, int] | None
    conditioner: Conditioner
    codec: Codec = PIXELS
    card: Card = field(default_factory=Card)

    @classmethod
    def of(
        cls,
        network: nn.Module,
        schedule: Schedule,
        prediction: Prediction,
        card: Card,
        size: int | None = None,
        codec: Codec = PIXELS,
    ) -> "Model":
        """A network of this library with its card, which knows the side of the pictures where `size` is not said.

        Args:
            codec: between pictures and what the network denoises.

        Raises:
            ValueError: the size does not fit the network, or the network not the codec.
        """
        config: Any = network.config
        recipe = card.recipe
        dropped = recipe is None or recipe.denoising.condition_dropout > 0
        names = _class_names(recipe) if recipe else ()
        conditioner: Conditioner = Labels(config.classes, dropped and getattr(config, "no_label", True), names)
        if isinstance(config, TextUNetConfig):
            conditioner = Captions(dropped, vocabulary=vocabulary_of(config))
        side = size or (recipe and _side(recipe))
        least = getattr(config, "stride", 1)
        channels, stride, _ = codec.pictures((config.image_channels, least, least))
        if side and side % stride:
            raise ValueError(f"size = {side} does not fit this network, which needs a multiple of {stride}")
        shape = (channels, side, side) if side else None
        return cls(network, schedule, prediction, shape, conditioner, codec, card)

    @property
    def known_shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of the pictures.

        Raises:
            ValueError: a file did not say, and neither did who loaded it.
        """
        if self.shape is None:
            raise ValueError(
                "this file does not say how large its images are; give their side in pixels, such as --size 32"
            )
        return self.shape

    @property
    def recommended(self) -> Guidance:
        """The guidance that its card found best for a class; none, where the card does not say."""
        best = self.card.best_guidance
        return Guidance(*best) if best else Guidance()

    def denoiser(
        self, conditions: Conditions | None = None, guidance: Guidance | float = 1.0, clip: bool = True
    ) -> Denoiser:
        """x̂0 of x_t and t (chapter 6), guided (chapter 8).

        Args:
            conditions: what the network is told, [B, …] each, such as {"y": y}; {} or None for anything.
            guidance: a number w, 1 for none; or a `Guidance` that also says where, or away from which worse model.
            clip: cut x̂0 to the range of the data, which is right for all but the densities of an ODE.

        Raises:
            ValueError: nothing is said to a network that never learned to be told nothing, be it to draw or to be
                guided; or guidance is away from a model of another schedule.
        """
        told = checked(conditions)
        how = guidance if isinstance(guidance, Guidance) else Guidance(guidance)
        plain = self._plain(told, clip)
        if how.w == 1:
            return plain
        guided = self._away_from_nothing(told, how.w) if how.bad is None else self._away_from(how.bad, told, how.w)
        if clip and self.codec.x0_max is not None:
            guided = threshold(guided, self.codec.x0_max)
        return guided if how.everywhere else interval(guided, plain, self.schedule, *how.interval)

    def _plain(self, told: Conditions, clip: bool) -> Denoiser:
        if not told:
            self.conditioner.check_silence()
        return from_network(self.network, self.schedule, self.prediction, told, self.codec.x0_max if clip else None)

    def _away_from_nothing(self, told: Conditions, w: float) -> Denoiser:
        """Classifier-free guidance, which needs a network that was also trained without conditions."""
        if not told:
            raise ValueError(f"guidance needs labels: got w = {w} and no y")
        nothing = self.conditioner.nothing
        if not nothing:
            raise ValueError(
                "guidance needs a network that was also trained without labels (condition_dropout above 0)"
            )
        untold = {name: _for_each(nothing[name], values) for name, values in told.items()}
        return classifier_free_batched(self.network, self.schedule, self.prediction, told, untold, w)

    def _away_from(self, bad: "Model", told: Conditions, w: float) -> Denoiser:
        if repr(self.schedule) != repr(bad.schedule):
            raise ValueError(f"both models must denoise on one schedule, got {self.schedule!r} and {bad.schedule!r}")
        return autoguidance(self._plain(told, clip=False), bad._plain(told, clip=False), w)


def _side(recipe: RunConfig) -> int | None:
    """Of the images that a recipe names; a folder's, where it does not say, nobody knows."""
    return recipe.size or (describe(recipe.data).size if recipe.data in DATASETS else None)


def _class_names(recipe: RunConfig) -> tuple[str, ...]:
    return CLASSES if recipe.data == "icons" else recipe.class_names


def _for_each(nothing: Tensor, values: Tensor) -> Tensor:
    return nothing.to(values).expand_as(values)
