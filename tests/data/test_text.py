"""Byte pairs: the example of the paper by hand, any text and back, and the form of CLIP's file."""

import gzip
import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusion_book.data import Scenes, captions
from diffusion_book.data.text import END_OF_WORD, BytePairs, split

# "low" five times, "lower" twice, "newest" six times, "widest" three times: figure 1 of Sennrich et al. 2016.
PAPER = ["low " * 5 + "lower " * 2 + "newest " * 6 + "widest " * 3]


def test_the_example_of_the_paper_is_as_one_finds_by_hand():
    """e·s and s·t stand nine times each, of which the first in the alphabet comes first."""
    learnt = BytePairs.learn(PAPER, 4)
    assert learnt.merges == (("e", "s"), ("es", "t</w>"), ("l", "o"), ("e", "w"))
    assert [learnt.pieces[n] for n in learnt.encode("lowest")] == ["lo", "w", "est</w>"]


def counted(texts: list[str], merges: int) -> list[tuple[str, str]]:
    """The algorithm again, on one long list of pieces, in which the ends of words cannot be merged over."""
    pieces = [p for text in texts for word in text.split() for p in (*word[:-1], word[-1] + END_OF_WORD)]
    learnt = []
    for _ in range(merges):
        pairs = Counter(pair for pair in itertools.pairwise(pieces) if not pair[0].endswith(END_OF_WORD))
        # A run such as "aaa" has two pairs, both of which count.
        if not pairs:
            break
        best = sorted(pairs, key=lambda pair: (-pairs[pair], pair))[0]
        learnt.append(best)
        i, joined = 0, []
        while i < len(pieces):
            if tuple(pieces[i : i + 2]) == best:
                joined.append(best[0] + best[1])
                i += 2
            else:
                joined.append(pieces[i])
                i += 1
        pieces = joined
    return learnt


@given(st.lists(st.text(alphabet="abc ", min_size=1, max_size=30), min_size=1, max_size=4), st.integers(0, 12))
def test_merges_are_those_of_counting_again(texts, merges):
    assert list(BytePairs.learn(texts, merges).merges) == counted(texts, merges)


@given(st.text(max_size=40))
def test_every_text_comes_back_without_its_spaces(text):
    pairs = BytePairs.learn(PAPER, 8)
    words = list(split(text))
    assert pairs.decode(pairs.encode(text)) == " ".join(words)
    assert all(0 <= number < pairs.begin for number in pairs.encode(text))


def test_with_enough_merges_every_word_of_the_captions_is_one_piece():
    texts = Scenes(varied=True).captions(torch.arange(2000))
    few, many = BytePairs.learn(texts, 20), BytePairs.learn(texts, 1000)
    said = "a small red octopus left of two keys"
    assert len(many.encode(said)) == len(said.split()) < len(few.encode(said)) < len(said)
    assert len(many.encode("a small dog")) > 3  # a word that it never saw, in pieces
    assert len(many.merges) < 1000  # nothing was left to merge
    assert set(map(len, (many.encode(word) for word in captions.WORDS[1:] if word in " ".join(texts)))) == {1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A  red CAT, on\twhite", ["a", "red", "cat", ",", "on", "white"]),
        ("it's they're 'tis", ["it", "'s", "they", "'re", "'t", "is"]),
        ("in 2026!?", ["in", "2", "0", "2", "6", "!?"]),
        ("x² ½ 中文 é", ["x", "²", "½", "中文", "é"]),
        ("fish &amp;amp; chips", ["fish", "&", "chips"]),
        ("", []),
    ],
)
def test_words_are_cut_as_in_clip(text, words):
    assert list(split(text)) == words


def test_rows_begin_and_end():
    pairs = BytePairs.learn(PAPER, 8)
    rows = pairs.rows(["low", "newest low"], 6)
    assert rows.dtype == torch.int64
    low, newest = pairs.encode("low"), pairs.encode("newest")
    assert rows[0].tolist() == [pairs.begin, *low, *[pairs.end] * (5 - len(low))]
    assert rows[1].tolist()[: 1 + len(newest)] == [pairs.begin, *newest]
    assert pairs.rows(["low"], 6, padding=0)[0].tolist()[-1] == 0
    assert int(rows.argmax(1)[0]) == 1 + len(low)  # the end has the largest number


def test_a_text_that_is_too_long_is_cut_and_said_or_refused():
    pairs = BytePairs.learn(PAPER, 20)
    with pytest.warns(UserWarning, match="a text may have 2 pieces, got 3; it is cut before 'widest'"):
        rows = pairs.rows(["low newest widest"], 4)
    assert rows[0].tolist() == [pairs.begin, *pairs.encode("low newest"), pairs.end]
    with pytest.raises(ValueError, match="got 3; leave out 'widest', or as much"):
        pairs.rows(["low newest widest"], 4, strict=True)
    with pytest.raises(ValueError, match="length must be a whole number of at least 3"):
        pairs.rows(["low"], 2)


@pytest.mark.parametrize("name", ["vocabulary.txt", "vocabulary.txt.gz"])
def test_a_file_in_the_form_of_clips_is_read(tmp_path, name):
    learnt = BytePairs.learn(PAPER, 8)
    text = "\n".join(["#version: 0.2", *map(" ".join, learnt.merges), ""]).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    assert BytePairs.read(tmp_path / name) == learnt


def test_numbers_are_clips():
    """With 48,894 merges the last two are 49406 and 49407; "!" is 0, and at the end of a word 256."""
    pairs = BytePairs((("a", "b"),) * 48_894)
    assert (pairs.begin, pairs.end) == (49_406, 49_407)
    assert pairs.pieces[0] == "!"
    assert pairs.encode("!") == [256]
    assert pairs.pieces[512] == "ab"
    assert len({*pairs.pieces[:512]}) == 512


def test_what_is_no_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none\.gz cannot be read"):
        BytePairs.read(tmp_path / "none.gz")
    (tmp_path / "torn.gz").write_bytes(b"torn")
    with pytest.raises(ValueError, match=r"torn\.gz cannot be read"):
        BytePairs.read(tmp_path / "torn.gz")
    (tmp_path / "odd.txt").write_text("header\na b\nc\n")
    with pytest.raises(ValueError, match=r"line 3 of .*odd\.txt is no merge"):
        BytePairs.read(tmp_path / "odd.txt")
    with pytest.raises(ValueError, match="merges must be a whole number of at least 0"):
        BytePairs.learn(PAPER, -1)
