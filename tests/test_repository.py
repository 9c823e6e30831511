"""What stands at the root of the repository: make, pins, forms for issues."""

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


# make, on machines that are not as ours


@pytest.fixture
def make(tmp_path):
    """What make says of a target in a folder whose name has a space."""
    folder = tmp_path / "my book"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)

    def make(*words: str, **environment: str) -> str:
        run = subprocess.run(
            ["make", "--no-print-directory", *words],
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    return make


@pytest.mark.parametrize("target", ["book", "notebooks"])
def test_a_folder_with_a_space_is_one_word(make, tmp_path, target):
    (tmp_path / "my book" / "pyproject.toml").touch()
    (tmp_path / "my book" / "constraints.txt").touch()
    lines = [line for line in make("-n", target).splitlines() if "jupyter-book build" in line]
    assert len(lines) == {"book": 1, "notebooks": 2}[target]
    for line in lines:
        words = shlex.split(line)
        assert words[words.index("--toc") + 1] == str(tmp_path / "my book" / "_toc.yml")


def test_python_in_make_takes_nothing_from_the_environment(make, tmp_path):
    """A PYTHONPATH with a package `api` would come before the book's own; asserts are what the pages are checked by."""
    (tmp_path / "my book" / "Makefile").open("a").write("\nshow:\n\t@env\n")
    told = make("show", PYTHONPATH="/elsewhere", PYTHONOPTIMIZE="1", PYTHONHOME="/elsewhere")
    assert "PYTHONUTF8=1" in told
    assert not re.search("^PYTHON(PATH|OPTIMIZE|HOME)=", told, re.MULTILINE)


def test_make_says_what_each_part_took_and_fails_where_it_fails(make, tmp_path):
    (tmp_path / "my book" / "Makefile").open("a").write(
        "\ngood:\n\t$(call timed,a part,true && true)\nbad:\n\t$(call timed,a part,true && false)\n"
    )
    assert re.fullmatch(r"== a part: \d+ s\n", make("good"))
    with pytest.raises(AssertionError, match="Error 1"):
        make("bad")


# Pins


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf8").splitlines()
    found = dict(line.split("==") for line in lines if not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, version in found.items()}


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in (*project["dependencies"], *extras)]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_what_is_required_is_pinned_within_its_bounds(requirement):
    assert requirement.specifier.contains(pins()[requirement.name.lower()])


def test_a_notebook_keeps_the_torch_that_it_finds():
    """An upper bound would make pip replace Colab's CUDA build."""
    bounds = {r.name: {s.operator for s in r.specifier} for r in requirements() if r.name in ("torch", "torchvision")}
    assert bounds == {"torch": {">="}, "torchvision": {">="}}


# Forms


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")), ids=lambda path: path.stem)
def test_a_form_is_one_that_github_reads(path):
    form = yaml.safe_load(path.read_text("utf8"))
    assert {"name", "description", "body"} <= form.keys()
    questions = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in questions} <= {"input", "textarea", "dropdown", "checkboxes"}
    names = [part["id"] for part in questions]
    labels = [part["attributes"]["label"] for part in questions]
    assert len(set(names)) == len(names) > 0
    assert len(set(labels)) == len(labels)
    assert all(part["attributes"].get("options") for part in questions if part["type"] == "dropdown")
