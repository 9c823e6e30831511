"""The mistakes of MISTAKES.md: each row names tests, and they exist."""

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROWS = re.findall(r"^\| (?!mistake |---)(.+?) \| (.+) \|$", (HERE / "MISTAKES.md").read_text("utf8"), re.MULTILINE)


def test_the_table_is_read():
    assert len(ROWS) >= 15


@pytest.mark.parametrize(("mistake", "tests"), ROWS, ids=[mistake for mistake, _ in ROWS])
def test_every_mistake_has_its_tests(mistake, tests):
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", tests)
    assert len(named) == tests.count("`") / 2 > 0, "name tests as `file.py::test_name`"
    for file, name in named:
        tree = ast.parse((HERE / file).read_text("utf8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file} has no {name}"
