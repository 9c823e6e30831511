"""Every coding exercise: its check passes on the solution, fails on the stub, and it stands on one page."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import exercises
import pytest

from _support import rules

FILES = sorted(path.stem for path in exercises.FOLDER.glob("ex_*.py"))


def answer(exercise: exercises.Exercise, source: str) -> tuple[Any, Any]:
    """What the reader writes and the check of it, from the cells as they stand on the page."""
    namespace: dict[str, Any] = {"__name__": exercise.name}
    exec(compile(source, f"{exercise.name}.py", "exec"), namespace)
    exec(compile(exercise.check, f"{exercise.name}.py, check", "exec"), namespace)
    return namespace["check"], namespace[exercise.function]


@pytest.mark.parametrize("name", FILES)
def test_solution_passes_its_check(name: str) -> None:
    exercise = exercises.load(name)
    check, solution = answer(exercise, exercise.solution)
    check(solution)


@pytest.mark.parametrize("name", FILES)
def test_stub_fails_its_check(name: str) -> None:
    exercise = exercises.load(name)
    check, stub = answer(exercise, exercise.stub)
    with pytest.raises(NotImplementedError):
        check(stub)


def test_every_exercise_stands_on_the_page_of_its_chapter(root: Path) -> None:
    """Each file once as a stub and once as a solution, in the chapter that its name gives; no other names."""
    expected = Counter((kind, name[3:5], name) for name in FILES for kind in ("stub", "solution"))
    found: Counter[tuple[str, str, str]] = Counter()
    for chapter in rules.chapters(root):
        for kind, name in re.findall(exercises.DIRECTIVE, chapter.read_text("utf8")):
            found[(kind, chapter.stem[:2], name)] += 1
    assert found == expected, f"missing {list(expected - found)}, too many {list(found - expected)}"
