"""What a number may be called. Chapter 12.

"FID" is one network, one resize, one number of samples and one reference; everything else has another name, so that
no two numbers of one name are incomparable.
"""

from diffusion_book.evaluation.features import Extractor

INCEPTION = "inception-v3-compat"
"""The name of the one extractor whose distances may be called FID and KID: see `inception`."""

FID_SAMPLES = 50_000


def called(extractor: Extractor, reference: str, n: int | None = None) -> str:
    """The name of a Fréchet distance.

    | extractor | name |
    |---|---|
    | Inception, n = 50,000 | FID |
    | Inception, n = 10,000 | FID-10k |
    | Inception, n = 1,234 | FID-1234 |
    | a classifier, against "mnist/train" | FCD-MNIST |
    | another | Fréchet distance (its name) |

    Args:
        reference: the name of the reference data, as in `Images.name`; "mnist-5k/train" gives FCD-MNIST-5K.
        n: how many samples; only Inception's name needs it, a report prints it beside every name.
    """
    if extractor.kind == "inception":
        if n is None:
            raise ValueError("a Fréchet Inception distance is named by its number of samples: pass n")
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
