"""What a number may be called. Chapter 12.

"FID" is one network, one resize, one number of samples and one reference; everything else has another name, so that
no two numbers of one name are incomparable.
"""

from diffusion_book.evaluation.features import Extractor

INCEPTION = "inception-v3-compat"
"""The name of the one extractor whose distances may be called FID and KID: see `inception`."""

FID_SAMPLES = 50_000

FULL = {"cifar10/train": 50_000}
"""How many images the training sets have that a FID may be measured against; of a folder, all of it is."""


def is_full(reference: str, n_reference: int) -> bool:
    """Whether so many images of that name are a whole training set, which a FID's reference must be."""
    if reference.startswith("folder:"):
        return not reference.endswith((", kept", ", held out"))  # which are the parts of `data.split`
    return FULL.get(reference) == n_reference


def called(extractor: Extractor, reference: str, n: int | None = None, n_reference: int | None = None) -> str:
    """The name of a Fréchet distance.

    | extractor | name |
    |---|---|
    | Inception, n = 50,000 | FID |
    | Inception, n = 10,000 | FID-10k |
    | Inception, n = 1,234 | FID-1234 |
    | Inception, against less than a whole training set, or a test set | Fréchet distance (inception-v3-compat) |
    | a classifier, against "mnist/train" | FCD-MNIST |
    | another | Fréchet distance (its name) |

    Args:
        reference: the name of the reference data, as in `Images.name`; "mnist-5k/train" gives FCD-MNIST-5K.
        n, n_reference: how many samples, and how many images they are measured against; only Inception's name needs
            them, a report prints them beside every name.

    Raises:
        ValueError: it is Inception's, and a number is missing.
    """
    if extractor.kind == "inception" and (n is None or n_reference is None):
        raise ValueError(f"a FID is named by its numbers of images: pass n and n_reference, got {n} and {n_reference}")
    if n is not None and n_reference is not None and extractor.kind == "inception" and is_full(reference, n_reference):
        if n == FID_SAMPLES:
            return "FID"
        return f"FID-{n // 1000}k" if n % 1000 == 0 else f"FID-{n}"
    return f"FCD-{_data(reference)}" if extractor.kind == "classifier" else f"Fréchet distance ({extractor.name})"


def kernel_called(extractor: Extractor, reference: str) -> str:
    """The name of a kernel distance: KID for Inception, KCD-MNIST for a classifier. It has no bias in N to tell."""
    if extractor.kind == "inception":
        return "KID"
    return f"KCD-{_data(reference)}" if extractor.kind == "classifier" else f"kernel distance ({extractor.name})"


def _data(reference: str) -> str:
    if reference.startswith("folder:"):
        return reference.removeprefix("folder:").rstrip("/").rpartition("/")[2] or "FOLDER"
    return reference.partition("/")[0].upper()
