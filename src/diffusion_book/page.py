"""What the book's pages use and experiments do not: profiles, glued numbers, recorded results, checks of exercises."""

import base64
import html
import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")
PROFILES = ("smoke", "cpu", "gpu")
RECORDS = Path(__file__).parents[2] / "book" / "recorded"  # in a checkout of the book


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
    """Store a computed value under a name, for the page's prose to show.

    A notebook shows `name: value` below the cell, so that who runs it sees their own number; the site takes the value
    into its prose and shows nothing there. The stored form is the one that the `glue` roles of MyST-NB read.
    """
    from IPython.display import display

    bundle = {
        "application/papermill.record/text/plain": repr(str(value)),  # a string, so that 2.50 stays 2.50
        "text/plain": f"{name}: {value}",
    }
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
        check: raises, with a message that helps, where the answer is wrong; mostly by `assert`, so that nothing is
            checked, and nothing said to be right, where Python was told to leave these out.
        answer: what the check takes, usually one function.
        must_pass: raise instead of only printing; the book's own solutions are run this way.
    """
    if not __debug__:
        blind = "This check cannot run: Python was started with -O or PYTHONOPTIMIZE, which leave `assert` out."
        if must_pass:
            raise RuntimeError(blind)
        print(blind)
        return
    try:
        check(*answer)
    except Exception as error:
        if must_pass:
            raise
        print(f"Not yet: {type(error).__name__}: {error}" if str(error) else f"Not yet: {type(error).__name__}")
    else:
        print("✓ Correct: the check passes.")


# Recorded results: what takes longer than a page may -----------------------------------------------------------------


@dataclass(frozen=True)
class Recorded:
    """A result that was measured once, and by whom it can be measured again."""

    name: str
    what: str  # what was measured, in a sentence
    command: str
    seed: int
    hardware: str
    seconds: float
    date: str
    commit: str
    numbers: dict[str, Any]
    pictures: dict[str, Tensor]  # each [C, H, W] in [−1, 1]

    def __str__(self) -> str:
        return (
            f"Recorded, not computed on this page: {self.what} By `{self.command}` with seed {self.seed}, "
            f"in {_duration(self.seconds)} on {self.hardware}, {self.date}, commit {self.commit[:7]}."
        )


def recorded(name: str) -> Recorded:
    """Load the result book/recorded/NAME.json, and say on the page that it is recorded, by what and when.

    The file is in a checkout of the book and in its wheel. `book/recorded/record.py` writes it; a test repeats the
    small piece of its command that it names.

    Raises:
        ValueError: there is no such record, or one of its fields is missing; the message says which.
    """
    from IPython.display import display

    files = _record_files()
    if name not in files:
        raise ValueError(f"there is no recorded result {name!r}; there are: {', '.join(sorted(files)) or 'none'}")
    result = read_record(files[name])
    said = html.escape(str(result))
    said = "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(said.split("`")))
    display({"text/html": f'<p class="recorded">{said}</p>', "text/plain": str(result)}, raw=True)
    return result


def read_record(path: Path) -> Recorded:
    """The record in a file, its pictures decoded."""
    fields = json.loads(path.read_text("utf8"))
    wanted = ["what", "command", "seed", "hardware", "seconds", "date", "commit", "numbers", "pictures", "small"]
    if missing := [field for field in wanted if field not in fields]:
        raise ValueError(f"{path.name} lacks {', '.join(missing)}; book/recorded/record.py writes a whole record")
    fields.pop("small")  # how a test repeats a piece of the command, not for the page
    fields["pictures"] = {key: _from_png(text) for key, text in fields["pictures"].items()}
    return Recorded(name=path.stem, **fields)


def _record_files() -> dict[str, Path]:
    """The records by name: those of the checkout that the library lies in, or those that its wheel installed."""
    if RECORDS.is_dir():
        return {path.stem: path for path in RECORDS.glob("*.json")}
    files = metadata.files("diffusion-book") or []
    return {file.stem: Path(str(file.locate())) for file in files if file.match("recorded/*.json")}


def _from_png(text: str) -> Tensor:
    from matplotlib.image import imread

    pixels = torch.from_numpy(imread(io.BytesIO(base64.b64decode(text)), format="png").copy())  # in [0, 1]
    return 2 * pixels.reshape(*pixels.shape[:2], -1)[..., :3].movedim(-1, 0) - 1


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
