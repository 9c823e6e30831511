"""Names: FID is one thing, and nothing else is called so."""

import pytest

from diffusion_book.evaluation import Extractor, called, kernel_called


def extractor(kind: str) -> Extractor:
    return Extractor("net", "0" * 64, 2, lambda x: x, kind=kind)


@pytest.mark.parametrize(
    ("n", "name"),
    [(50_000, "FID"), (10_000, "FID-10k"), (49_999, "FID-49999"), (50_001, "FID-50001"), (100_000, "FID-100k")],
)
def test_inception_is_named_by_its_number(n, name):
    assert called(extractor("inception"), "cifar10/train", n) == name
    assert kernel_called(extractor("inception"), "cifar10/train") == "KID"


def test_without_a_number_it_has_no_name():
    with pytest.raises(ValueError, match="pass n"):
        called(extractor("inception"), "cifar10/train")


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
