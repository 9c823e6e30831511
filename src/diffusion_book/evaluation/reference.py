"""Statistics of reference data, kept on disk: those of another data set or extractor are never used. Chapter 12.

A file is named by the hash of everything that it depends on, and holds it as well: the data's name and the hash of
their pixels, how many they are, the extractor's name and the hash of its weights, and what is done to an image before.
"""

import contextlib
import hashlib
import json
import os.path
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusion_book._files import cache_folder, expanded, whole
from diffusion_book.data import Images, images_sha256
from diffusion_book.evaluation.features import Extractor, extract
from diffusion_book.evaluation.frechet import Moments, moments

FORMAT = 1
Arrays = dict[str, np.ndarray]


def reference_moments(
    extractor: Extractor, images: Images, folder: Path | str | None = None, progress: bool = False
) -> Moments:
    """The moments of a data set, from the folder if they are there, else computed and put there.

    Args:
        folder: by default `default_folder()`.

    Raises:
        ValueError: a file is there that is broken or does not hold what its name says; it is not used.
    """

    def make() -> Arrays:
        m = moments(extractor, images.x, images.name, progress=progress, bright=True)  # `Images` was asked
        return {"n": np.array(m.n), "mean": m.mean.numpy(), "scatter": m.scatter.numpy()}

    found = _kept("moments", extractor, images, folder, make)
    mean, scatter = torch.from_numpy(found["mean"]), torch.from_numpy(found["scatter"])
    return Moments(int(found["n"]), mean, scatter, extractor.identity, images.name)


def reference_features(
    extractor: Extractor, images: Images, folder: Path | str | None = None, progress: bool = False
) -> Tensor:
    """The features [N, D] of a data set, as `reference_moments`: for what the moments are not enough."""

    def make() -> Arrays:
        return {"x": extract(extractor, images.x, progress=progress, bright=True).numpy()}

    found = _kept("features", extractor, images, folder, make)
    return torch.from_numpy(found["x"])


def default_folder() -> Path:
    """$DIFFUSION_BOOK_CACHE, or ~/.cache/diffusion-book/reference.

    Raises:
        OSError: there is no home directory either.
    """
    return cache_folder("DIFFUSION_BOOK_CACHE", "reference")


def _kept(
    kind: str, extractor: Extractor, images: Images, folder: Path | str | None, make: Callable[[], Arrays]
) -> Arrays:
    key = {
        "format": FORMAT,
        "kind": kind,
        "data": images.name,
        "images": len(images),
        "pixels": images_sha256(images.x),
        "extractor": extractor.name,
        "weights": extractor.sha256,
        "dim": extractor.dim,
        "preprocessing": extractor.preprocessing,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    path = None
    with _not_kept_where_that_fails():
        path = (expanded(folder) if folder else default_folder()) / f"{kind}-{name}.npz"
    if path is not None and os.path.exists(path):
        return _read(path, key)
    found = make()
    if path is not None:
        with _not_kept_where_that_fails():
            _write(path, key, found)
    return found


@contextlib.contextmanager
def _not_kept_where_that_fails() -> Iterator[None]:
    """Statistics take minutes, and their report an hour: it does not fail for want of a place to keep them."""
    try:
        yield
    except OSError as error:
        warnings.warn(
            f"{error}, so these statistics are not kept for the next time; "
            "set DIFFUSION_BOOK_CACHE to a folder that can",
            stacklevel=5,
        )


def _read(path: Path, key: Mapping[str, object]) -> Arrays:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        held = json.loads(str(arrays.pop("key")))
    except Exception as error:  # a cut file is told by zipfile, zlib, numpy or json, each in its own way
        raise ValueError(f"{path} cannot be read ({error}); delete it, and it is made again") from error
    if held != key:
        other = sorted(name for name in key if held.get(name) != key[name])
        raise ValueError(f"{path} holds statistics of another {', '.join(other)}; delete it, and it is made again")
    return arrays


def _write(path: Path, key: Mapping[str, object], arrays: Arrays) -> None:
    with whole(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, key=np.array(json.dumps(key)), **arrays)  # type: ignore[arg-type]
