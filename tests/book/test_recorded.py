"""Recorded results: each record is whole, stands on a page, and a small piece of its command gives its numbers."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from _support import rules
from diffusion_book import page

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "book" / "recorded"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def repeat(small: dict[str, Any], root: Path) -> list[str]:
    """Run the small piece of a record again; what it prints last are its numbers. Returns which are off."""
    program, *words = shlex.split(small["command"])
    command = [sys.executable if program == "python" else program, *words]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if run.returncode:
        return [f"{small['command']} ended with {run.returncode}: {run.stderr[-2000:]}"]
    found = json.loads(run.stdout.strip().splitlines()[-1])
    return [
        f"{name} is {found.get(name)}, recorded as {wanted} ± {small['tolerance'][name]}"
        for name, wanted in small["expected"].items()
        if not abs(found.get(name, float("nan")) - wanted) <= small["tolerance"][name]
    ]


@pytest.mark.parametrize("name", NAMES)
def test_record_is_whole(name: str) -> None:
    result = page.read_record(FOLDER / f"{name}.json")
    assert result.numbers or result.pictures
    assert (ROOT / shlex.split(result.command)[1]).is_file()
    assert re.fullmatch(r"[0-9a-f]{40}", result.commit)
    small = json.loads((FOLDER / f"{name}.json").read_text("utf8"))["small"]
    assert small["expected"], "nothing of it is repeated"


@pytest.mark.parametrize("name", NAMES)
def test_a_small_piece_gives_the_recorded_numbers(name: str) -> None:
    problems = repeat(json.loads((FOLDER / f"{name}.json").read_text("utf8"))["small"], ROOT)
    assert not problems, "\n".join(problems)


def test_every_record_stands_on_a_page() -> None:
    text = "".join(path.read_text("utf8") for path in rules.chapters(ROOT))
    unused = [name for name in NAMES if f'page.recorded("{name}")' not in text]
    assert not unused, unused


# The mechanism, on a record of three throws ----------------------------------------------------------------------

THROWS = """
import torch
from record import record

def measure(throws, seed):
    dice = torch.randint(1, 7, (throws,), generator=torch.Generator().manual_seed(seed)).double()
    return {"mean": dice.mean().item(), "throws": throws, "pictures": {"dice": torch.full((1, 2, 3), -1.0)}}

if __name__ == "__main__":
    record(measure, "The mean of throws.", seed=4, full={"throws": 1000}, small={"throws": 3}, tolerance={"mean": 1e-9})
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with nothing but the way to record, and one thing to be recorded."""
    folder = tmp_path / "book" / "recorded"
    folder.mkdir(parents=True)
    (folder / "record.py").write_bytes((FOLDER / "record.py").read_bytes())
    (folder / "throws.py").write_text(THROWS)
    (tmp_path / "src").mkdir()
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "A way to record"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    return tmp_path


def test_a_record_is_made_read_and_repeated(repository: Path) -> None:
    command = [sys.executable, "book/recorded/throws.py"]
    subprocess.run(command, cwd=repository, check=True)
    path = repository / "book" / "recorded" / "throws.json"
    result = page.read_record(path)
    assert result.command == "python book/recorded/throws.py"
    assert (result.numbers["throws"], result.seed) == (1000, 4)
    assert result.pictures["dice"].tolist() == [[[-1.0] * 3] * 2]
    assert len(result.commit) == 40
    small = json.loads(path.read_text("utf8"))["small"]
    assert repeat(small, repository) == []
    small["expected"]["mean"] += 1e-3
    assert "recorded as" in repeat(small, repository)[0]
    small["command"] += " --unheard"
    (repository / "book" / "recorded" / "throws.py").write_text("raise SystemExit('gone')")
    assert "gone" in repeat(small, repository)[0]
    run = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert run.returncode, "what has no commit cannot be recorded"


def test_code_that_is_not_committed_is_not_recorded(repository: Path) -> None:
    script = repository / "book" / "recorded" / "throws.py"
    script.write_text(THROWS.replace("seed=4", "seed=5"))
    run = subprocess.run([sys.executable, script], cwd=repository, capture_output=True, text=True)
    assert "commit first" in run.stderr
    assert not script.with_suffix(".json").exists()
