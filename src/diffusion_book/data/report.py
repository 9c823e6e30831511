"""A folder of pictures before it is trained on: what is in it, a clean copy, and two parts that share nothing.

Nothing here writes into a folder that it reads. Chapter 10.
"""

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from tqdm import tqdm

from diffusion_book._checks import at_least
from diffusion_book._files import expanded
from diffusion_book.data import alike
from diffusion_book.data.folder import decode, files_of

Entry = TypeVar("Entry")

SHOWN = 5
"""Names of each kind in the words of a report."""


@dataclass(frozen=True)
class Picture:
    """What a report keeps of a picture: `sha256` is of its pixels, `taken` the camera's time where there is one."""

    file: Path
    width: int
    height: int
    sha256: str
    taken: datetime | None
    print: alike.Print


@dataclass(frozen=True)
class FolderReport:
    """What is in a folder of pictures. Its `str` is the report in words.

    Attributes:
        folder: the folder; it is left as it was.
        pictures: those that can be read, in the order of their names.
        broken: files that are pictures by their names and cannot be read, and why.
        others: files that are no pictures by their names, or in a form that is not read.
        smallest: pixels that the shorter side of a picture must have not to be tiny.
        near: bits of the hash in which near-copies may differ.
    """

    folder: Path
    pictures: tuple[Picture, ...]
    broken: tuple[tuple[Path, str], ...]
    others: tuple[Path, ...]
    smallest: int
    near: int

    @cached_property
    def tiny(self) -> list[Picture]:
        """Pictures whose shorter side has fewer than `smallest` pixels."""
        return [p for p in self.pictures if min(p.width, p.height) < self.smallest]

    @cached_property
    def copies(self) -> list[list[Picture]]:
        """Groups of pictures whose pixels are the same, whatever their files are called."""
        found: dict[str, list[Picture]] = {}
        for picture in self.pictures:
            found.setdefault(picture.sha256, []).append(picture)
        return [group for group in found.values() if len(group) > 1]

    @cached_property
    def near_copies(self) -> list[tuple[Picture, Picture]]:
        """Pairs that are one picture saved twice, in another size or form, the most alike first."""
        pairs = [(self.pictures[i], self.pictures[j]) for i, j in self._near_pairs]
        return [(a, b) for a, b in pairs if a.sha256 != b.sha256]

    @cached_property
    def bursts(self) -> list[list[Picture]]:
        """Runs of neighbours, by their names within one folder, that look alike or were taken within seconds."""
        runs = alike.groups(len(self.pictures), self._burst_pairs)
        return [[self.pictures[i] for i in run] for run in runs if len(run) > 1]

    @cached_property
    def together(self) -> list[list[Picture]]:
        """All pictures, in groups that belong on one side of a split: chains of what is alike, or of a burst."""
        prints = [p.print for p in self.pictures]
        found = alike.groups(len(prints), [*alike.alike_pairs(prints), *self._near_pairs, *self._burst_pairs])
        return [[self.pictures[i] for i in group] for group in found]

    @cached_property
    def kept(self) -> list[Picture]:
        """What `clean` copies: of copies and near-copies the largest alone, and nothing that is tiny."""
        enough = [i for i, p in enumerate(self.pictures) if min(p.width, p.height) >= self.smallest]
        pairs = [(i, j) for i, j in self._near_pairs if {i, j} <= set(enough)]
        best = [max(group, key=self._area) for group in alike.groups(len(self.pictures), pairs)]
        return [self.pictures[i] for i in sorted(set(best) & set(enough))]

    @cached_property
    def _near_pairs(self) -> list[tuple[int, int]]:
        return alike.near_pairs([p.print for p in self.pictures], self.near)

    @cached_property
    def _burst_pairs(self) -> list[tuple[int, int]]:
        neighbours = enumerate(zip(self.pictures, self.pictures[1:]))
        return [(i, i + 1) for i, (a, b) in neighbours if a.file.parent == b.file.parent and _of_one_burst(a, b)]

    def _area(self, i: int) -> int:
        return self.pictures[i].width * self.pictures[i].height

    def __str__(self) -> str:
        rows = {
            "not readable": _list(self.broken, lambda entry: f"{self._name(entry[0])} ({entry[1]})"),
            "no pictures": _list(self.others, self._name),
            f"below {self.smallest} px": _list(self.tiny, lambda p: f"{self._name(p.file)} ({p.width}×{p.height})"),
            "sizes": _sizes(self.pictures),
            "aspect": _aspects(self.pictures),
            "exact copies": _list(self.copies, lambda group: " = ".join(self._name(p.file) for p in group), "group"),
            "near-copies": _list(self.near_copies, lambda pair: " ~ ".join(self._name(p.file) for p in pair), "pair"),
            "bursts": _list(
                sorted(self.bursts, key=len, reverse=True),
                lambda run: f"{self._name(run[0].file)} … {self._name(run[-1].file)} ({len(run)})",
            ),
            "clean": f"{len(self.kept):,} pictures would be left",
        }
        folders = len({p.file.parent for p in self.pictures})
        head = f"{self.folder}: {len(self.pictures):,} pictures in {folders} folder{'s' if folders > 1 else ''}"
        return "\n".join([head, *(f"  {row:13} {text}" for row, text in rows.items())])

    def _name(self, file: Path) -> str:
        return str(file.relative_to(self.folder))


@dataclass(frozen=True)
class FolderSplit:
    """Where the pictures of a folder went.

    Attributes:
        train, held_out: the files written.
        together: of the folder that was read, the groups of more than one picture that stayed on one side.
    """

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]
    together: tuple[tuple[Path, ...], ...]


def check(folder: Path | str, smallest: int = 32, near: int = alike.NEAR_BITS, progress: bool = False) -> FolderReport:
    """Read all files of a folder and its subfolders and say what is in them. The folder is left as it was.

    Args:
        folder: what `load` reads as folder:PATH.
        smallest: pixels that the shorter side of a picture must have not to be called tiny.
        near: bits of 64 in which the hashes of near-copies may differ.
        progress: show a bar.

    Raises:
        ValueError: it is no folder, or none of its files can be read as a picture.
        ImportError: the package that finds near-copies is not installed; the message says how it is.
    """
    at_least(1, smallest=smallest)
    at_least(0, near=near)
    folder = expanded(str(folder).removeprefix("folder:"))
    files, others = files_of(folder)
    pictures, broken = [], []
    for file in tqdm(files, desc="reading", unit="file", disable=not progress, leave=False):
        try:
            image = decode(file)
        except Exception as error:  # PIL raises many kinds for a broken file
            broken.append((file, " ".join(str(error).split())))
            continue
        sha256 = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        pictures.append(Picture(file, *image.size, sha256, _taken(file), alike.fingerprint(image)))
    if not pictures:
        file, why = broken[0]
        raise ValueError(f"none of the {len(files)} files in {folder} can be read as an image, not even {file} ({why})")
    return FolderReport(folder, tuple(pictures), tuple(broken), tuple(others), smallest, near)


def clean(report: FolderReport, out: Path | str) -> int:
    """Copy what a report would keep into a new folder, subfolders and names as they were → how many.

    Left out are what cannot be read or is no picture, what is tiny, and of copies and near-copies all but the largest.

    Raises:
        ValueError: `out` holds something already, or lies within the folder that was read.
    """
    out = new_folder(out, report.folder)
    for picture in report.kept:
        _copy(picture.file, out / picture.file.relative_to(report.folder))
    return len(report.kept)


def split_folder(
    folder: Path | str, out: Path | str, share: float, seed: int = 0, progress: bool = False
) -> FolderSplit:
    """Copy a folder's pictures into `out/train` and `out/held-out`; what is alike stays on one side.

    A chain of pictures that are alike, or follow each other in a burst, is one piece. Pieces go to the held-out side in
    a random order, each where it still fits, until every subfolder has given its share; one that is too large stays.

    Args:
        share: of each subfolder's pictures that are held out, in (0, 1).
        seed: the same one divides the same folder in the same way.

    Raises:
        ValueError: the share is not in (0, 1), or one part would be empty; `out` holds something already, or lies
            within the folder; or a file of the folder cannot be read.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1, got {share}")
    folder = expanded(str(folder).removeprefix("folder:"))
    out = new_folder(out, folder)
    report = check(folder, smallest=1, progress=progress)
    if report.broken:
        file, why = report.broken[0]
        raise ValueError(f"{file} cannot be read as an image ({why}); split a clean copy: data check --clean")
    held_out = _hold_out(report, share, seed)
    if not 0 < len(held_out) < len(report.pictures):
        raise ValueError(
            f"a share of {share} of {len(report.pictures)} pictures, of which those that are alike stay together, "
            "leaves one part empty; choose another share, or add pictures"
        )
    written: dict[str, list[Path]] = {"train": [], "held-out": []}
    for picture in report.pictures:
        part = "held-out" if picture.file in held_out else "train"
        written[part].append(_copy(picture.file, out / part / picture.file.relative_to(folder)))
    together = tuple(tuple(p.file for p in group) for group in report.together if len(group) > 1)
    return FolderSplit(tuple(written["train"]), tuple(written["held-out"]), together)


def new_folder(out: Path | str, read: Path) -> Path:
    """The path of a folder in which nothing can be overwritten, and which is no part of the one that is read.

    Raises:
        ValueError: it holds something already, or lies within the folder that is read.
    """
    out = expanded(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there and not empty; give a new folder, so that nothing of yours is written over")
    if out.resolve().is_relative_to(read.resolve()):
        raise ValueError(f"{out} lies within {read}, which is only read; give a folder beside it")
    return out


def _hold_out(report: FolderReport, share: float, seed: int) -> set[Path]:
    """The files that go to the held-out side."""

    def count(pictures: Iterable[Picture]) -> Counter[str]:
        ways = [p.file.relative_to(report.folder).parts for p in pictures]
        return Counter(way[0] if len(way) > 1 else "" for way in ways)

    wanted = Counter({name: round(share * number) for name, number in count(report.pictures).items()})
    generator = torch.Generator().manual_seed(seed)
    held_out: set[Path] = set()
    for i in torch.randperm(len(report.together), generator=generator).tolist():
        group = report.together[i]
        if (needed := count(group)) <= wanted:
            wanted -= needed
            held_out.update(p.file for p in group)
    return held_out


def _of_one_burst(a: Picture, b: Picture) -> bool:
    if a.taken and b.taken and abs((b.taken - a.taken).total_seconds()) <= alike.BURST_SECONDS:
        return True
    return int((a.print.bits != b.print.bits).sum()) <= alike.BURST_BITS


def _taken(file: Path) -> datetime | None:
    """When the camera says that it took the picture."""
    from PIL import Image

    try:
        with Image.open(file) as opened:
            exif = opened.getexif()
            text = exif.get_ifd(0x8769).get(0x9003) or exif.get(0x0132)  # DateTimeOriginal, or DateTime
        return datetime.strptime(str(text), "%Y:%m:%d %H:%M:%S")
    except Exception:  # there is none, or its program made one up: the picture itself has been read
        return None


def _copy(file: Path, to: Path) -> Path:
    to.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy2(file, to))


def _list(entries: Iterable[Entry], name: Callable[[Entry], str], noun: str = "") -> str:
    """How many, and the first few by name."""
    entries = list(entries)
    if not entries:
        return "none"
    shown = ", ".join(name(entry) for entry in entries[:SHOWN])
    more = f" and {len(entries) - SHOWN:,} more" if len(entries) > SHOWN else ""
    plural = f" {noun}{'s' if len(entries) > 1 else ''}" if noun else ""
    return f"{len(entries):,}{plural}: {shown}{more}"


def _sizes(pictures: tuple[Picture, ...]) -> str:
    sides = sorted(min(p.width, p.height) for p in pictures)
    return f"shorter side {sides[0]} to {sides[-1]} px, half of them at least {sides[len(sides) // 2]}"


def _aspects(pictures: tuple[Picture, ...]) -> str:
    ratios = sorted(p.width / p.height for p in pictures)
    square = sum(0.9 <= ratio <= 1.1 for ratio in ratios)
    return f"width / height {ratios[0]:.2f} to {ratios[-1]:.2f}, {square:,} of {len(ratios):,} about square"
