"""The captions of a folder of pictures: a text beside each, or one table of all. Chapters 9 and 10.

pictures/cat.png, pictures/cat.txt              "a red cat"
pictures/metadata.csv                           file_name,text
                                                cat.png,a red cat
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from diffusion_book.data.folder import files_of

TABLE = "metadata.csv"


def captions_of(files: Sequence[Path], folder: Path) -> list[str]:
    """The caption of each of these pictures of a folder.

    Raises:
        ValueError: a picture has no caption, a caption no picture, or a file of captions cannot be read or has another
            form; the message names the file.
    """
    found = _of_table(folder) if (folder / TABLE).is_file() else _of_texts(folder)
    if lacking := [file for file in files if not found.get(file, "").strip()]:
        where = f"a line in {folder / TABLE}" if (folder / TABLE).is_file() else f"its words in {_text(lacking[0])}"
        raise ValueError(
            f"{lacking[0]} has no caption ({len(lacking)} of {len(files)} pictures have none); write {where}, or take "
            "the picture out"
        )
    return [" ".join(found[file].split()) for file in files]


def _of_texts(folder: Path) -> dict[Path, str]:
    pictures, others = files_of(folder)
    by_text: dict[Path, Path] = {}
    for picture in pictures:
        if (other := by_text.setdefault(_text(picture), picture)) != picture:
            raise ValueError(
                f"{_text(picture)} lies beside {other.name} and {picture.name}; rename one of the pictures"
            )
    texts = [file for file in others if file.suffix.lower() == ".txt"]
    for text in texts:
        if text not in by_text:
            raise ValueError(f"{text} is a caption without its picture; put the picture beside it, or take it out")
    return {by_text[text]: _read(text) for text in texts}


def _of_table(folder: Path) -> dict[Path, str]:
    path = folder / TABLE
    rows = list(csv.DictReader(_read(path).splitlines()))
    if rows and not {"file_name", "text"} <= set(rows[0]):
        raise ValueError(f"{path} must have the columns file_name and text, got {', '.join(map(str, rows[0]))}")
    pictures, found = set(files_of(folder)[0]), dict[Path, str]()
    for line, row in enumerate(rows, start=2):
        picture = folder / (row["file_name"] or "")
        if picture not in pictures:
            raise ValueError(f"line {line} of {path} is the caption of {picture}, and there is no such picture")
        if picture in found:
            raise ValueError(f"line {line} of {path} is a second caption of {picture}; leave one out")
        found[picture] = row["text"] or ""
    return found


def _text(picture: Path) -> Path:
    return picture.with_suffix(".txt")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a text in UTF-8 ({error}); save it so") from error
