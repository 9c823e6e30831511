"""Denoising diffusion models from scratch: the library that the book builds, chapter by chapter."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusion_book import (
        conditions,
        data,
        denoise,
        editing,
        evaluation,
        guidance,
        losses,
        models,
        nn,
        predictions,
        process,
        samplers,
        schedules,
        training,
        zoo,
    )

__version__ = "0.1.0"
__all__ = [
    "conditions",
    "data",
    "denoise",
    "editing",
    "evaluation",
    "guidance",
    "losses",
    "models",
    "nn",
    "predictions",
    "process",
    "samplers",
    "schedules",
    "training",
    "zoo",
]


def __getattr__(name: str) -> object:
    """Import a room when it is first asked for, so that `diffusion-book --help` need not wait for torch."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
