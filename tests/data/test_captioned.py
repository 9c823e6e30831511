"""A folder's own captions: beside the pictures or in a table, and every way in which one can be missing."""

import pytest
import torch
from PIL import Image

from diffusion_book import data
from diffusion_book.data import Vocabulary
from diffusion_book.data.vocabulary import split

SAID = {"a.png": "A red cat.", "b.png": "two cats, on white", "deep/c.png": "a well-known cat's hat"}


@pytest.fixture
def folder(tmp_path):
    """Three pictures, one in a subfolder, and no captions yet."""
    (tmp_path / "deep").mkdir()
    for number, name in enumerate(SAID):
        Image.new("RGB", (8, 8), (80 * number, 0, 200)).save(tmp_path / name)
    return tmp_path


def beside(folder, said=SAID):
    for name, text in said.items():
        (folder / name).with_suffix(".txt").write_text(text, encoding="utf-8")


def table(folder, said=SAID, head="file_name,text"):
    lines = [f'{name},"{text}"' for name, text in said.items()]
    (folder / "metadata.csv").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8-sig")


def load(folder):
    return data.load(f"folder:{folder}", labels="captions")


@pytest.mark.parametrize("write", [beside, table])
def test_captions_are_read_from_texts_and_from_a_table_alike(folder, write):
    write(folder)
    images = load(folder)
    words = ("", "a", "cat", "cat's", "cats", "hat", "on", "red", "two", "well-known", "white")
    assert images.vocabulary == Vocabulary(words, 4)
    assert images.vocabulary.decode(images.conditions["tokens"]) == [
        "a red cat",
        "two cats on white",
        "a well-known cat's hat",
    ]
    assert images.conditions["tokens"][0].tolist() == [1, 7, 2, 0]
    assert images.classes == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "a.txt").unlink(), r"a.png has no caption \(1 of 3 pictures .*; write its words in .*a.txt"),
        (lambda f: (f / "b.txt").write_text(" \n"), r"b.png has no caption"),
        (lambda f: (f / "b.png").unlink(), r"b.txt is a caption without its picture; put the picture beside it"),
        (lambda f: (f / "notes.txt").write_text("mine"), r"notes.txt is a caption without its picture"),
        (lambda f: (f / "a.txt").write_bytes(b"\xff\xfe\xfa"), r"a.txt cannot be read as a text in UTF-8"),
        (lambda f: Image.new("RGB", (8, 8)).save(f / "a.bmp"), r"a.txt lies beside a.bmp and a.png; rename one"),
        (lambda f: beside(f, dict.fromkeys(SAID, "?!")), r"there is no word in these captions"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_text_is_told_by_its_file(folder, spoil, message):
    beside(folder)
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: table(f, {"a.png": "a cat"}), r"b.png has no caption \(2 of 3 .* write a line in .*metadata.csv"),
        (lambda f: table(f, {**SAID, "d.png": "x"}), r"line 5 of .*metadata.csv is the caption of .*d.png, and"),
        (lambda f: table(f, {**SAID, "./a.png": "x"}), r"line 5 of .* is a second caption of .*a.png"),
        (lambda f: table(f, head="file,caption"), r"must have the columns file_name and text, got file, caption"),
        (lambda f: (f / "metadata.csv").write_text("file_name,text\n"), r"a.png has no caption \(3 of 3"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_table_is_told_by_its_line(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_a_folder_without_the_word_has_no_captions(folder):
    beside(folder)
    assert data.load(f"folder:{folder}").conditions == {}
    with pytest.raises(ValueError, match="labels must be None, 'folders' or 'captions', got 'texts'"):
        data.load(f"folder:{folder}", labels="texts")


def test_words_are_letters_digits_and_what_holds_them_together():
    assert split("Don't  be “so”: 2 well-known ÉTÉS—(really)!") == [
        "don't",
        "be",
        "so",
        "2",
        "well-known",
        "étés",
        "really",
    ]
    assert split(" .,- ") == []


def test_a_vocabulary_takes_the_nearest_word_where_it_may():
    words = Vocabulary.of(["a small rabbit", "two moons"])
    with pytest.raises(ValueError, match="unknown word 'rabit'; did you mean 'rabbit'"):
        words.encode(["a rabit"])
    with pytest.warns(UserWarning, match="unknown word 'rabit' is taken for 'rabbit'"):
        assert torch.equal(words.encode(["a rabit"], nearest=True), words.encode(["a rabbit"]))
    with pytest.raises(
        ValueError, match="unknown word 'xyz'; there are 5 words, those of the captions it was trained on"
    ):
        words.encode(["xyz"], nearest=True)
    with pytest.raises(ValueError, match="a caption has at most 3 words, got 4: 'a a a a'"):
        words.encode(["a a a a"])
