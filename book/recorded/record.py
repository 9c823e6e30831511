"""Make a recorded result: `python book/recorded/NAME.py` writes NAME.json beside it, for `page.recorded("NAME")`.

NAME.py holds the measurement as one function, and says how large it is in full and in small:

    from record import record

    def measure(steps: int, seed: int) -> dict: ...  # numbers, and "pictures": {name: [C, H, W] in [−1, 1]}, if any

    if __name__ == "__main__":
        record(measure, "The loss of …, against its steps.", seed=3, full={"steps": 100_000}, small={"steps": 20},
               tolerance={"loss": 1e-4})

`python book/recorded/NAME.py --small` prints the numbers of the small piece as JSON in its last line. The record keeps
them, so that a test can run that command again on another machine and compare, each number within its tolerance.
"""

import base64
import inspect
import io
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffusion_book.data.images import to_uint8

ROOT = Path(__file__).resolve().parents[2]
Measure = Callable[..., dict[str, Any]]


def record(
    measure: Measure, what: str, *, seed: int, full: dict[str, Any], small: dict[str, Any], tolerance: dict[str, float]
) -> None:
    """Run `measure` in full and write its record; with `--small` among the arguments, only print the small piece.

    Args:
        measure: called with the arguments of `full` or of `small`, and `seed`; returns numbers (anything that JSON
            holds) and, under "pictures", small images.
        what: what was measured, in a sentence that the page prints.
        tolerance: how far each number that the test repeats may be off, on another machine.
    """
    if "--small" in sys.argv[1:]:
        numbers = measure(**small, seed=seed)
        print(json.dumps({name: float(numbers[name]) for name in tolerance}))
        return
    path = Path(inspect.getfile(measure)).resolve().with_suffix(".json")
    command = f"python {path.with_suffix('.py').relative_to(ROOT).as_posix()}"
    commit = clean_commit()
    expected = measure(**small, seed=seed)  # first: it fails in seconds where the whole would fail in hours
    start = time.perf_counter()
    numbers = measure(**full, seed=seed)
    fields = {
        "what": what,
        "command": command,
        "seed": seed,
        "hardware": hardware(),
        "seconds": round(time.perf_counter() - start, 1),
        "date": date.today().isoformat(),
        "commit": commit,
        "pictures": {name: png(picture) for name, picture in numbers.pop("pictures", {}).items()},
        "numbers": numbers,
        "small": {
            "command": f"{command} --small",
            "expected": {name: float(expected[name]) for name in tolerance},
            "tolerance": tolerance,
        },
    }
    path.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", "utf8")
    print(f"wrote {path.relative_to(ROOT)}")


def clean_commit() -> str:
    """The commit that is checked out; a record of code that nobody can check out would prove nothing."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    if changed := git("status", "--porcelain", "--", "src", "book/recorded/*.py"):
        raise SystemExit(f"commit first, so that the record can name a commit; changed:\n{changed}")
    return git("rev-parse", "HEAD")


def hardware() -> str:
    if torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    else:
        cores = torch.get_num_threads()
        where = f"{cores} core{'s' * (cores != 1)} of {_processor()}"
    return f"{where}, torch {torch.__version__}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def png(picture: Tensor) -> str:
    """A picture [C, H, W] in [−1, 1] as PNG in base64."""
    pixels = to_uint8(picture).movedim(0, -1).squeeze(-1).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
