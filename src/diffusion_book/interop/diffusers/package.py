"""The package `diffusers` itself, of the extra `interop`: imported where it is used, and not before."""

import importlib.util
from typing import Any


def diffusers() -> Any:
    """The package, or an ImportError that says how to install it."""
    if importlib.util.find_spec("diffusers") is None:
        raise ImportError("pipelines need the package diffusers: pip install 'diffusion-book[interop]'")
    # diffusers imports torchvision, which beside a CPU build of torch has to be mended first.
    import diffusers

    import diffusion_book._torchvision  # noqa: F401

    return diffusers
