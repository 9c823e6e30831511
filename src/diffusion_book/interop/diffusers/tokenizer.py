"""The tokenizer of a pipeline: CLIP's byte pairs, in the files that `transformers` makes of them. Chapters 9 and 13."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_book.data.text import BytePairs
from diffusion_book.interop.diffusers.folder import read_json


def load_tokenizer(folder: Path) -> tuple[BytePairs, int]:
    """The byte pairs of a folder, and the number that fills up its short texts.

    Args:
        folder: has merges.txt and vocab.json, or tokenizer.json, which has both in it; and tokenizer_config.json.

    Returns:
        The byte pairs; and the padding, which is the end for Stable Diffusion 1 and "!" for 2.

    Raises:
        ValueError: a file is not there, or cannot be read; or its pieces have other numbers than CLIP would give them.
    """
    if (folder / "merges.txt").is_file():
        pairs, vocabulary = BytePairs.read(folder / "merges.txt"), read_json(folder / "vocab.json")
        source = folder / "vocab.json"
    else:
        source = folder / "tokenizer.json"
        model = read_json(source).get("model", {})
        pairs, vocabulary = BytePairs(_merges(model.get("merges"), source)), model.get("vocab", {})
    _check_numbers(pairs, vocabulary, source)
    padding = read_json(folder / "tokenizer_config.json").get("pad_token", pairs.pieces[pairs.end])
    piece = padding.get("content") if isinstance(padding, dict) else padding
    if piece not in vocabulary:
        raise ValueError(f"pad_token = {piece!r} in {folder / 'tokenizer_config.json'} is none of its pieces")
    return pairs, vocabulary[piece]


def _merges(found: Any, source: Path) -> tuple[tuple[str, str], ...]:
    """Pairs, or texts with a space between two pieces, as it was done before."""
    several: Sequence[Any] = found if isinstance(found, list) else []
    pairs = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in several]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError(f"{source} has no merges, each of two pieces; it is to be that of a CLIPTokenizer")
    return tuple((first, second) for first, second in pairs)


def _check_numbers(pairs: BytePairs, vocabulary: Mapping[str, int], source: Path) -> None:
    if len(vocabulary) != len(pairs.pieces):
        raise ValueError(f"{source} numbers {len(vocabulary)} pieces, and its merges make {len(pairs.pieces)} of them")
    for number, piece in enumerate(pairs.pieces):
        if vocabulary.get(piece) != number:
            raise ValueError(
                f"{source} calls the piece {piece!r} number {vocabulary.get(piece)}, and CLIP would call it {number}; "
                "only tokenizers of CLIP are read"
            )
