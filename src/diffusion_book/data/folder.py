"""The reader of a folder of pictures, of any sizes and forms; nothing is left out without a word. Chapter 10."""

import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
UNREAD = {".avif", ".dng", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".pgm", ".ppm", ".psd", ".svg", ".tga"}
"""Pictures too, by their names: a folder that has them is told so."""


def read_folder(path: Path, size: int | None, skip_broken: bool) -> tuple[Tensor, list[Path]]:
    """The pictures of a folder and its subfolders, uint8 [N, 3, H, W], and their files, in order; see `data.load`."""
    from PIL import Image, ImageOps

    if size is not None and size < 1:
        raise ValueError(f"size must be at least one pixel, got {size}")
    files, others = files_of(path)
    if unread := _unread(others):
        warnings.warn(
            f"passed over {unread} in {path}, which is not read; convert them, or take them out", stacklevel=3
        )
    if size is not None:  # room that is asked for and not used: where there is none, that is told before the reading
        torch.empty(len(files), 3, size, size)
    pictures: list[Image.Image] = []
    read: list[Path] = []
    broken: list[str] = []
    first = files[0]  # of those that can be read
    for file in files:
        try:
            picture = decode(file)
        except Exception as error:  # PIL raises many kinds for a broken file
            if not skip_broken:
                raise ValueError(
                    f"{file} cannot be read as an image ({error}); repair it or take it out, "
                    "or leave out all such files: skip_broken=True, on the command line --skip-broken"
                ) from error
            broken.append(f"{file} ({error})")
            continue
        if size is not None:
            picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
        elif pictures and picture.size != pictures[0].size:
            both = f"{file} is {_sides(picture)} but {first} is {_sides(pictures[0])}"
            raise ValueError(f"{both}; pass size= to scale and crop all to one square")
        first = first if pictures else file
        pictures.append(picture)
        read.append(file)
    if not pictures:
        raise ValueError(f"none of the {len(files)} files in {path} can be read as an image, not even {broken[0]}")
    if broken:
        warnings.warn(
            f"left out {len(broken)} of {len(files)} files, which cannot be read as images: {', '.join(broken)}",
            stacklevel=3,
        )
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).contiguous(), read


def files_of(path: Path) -> tuple[list[Path], list[Path]]:
    """The files of a folder and its subfolders, in order: pictures by their names, and all others.

    Raises:
        ValueError: it is no folder, or one without a picture; or a subfolder cannot be read.
    """
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; give folder:PATH with the path of a folder of images")
    found = list(_files_below(path))
    files = [file for file in found if file.suffix.lower() in SUFFIXES or not (file.suffix or file.exists())]
    others = sorted(set(found) - set(files))
    if not files:
        unread = _unread(others)
        told = f"; there are {unread}, which is not read: convert them" if unread else ""
        raise ValueError(f"no images in {path}; looked for {', '.join(sorted(SUFFIXES))}, subfolders included{told}")
    return files, others


def decode(file: Path) -> "Image.Image":
    """One picture as it is seen: upright, in RGB, on white where it is transparent; of an animation the first frame.

    Raises:
        Exception: PIL raises many kinds for a broken file.
    """
    from PIL import Image, ImageOps

    if not file.is_file():
        raise ValueError("it is no file, or a link that leads nowhere")
    with Image.open(file) as opened:
        if opened.mode.startswith(("I", "F")):
            raise ValueError(f"mode {opened.mode} has more than 8 bits a pixel, which would be cut off")
        upright = ImageOps.exif_transpose(opened).convert("RGBA")
    white = Image.new("RGBA", upright.size, "white")  # what is transparent would show a colour nobody chose
    return Image.alpha_composite(white, upright).convert("RGB")


def classes_of(files: list[Path], folder: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The class of each file, which is the first subfolder on the way to it, and the names of the classes.

    Raises:
        ValueError: a file lies in no subfolder.
    """
    ways = [file.relative_to(folder).parts for file in files]
    if loose := [file for file, way in zip(files, ways) if len(way) == 1]:
        raise ValueError(
            f"{loose[0]} lies in no subfolder, and so has no class ({len(loose)} of {len(files)} files do not); "
            "put each image into the subfolder of its class, or load them without labels"
        )
    names = sorted({way[0] for way in ways})
    return {"y": torch.tensor([names.index(way[0]) for way in ways])}, tuple(names)


def _sides(picture: "Image.Image") -> str:
    return f"{picture.width}×{picture.height}"


def _unread(files: list[Path]) -> str:
    """How many of them are pictures in a form that is not read, by their endings."""
    count = Counter(file.suffix for file in files if file.suffix.lower() in UNREAD)
    return " and ".join(f"{number} of {suffix}" for suffix, number in count.items())


def _files_below(folder: Path, within: tuple[Path, ...] = ()) -> Iterator[Path]:
    """What is no folder in this one and its subfolders, in order; one that a link puts into itself is left then."""
    here = folder.resolve()
    if here in within:
        return
    try:
        entries = [(entry, entry.is_dir()) for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error}); make it readable, or take it out") from error
    for entry, is_folder in entries:
        if is_folder:
            yield from _files_below(entry, (*within, here))
        else:
            yield entry
