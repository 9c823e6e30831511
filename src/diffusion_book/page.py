"""What the book's pages use and experiments do not: profiles, glued numbers, and the verdict on an exercise."""

import json
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

    bundle = {"application/papermill.record/text/plain": repr(str(value))}  # a string, so that 2.50 stays 2.50
    display(
        bundle,
        raw=True,
        metadata={"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}},
    )


def widget_data(name: str, value: object) -> None:
    """Hand what a page computed to the interactive figure of that name; nothing is seen where the cell runs.

    Args:
        name: the widget's, as in the page's directive `{widget} NAME`.
        value: numbers, strings, lists and dicts; NaN and infinities are not JSON.
    """
    from IPython.display import display

    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    display({"text/html": f'<script type="application/json" id="{name}-data">{text}</script>'}, raw=True)


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
