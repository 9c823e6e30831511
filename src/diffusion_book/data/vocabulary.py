"""Words by their numbers, and captions as rows of them. Chapter 9.

    words = Vocabulary.of(["a red cat", "two cats"])
    words.encode(["a cat"])                 [1, 3], numbers of words

Those of `data.scenes` are `captions.SCENES`, known from its grammar; those of a folder are learnt from its captions.
"""

import difflib
import functools
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Vocabulary:
    """The words that a network knows.

    Attributes:
        words: by their numbers; the first is "", no word, which fills up short rows.
        length: the most words of a caption, and the length of a row.
        listed: where the words can be looked up, for who misses one.
    """

    words: tuple[str, ...]
    length: int
    listed: str = "those of the captions it was trained on"

    @classmethod
    def of(cls, captions: Iterable[str]) -> "Vocabulary":
        """All words of these captions, in the order of the alphabet.

        Raises:
            ValueError: they have no word at all.
        """
        rows = [split(caption) for caption in captions]
        length = max(map(len, rows), default=0)
        if not length:
            raise ValueError("there is no word in these captions")
        return cls(("", *sorted({word for row in rows for word in row})), length)

    def encode(self, captions: Sequence[str], nearest: bool = False) -> Tensor:
        """Captions as numbers of words, [K, length] int64, filled up with zeros. An empty caption says nothing.

        Args:
            nearest: take an unknown word for the known one that is written most alike.

        Raises:
            ValueError: there are too many words; or one is unknown, and `nearest` is not said or none is near.

        Warns:
            UserWarning: a word is taken for another.
        """
        rows = []
        for caption in captions:
            words = split(caption)
            if len(words) > self.length:
                raise ValueError(f"a caption has at most {self.length} words, got {len(words)}: {caption!r:.200}")
            rows.append([self._number(word, nearest) for word in words] + [0] * (self.length - len(words)))
        return torch.tensor(rows, dtype=torch.int64, device="cpu").reshape(-1, self.length)

    def decode(self, tokens: Tensor) -> list[str]:
        """The words of numbers [K, L], without commas."""
        return [" ".join(self.words[number] for number in row if number) for row in tokens.tolist()]

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words) if word}

    def _number(self, word: str, nearest: bool) -> int:
        if word in self._numbers:
            return self._numbers[word]
        near = difflib.get_close_matches(word, self._numbers, n=1)
        if near and nearest:
            warnings.warn(f"unknown word {word!r} is taken for {near[0]!r}", stacklevel=4)
            return self._numbers[near[0]]
        hint = f"did you mean {near[0]!r}?" if near else f"there are {len(self.words) - 1} words, {self.listed}"
        raise ValueError(f"unknown word {word!r}; {hint}")


def split(caption: str) -> list[str]:
    """The words of a caption, in small letters: letters and digits, and hyphens and apostrophes between them."""
    return re.findall(r"\w+(?:[-'’]\w+)*", caption.lower())
