"""What a person wants, as what a network is told: a class becomes {"y": …}, a caption {"tokens": …}. Chapters 8, 9."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

import torch
from torch import Tensor

from diffusion_book._names import check_known
from diffusion_book.conditions import Conditions
from diffusion_book.data import Vocabulary, captions
from diffusion_book.data.text import BytePairs
from diffusion_book.nn import ClipConfig, TextEncoder, TextUNetConfig

ALWAYS_TOLD = "(it was trained with one for every picture, condition_dropout = 0, and never learned to draw without)"

Wanted = int | str | Sequence[int | str] | Tensor | None
"""One class for all pictures, by its number or name, or one caption; several, which come in turn; or None, for
anything."""


class Conditioner(Protocol):
    """Knows what a network can be told, and how to say it."""

    @property
    def nothing(self) -> Conditions:
        """What one example is told that wants nothing; empty where the network never learned to be told nothing."""
        ...

    def conditions(self, wanted: Wanted, count: int) -> Conditions:
        """What the network is told for so many pictures, [count, …] each; {} for anything."""
        ...

    def check_silence(self) -> None:
        """Raise a ValueError where the network cannot be told nothing."""
        ...


@dataclass(frozen=True)
class Labels:
    """Classes by their numbers, or by the names that the data gives them.

    Attributes:
        classes: how many; 0 for a network that knows none.
        dropped: whether labels were dropped in training, so that the network can also be told nothing.
        names: what the classes are called, number by number; () where nobody named them.
    """

    classes: int
    dropped: bool = True
    names: tuple[str, ...] = ()

    @property
    def nothing(self) -> Conditions:
        """The label after the last."""
        return {"y": torch.tensor(self.classes)} if self.classes and self.dropped else {}

    def conditions(self, wanted: Wanted, count: int) -> Conditions:
        """The labels y [count], several in turn.

        Raises:
            ValueError: there are no such classes, or more of them than pictures; or none is said and one is needed.
        """
        if wanted is None:
            self.check_silence()
            return {}
        if not self.classes:
            raise ValueError("this model was trained without classes; leave --class out")
        y = self._numbers(wanted)
        wrong = y[(y < 0) | (y >= self.classes)].tolist()
        if wrong:
            raise ValueError(f"this model knows the classes 0 … {self.classes - 1}, got {wrong[0]}")
        if len(y) > count:
            raise ValueError(f"got {len(y)} classes for {count} pictures; give as many seeds, or fewer classes")
        return {"y": y.repeat(-(-count // len(y)))[:count]}

    def check_silence(self) -> None:
        """Raise a ValueError where the network must be told a class: what it draws without was never trained."""
        if self.classes and not self.dropped:
            raise ValueError(f"this model needs a class, 0 … {self.classes - 1}; say which with --class {ALWAYS_TOLD}")

    def _numbers(self, wanted: int | str | Sequence[int | str] | Tensor) -> Tensor:
        several: Any = [wanted] if isinstance(wanted, Integral | str) else wanted
        if isinstance(several, Sequence):
            several = [self._number(one) if isinstance(one, str) else one for one in several]
        try:
            y = torch.as_tensor(several)
        except (TypeError, ValueError, RuntimeError):  # torch's, of what is no array of numbers
            y = torch.empty(0)
        if y.ndim != 1 or not len(y) or y.is_floating_point() or y.dtype == torch.bool:
            raise ValueError(f"classes are whole numbers, one or several, such as 7 or [0, 1, 2]; got {wanted!r:.80}")
        return y.long()

    def _number(self, name: str) -> int:
        if not self.names:
            raise ValueError(f"a class is a whole number, or several between commas, got {name!r}")
        check_known("class", name, self.names)
        return self.names.index(name)


def vocabulary_of(config: TextUNetConfig | ClipConfig) -> Vocabulary:
    """The words that a network knows: those that it was made with, or those of `scenes`."""
    return Vocabulary(config.words, config.length) if config.words else captions.SCENES


@dataclass(frozen=True)
class Captions:
    """Captions in words that the network knows.

    Attributes:
        dropped: whether captions were dropped in training, so that the network can also be told nothing.
        strict: whether an unknown word is an error, and not taken for the nearest known one.
        vocabulary: the words.
    """

    dropped: bool = True
    strict: bool = False
    vocabulary: Vocabulary = captions.SCENES

    @property
    def nothing(self) -> Conditions:
        """The caption of no words."""
        return {"tokens": self.vocabulary.encode([""])[0]} if self.dropped else {}

    def conditions(self, wanted: Wanted, count: int) -> Conditions:
        """The numbers of the words, tokens [count, L], several captions in turn.

        Raises:
            ValueError: it is no text, or an empty or too long one; there are more of them than pictures; a word is
                unknown, and no known one is near, or `strict`; or none is said and one is needed.

        Warns:
            UserWarning: a word is taken for another.
        """
        if wanted is None:
            self.check_silence()
            return {}
        tokens = self.vocabulary.encode(_texts(wanted, count), nearest=not self.strict)
        if not bool(tokens.any(1).all()):
            raise ValueError("a caption without a word says nothing; leave it out for pictures of anything")
        return {"tokens": tokens.repeat(-(-count // len(tokens)), 1)[:count]}

    def check_silence(self) -> None:
        """Raise a ValueError where the network must be told a caption: what it draws without was never trained."""
        if not self.dropped:
            raise ValueError(f"this model needs a caption; say it with --prompt {ALWAYS_TOLD}")


@dataclass(frozen=True)
class Prompts:
    """Texts in any words, for a network that is told what an encoder makes of them. Chapters 9 and 13.

    Attributes:
        encoder: of texts, for evaluation, its weights frozen.
        pairs: the tokenizer. padding: the number that fills up its short texts.
        negative: the text that guidance leads away from; the empty one is what the network was told in training when it
            was told nothing.
    """

    encoder: TextEncoder
    pairs: BytePairs
    padding: int
    negative: str = ""

    @functools.cached_property
    def nothing(self) -> Conditions:
        """The negative text."""
        return {"context": self._context([self.negative])[0]}

    def conditions(self, wanted: Wanted, count: int) -> Conditions:
        """The tokens of the texts, context [count, L, D], several in turn; of the empty text for anything.

        Raises:
            ValueError: it is no text, or there are more of them than pictures.

        Warns:
            UserWarning: a text is too long, and what is lost of it.
        """
        context = self._context([""] if wanted is None else _texts(wanted, count))
        return {"context": context.repeat(-(-count // len(context)), 1, 1)[:count]}

    def check_silence(self) -> None:
        """Nothing to raise: where nothing is said the empty text is."""

    @torch.no_grad()
    def _context(self, texts: Sequence[str]) -> Tensor:
        tokens = self.pairs.rows(texts, self.encoder.config.length, self.padding)
        context: Tensor = self.encoder(tokens.to(self.encoder.tokens.weight.device)).context
        return context


def _texts(wanted: Wanted, count: int) -> list[str]:
    """What is wanted as texts, at most one for each picture."""
    several = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(several, Sequence) or not several or not all(isinstance(one, str) for one in several):
        raise ValueError(
            f"this model draws captions, one or several, such as 'a small red cat, on yellow'; got {wanted!r:.80}"
        )
    if len(several) > count:
        raise ValueError(f"got {len(several)} captions for {count} pictures; give as many seeds, or fewer captions")
    return [str(one) for one in several]


def asked_of(
    conditioner: Conditioner, model: str, classes: Sequence[str] | None, prompts: Sequence[str] | None, strict: bool
) -> Conditioner:
    """The conditioner of a model, as strict as is asked, if it understands what a person wants by class or by caption.

    Raises:
        ValueError: it knows no classes, or reads no captions; or there is nothing to be strict about.
    """
    reads = isinstance(conditioner, Captions | Prompts)
    if prompts and not reads:
        has_classes = bool(getattr(conditioner, "classes", 0))
        raise ValueError(f"{model} reads no captions; leave --prompt out" + (" or give --class" if has_classes else ""))
    if classes and reads:
        raise ValueError(f"{model} knows no classes, this model draws captions; say what you want by --prompt")
    if strict and not prompts:
        raise ValueError("--strict is about the words of --prompt; give one, or leave --strict out")
    return dataclasses.replace(conditioner, strict=strict) if isinstance(conditioner, Captions) else conditioner
