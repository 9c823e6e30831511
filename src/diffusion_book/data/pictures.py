"""Pictures to files: a grid, a folder of single ones, or an array."""

import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusion_book._checks import check_floating
from diffusion_book._files import expanded, whole
from diffusion_book.data.images import to_uint8

GRIDS = {".png", ".jpg", ".jpeg", ".webp"}
ARRAYS = {".npy", ".npz"}
GAP = 2


def check_out(out: Path) -> None:
    """Raise a ValueError, before anything is computed, where a file cannot be written in the form its name asks for."""
    out, suffix = expanded(out), out.suffix.lower()
    if suffix and suffix not in GRIDS | ARRAYS:
        raise ValueError(
            f"{out} has an unknown ending; take one of {', '.join(sorted(GRIDS | ARRAYS))}, or none, for a folder"
        )
    if suffix and out.is_dir():
        raise ValueError(f"{out} is a folder; give a file in it, or a name without an ending")
    if not suffix and out.is_file():
        raise ValueError(f"{out} is a file, and a name without an ending asks for a folder of pictures")
    check_writable(out, folder=not suffix)


def check_writable(out: Path, advice: str = "give another --out", folder: bool = False) -> None:
    """Raise a ValueError, before anything is computed, where not a byte can be written beside this file.

    With `folder` it is one, in which files are to lie, and may be there.
    """
    out = expanded(out)
    there = out.is_dir()
    if there and not folder:
        raise ValueError(f"{out} cannot be written (it is a folder); {advice}")
    where = out if there else Path(os.path.realpath(out)).parent
    try:
        where.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=where) as file:
            file.write(b"0")
    except OSError as error:
        raise ValueError(f"{out} cannot be written ({error}); {advice}") from error


def check_grid(out: Path) -> None:
    """The same, where only a grid will do."""
    if out.suffix.lower() not in GRIDS:
        raise ValueError(f"{out} must end in one of {', '.join(sorted(GRIDS))}")
    check_out(out)


def write(x: Tensor, out: Path, columns: int, seeds: Sequence[int], y: Sequence[int] | None = None) -> None:
    """Write images [N, C, H, W] in [−1, 1] in the form that the name asks for; see `check_out`.

    Arrays are uint8 [N, H, W, C]; an .npz calls them `arr_0`, as evaluators expect, beside `seeds` and `labels`. The
    pictures of a folder are named by their seeds.
    """
    check_out(out)
    check_floating("images", x)  # the white of a grid would make floats of bytes
    suffix = out.suffix.lower()
    if suffix in GRIDS:
        _save(grid(x, columns), out, enlarge=True)
    elif suffix == ".npy":
        array = io.BytesIO()  # into a file on a full disk numpy says how many bytes it lacks, and not why
        np.save(array, _bytes(x))
        with whole(out) as unfinished:
            unfinished.write_bytes(array.getbuffer())
    elif suffix == ".npz":
        labels: dict[str, Any] = {} if y is None else {"labels": np.asarray(y)}
        with whole(out) as unfinished, unfinished.open("wb") as file:  # to a name like A.NPZ numpy would add .npz
            np.savez_compressed(file, arr_0=_bytes(x), seeds=np.asarray(seeds), **labels)
    else:
        for image, seed in zip(x, seeds):
            _save(image, out / f"{seed:06d}.png")


def grid(x: Tensor, columns: int) -> Tensor:
    """[N, C, H, W] → one image [C, H', W'], filled row by row, white between and around."""
    N, C, H, W = x.shape
    rows = -(-N // columns)
    sheet = torch.ones(C, rows * (H + GAP) + GAP, columns * (W + GAP) + GAP)
    for i, image in enumerate(x):
        top, left = GAP + (i // columns) * (H + GAP), GAP + (i % columns) * (W + GAP)
        sheet[:, top : top + H, left : left + W] = image
    return sheet


def _save(image: Tensor, path: Path, enlarge: bool = False) -> None:
    from PIL import Image

    pixels = _bytes(image[None])[0]
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    scale = max(1, 640 // max(picture.size)) if enlarge else 1  # small digits would be hard to see
    with whole(path, flush=False) as unfinished:  # it can be drawn again
        picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(unfinished)


def _bytes(x: Tensor) -> np.ndarray:
    return to_uint8(x).permute(0, 2, 3, 1).contiguous().numpy()
