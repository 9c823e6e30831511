"""What the book's pages use and experiments do not: profiles, glued numbers, and the verdict on an exercise."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")
PROFILES = ("smoke", "cpu", "gpu")


def profile() -> str:
    """The profile in force: $DIFFUSION_BOOK_PROFILE, or "gpu" where there is one and "cpu" where there is not.

    `smoke` proves that code runs; `cpu` is what the site is built with; `gpu` trains for real.
    """
    name = os.environ.get("DIFFUSION_BOOK_PROFILE") or ("gpu" if torch.cuda.is_available() else "cpu")
    if name not in PROFILES:
        raise ValueError(f"DIFFUSION_BOOK_PROFILE must be one of {', '.join(PROFILES)}, got {name!r}")
    return name


def pick(*, smoke: Value, cpu: Value, gpu: Value) -> Value:
    """The value for the profile in force: `steps = page.pick(smoke=2, cpu=800, gpu=20_000)`."""
    return {"smoke": smoke, "cpu": cpu, "gpu": gpu}[profile()]


def device() -> torch.device:
    """Where a page computes: the GPU in the `gpu` profile, else the CPU."""
    return torch.device("cuda" if profile() == "gpu" and torch.cuda.is_available() else "cpu")


def glue(name: str, value: object) -> None:
    """Store a computed value under a name, for the page's prose to show; it prints nothing where the cell runs.

    The stored form is the one that the `glue` roles of MyST-NB read.
    """
    from IPython.display import display

    bundle = {"application/papermill.record/text/plain": str(value)}
    display(
        bundle,
        raw=True,
        metadata={"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}},
    )


def attempt(check: Callable[..., None], *answer: Any, must_pass: bool = False) -> None:
    """Run an exercise's check on an answer and say what it found.

    Args:
        check: raises, with a message that helps, where the answer is wrong.
        answer: what the check takes, usually one function.
        must_pass: raise instead of only printing; the book's own solutions are run this way.
    """
    try:
        check(*answer)
    except Exception as error:
        if must_pass:
            raise
        print(f"Not yet: {type(error).__name__}: {error}" if str(error) else f"Not yet: {type(error).__name__}")
    else:
        print("✓ Correct: the check passes.")
