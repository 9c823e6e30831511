"""Texts as numbers: byte pairs, learnt from texts, or CLIP's (Sennrich et al. 2016; Radford et al. 2021). Chapter 9.

    pairs = BytePairs.learn(texts, merges=200)
    pairs.encode("a small red cat")         numbers of pieces of words
    pairs.rows(["a cat", "two keys"], 16)   [2, 16], with a beginning and an end

A word begins as its bytes. The pair of pieces that is seen most often becomes one piece, again and again: frequent
words end as one piece, rare ones stay several, and there is no word that cannot be written.
"""

import functools
import gzip
import html
import itertools
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffusion_book._checks import at_least
from diffusion_book._files import expanded

END_OF_WORD = "</w>"
Pair = tuple[str, str]
CLIP_MERGES = 49152 - 256 - 2
"""Of the lines of CLIP's file, those that it uses, with its header."""


@dataclass(frozen=True)
class BytePairs:
    """A tokenizer: which pairs of pieces become one, the first first.

    The numbers are CLIP's: 256 bytes; the same at the end of a word; one for each merge; a beginning; an end.
    """

    merges: tuple[Pair, ...]

    @classmethod
    def learn(cls, texts: Iterable[str], merges: int) -> "BytePairs":
        """From texts: merge the most frequent pair, and of equals the first in the alphabet, until nothing is left.

        Raises:
            ValueError: merges is no whole number of at least 0.

        Source: Sennrich et al. 2016, algorithm 1.
        """
        at_least(0, merges=merges)
        words = {_pieces(word): count for word, count in Counter(w for text in texts for w in split(text)).items()}
        learnt: list[Pair] = []
        while len(learnt) < merges:
            pairs: Counter[Pair] = Counter()
            for pieces, count in words.items():
                for pair in itertools.pairwise(pieces):
                    pairs[pair] += count
            if not pairs:
                break
            best = min(pairs, key=lambda pair: (-pairs[pair], pair))
            learnt.append(best)
            words = {_merged(pieces, best): count for pieces, count in words.items()}
        return cls(tuple(learnt))

    @classmethod
    def read(cls, path: Path | str) -> "BytePairs":
        """CLIP's own vocabulary, the file bpe_simple_vocab_16e6.txt.gz of openai/CLIP: a header, then a merge a line.

        Raises:
            ValueError: the file cannot be read, or has another form.
        """
        path = expanded(path)
        try:
            content = path.read_bytes()
            lines = (gzip.decompress(content) if path.suffix == ".gz" else content).decode().split("\n")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read ({error}); it is to be bpe_simple_vocab_16e6.txt.gz") from error
        pairs = [tuple(line.split()) for line in lines[1 : CLIP_MERGES + 1] if line]
        wrong = next((number for number, pair in enumerate(pairs, start=2) if len(pair) != 2), None)
        if wrong is not None or not pairs:
            raise ValueError(f"line {wrong or 2} of {path} is no merge: two pieces with a space between them")
        return cls(tuple((first, second) for first, second in pairs))

    @functools.cached_property
    def pieces(self) -> tuple[str, ...]:
        """All there are, by their numbers."""
        letters = tuple(_alphabet().values())
        joined = (first + second for first, second in self.merges)
        return (*letters, *(f"{c}{END_OF_WORD}" for c in letters), *joined, "<|startoftext|>", "<|endoftext|>")

    @property
    def begin(self) -> int:
        """The number that stands before a text."""
        return len(self.pieces) - 2

    @property
    def end(self) -> int:
        """The number that stands after a text, the largest of all."""
        return len(self.pieces) - 1

    def encode(self, text: str) -> list[int]:
        """The numbers of a text's pieces; upper case, and how many spaces there are, is not told."""
        return [number for word in split(text) for number in self._encoded(word)]

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of these numbers, with one space between two words, and without beginning and end."""
        said = "".join(self.pieces[number] for number in numbers if number < self.begin)
        back = {letter: byte for byte, letter in _alphabet().items()}
        words = (bytes(back[c] for c in word).decode(errors="replace") for word in said.split(END_OF_WORD))
        return " ".join(words).strip()

    def rows(self, texts: Sequence[str], length: int = 77, padding: int | None = None, strict: bool = False) -> Tensor:
        """Texts as an encoder takes them, [K, length] int64: beginning, pieces, end, and then padding.

        Args:
            padding: the number that fills up; None for that of the end, as for Stable Diffusion 1.
            strict: whether a text that is too long is an error, and not cut.

        Raises:
            ValueError: the length has no room for a text; or a text is too long, and `strict`.

        Warns:
            UserWarning: a text is cut, and what is lost.
        """
        at_least(3, length=length)
        rows = []
        for text in texts:
            numbers = self.encode(text)
            if len(numbers) > length - 2:
                lost = self.decode(numbers[length - 2 :])
                told = f"a text may have {length - 2} pieces, got {len(numbers)}"
                if strict:
                    raise ValueError(f"{told}; leave out {lost!r}, or as much")
                warnings.warn(f"{told}; it is cut before {lost!r}", stacklevel=2)
            row = [self.begin, *numbers[: length - 2], self.end]
            rows.append(row + [self.end if padding is None else padding] * (length - len(row)))
        return torch.tensor(rows, dtype=torch.int64, device="cpu").reshape(-1, length)

    @functools.cached_property
    def _ranks(self) -> dict[Pair, int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.pieces)}

    @functools.cached_property
    def _known(self) -> dict[str, tuple[int, ...]]:
        return {}

    def _encoded(self, word: str) -> tuple[int, ...]:
        if word not in self._known:
            pieces = _pieces(word)
            while ranked := [pair for pair in itertools.pairwise(pieces) if pair in self._ranks]:
                pieces = _merged(pieces, min(ranked, key=self._ranks.__getitem__))
            self._known[word] = tuple(self._numbers[piece] for piece in pieces)
        return self._known[word]


def split(text: str) -> Iterator[str]:
    """The words of a text, in small letters: runs of letters, single digits, runs of other signs, and 's or 're.

    As in CLIP, but for texts whose letters were broken by a wrong encoding, which it mends.
    """
    text, at = html.unescape(html.unescape(text)).lower(), 0
    while at < len(text):
        end = at + 1
        kind = _kind(text[at])
        if ending := re.compile("'(?:s|t|re|ve|m|ll|d)").match(text, at):
            end = ending.end()
        elif kind != "digit":
            while end < len(text) and _kind(text[end]) == kind:
                end += 1
        if kind != "space":
            yield text[at:end]
        at = end


def _kind(character: str) -> str:
    if character.isspace():
        return "space"
    return {"L": "letter", "N": "digit"}.get(unicodedata.category(character)[0], "sign")


@functools.cache
def _alphabet() -> dict[int, str]:
    """A character that can be seen for each byte: itself where it can, and else one from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + i) for i, byte in enumerate(unseen)}


def _pieces(word: str) -> tuple[str, ...]:
    """A word's bytes, of which the last one knows that it ends the word."""
    *first, last = (_alphabet()[byte] for byte in word.encode())
    return (*first, f"{last}{END_OF_WORD}")


def _merged(pieces: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """The pieces with this pair joined wherever it stands, from the left."""
    joined, at = [], 0
    while at < len(pieces):
        width = 2 if pieces[at : at + 2] == pair else 1
        joined.append("".join(pieces[at : at + width]))
        at += width
    return tuple(joined)
