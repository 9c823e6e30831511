"""Reference statistics on disk: found again, never those of something else, never half of them."""

import dataclasses
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from diffusion_book.data import Images, images_sha256
from diffusion_book.evaluation import (
    Extractor,
    default_folder,
    extract,
    moments,
    reference_features,
    reference_moments,
)


@pytest.fixture
def images(train) -> Images:
    return Images(train.x[::100], {"y": train.conditions["y"][::100]}, "digits/train")


@pytest.fixture
def counted(extractor):
    """The extractor, and how many images it has seen."""
    seen: list[int] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return extractor.function(x)

    return dataclasses.replace(extractor, function=function), seen


def test_they_are_computed_once(counted, images, tmp_path):
    extractor, seen = counted
    first, again = (reference_moments(extractor, images, tmp_path / "new") for _ in range(2))
    assert sum(seen) == len(images)
    expected = moments(extractor, images.x, images.name)
    for found in (first, again):
        assert (found.n, found.extractor, found.data) == (expected.n, expected.extractor, expected.data)
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.scatter, expected.scatter)


def test_features_are_kept_as_well(counted, images, tmp_path):
    extractor, seen = counted
    reference_moments(extractor, images, tmp_path)
    first, again = (reference_features(extractor, images, tmp_path) for _ in range(2))
    assert sum(seen) == 2 * len(images)  # once for the moments, once for the features
    assert torch.equal(first, again)
    assert torch.equal(first, extract(extractor, images.x))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("what", ["name", "pixels", "number", "weights", "extractor", "preprocessing"])
def test_everything_that_they_depend_on_keeps_them_apart(what, counted, images, tmp_path):
    extractor, seen = counted
    reference_moments(extractor, images, tmp_path)
    x = images.x.clone()
    x[3, 0, 5, 5] = -x[3, 0, 5, 5]
    changes: dict[str, tuple[Extractor, Images]] = {
        "name": (extractor, Images(images.x, {}, "digits/test")),
        "pixels": (extractor, Images(x, {}, images.name)),
        "number": (extractor, Images(images.x[:-1], {}, images.name)),
        "weights": (dataclasses.replace(extractor, sha256="1" * 64), images),
        "extractor": (dataclasses.replace(extractor, name="other"), images),
        "preprocessing": (dataclasses.replace(extractor, preprocessing="none"), images),
    }
    before = sum(seen)
    found = reference_moments(*changes[what], tmp_path)
    assert sum(seen) == before + len(changes[what][1])
    assert (found.extractor, found.data, found.n) == (
        changes[what][0].identity,
        changes[what][1].name,
        len(changes[what][1]),
    )


def test_a_file_that_holds_something_else_is_told(extractor, images, tmp_path):
    reference_moments(extractor, images, tmp_path)
    (path,) = tmp_path.iterdir()
    with np.load(path) as file:
        arrays = dict(file)
    key = json.loads(str(arrays["key"]))
    np.savez(path, **{**arrays, "key": np.array(json.dumps({**key, "data": "cifar10/train", "weights": "?"}))})
    with pytest.raises(ValueError, match="holds statistics of another data, weights; delete it"):
        reference_moments(extractor, images, tmp_path)


def test_a_cut_file_is_told(extractor, images, tmp_path):
    reference_moments(extractor, images, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"cannot be read .*delete it"):
        reference_moments(extractor, images, tmp_path)


def test_a_cache_that_cannot_be_written_costs_only_the_cache(extractor, images, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match=r"moments-\w+\.npz could not be written .* set DIFFUSION_BOOK_CACHE"):
        found = reference_moments(extractor, images, tmp_path / "file" / "cache")
    assert torch.equal(found.mean, reference_moments(extractor, images, tmp_path / "there").mean)


def test_what_fails_leaves_nothing_behind(extractor, images, tmp_path):
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reference_moments(dataclasses.replace(extractor, function=broken), images, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_folder(monkeypatch, extractor, images, tmp_path):
    monkeypatch.setenv("DIFFUSION_BOOK_CACHE", str(tmp_path / "there"))
    assert default_folder() == tmp_path / "there"
    reference_moments(extractor, images)
    assert len(list((tmp_path / "there").iterdir())) == 1
    monkeypatch.delenv("DIFFUSION_BOOK_CACHE")
    assert default_folder().name == "reference"


def test_the_hash_of_images_is_of_pixels_and_shape(images):
    found = images_sha256(images.x)
    assert images_sha256(images.x + 1e-6) == found  # what rounds to the same bytes
    assert images_sha256(images.x.flip(0)) != found
    assert images_sha256(images.x.reshape(-1, 1, 14, 56)) != found


def test_without_a_home_only_the_cache_is_missing(homeless, extractor, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for find in (reference_moments, reference_features):
        with pytest.warns(UserWarning, match=r"no home directory, and \$DIFFUSION_BOOK_CACHE names none, so these"):
            found = find(extractor, images)
    assert torch.equal(found, reference_features(extractor, images, tmp_path / "there"))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_cache_that_cannot_even_be_looked_into_costs_only_the_cache(extractor, images):
    """Root may look into all, so it becomes nobody for a moment."""
    us = os.geteuid()
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "private").mkdir(0o700)
        Path(name).chmod(0o711)
        try:
            if us == 0:
                os.seteuid(65534)
            else:
                (Path(name) / "private").chmod(0)
            with pytest.warns(UserWarning, match=r"could not be written .*Permission denied.*so these statistics"):
                reference_features(extractor, images, Path(name) / "private" / "cache")
        finally:
            os.seteuid(us)
            (Path(name) / "private").chmod(0o700)


def test_the_folder_may_begin_at_home(extractor, images, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DIFFUSION_BOOK_CACHE", "~/cache")
    monkeypatch.chdir(tmp_path)
    reference_moments(extractor, images)
    reference_moments(extractor, images, "~/given")
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == ["cache", "given"]
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
