"""Names: FID is one thing, and nothing else is called so."""

import pytest
import torch

from diffusion_book.data import Images, split
from diffusion_book.evaluation import Extractor, called, kernel_called

FOLDER = Images(torch.full((4, 3, 2, 2), -1.0), {}, "folder:/pictures")


def extractor(kind: str) -> Extractor:
    return Extractor("net", "0" * 64, 2, lambda x: x, kind=kind)


@pytest.mark.parametrize(
    ("n", "name"),
    [(50_000, "FID"), (10_000, "FID-10k"), (49_999, "FID-49999"), (50_001, "FID-50001"), (100_000, "FID-100k")],
)
def test_inception_is_named_by_its_number(n, name):
    assert called(extractor("inception"), "cifar10/train", n, 50_000) == name
    assert called(extractor("inception"), "folder:cats", n, 123) == name
    assert kernel_called(extractor("inception"), "cifar10/train") == "KID"


@pytest.mark.parametrize("numbers", [(), (50_000,), (None, 50_000)])
def test_without_a_number_it_has_no_name(numbers):
    with pytest.raises(ValueError, match="pass n and n_reference"):
        called(extractor("inception"), "cifar10/train", *numbers)


@pytest.mark.parametrize(
    ("reference", "n"),
    [
        ("cifar10/test", 10_000),
        ("cifar10/test", 50_000),
        ("cifar10/train", 49_999),
        ("cifar10/train, kept", 50_000),
        ("fashion-mnist/train", 60_000),
        *((part.name, len(part)) for part in split(FOLDER, 0.5, torch.Generator().manual_seed(0))),
    ],
)
def test_against_less_than_a_training_set_nothing_is_a_fid(reference, n):
    for samples in (10_000, 50_000):
        assert called(extractor("inception"), reference, samples, n) == "Fréchet distance (net)"


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("mnist/train", "MNIST"),
        ("mnist-5k/train", "MNIST-5K"),
        ("folder:/home/me/cats/", "cats"),
        ("folder:cats", "cats"),
        ("folder:/", "FOLDER"),
    ],
)
def test_a_classifier_is_named_by_its_data(reference, name):
    assert called(extractor("classifier"), reference, 50_000) == f"FCD-{name}"
    assert kernel_called(extractor("classifier"), reference) == f"KCD-{name}"


def test_others_say_what_they_are():
    assert called(extractor("other"), "mnist/train", 50_000) == "Fréchet distance (net)"
    assert kernel_called(extractor("other"), "mnist/train") == "kernel distance (net)"
