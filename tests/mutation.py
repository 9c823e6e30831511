"""Break the library on purpose, one small change at a time, and see that some test goes red.

    python tests/mutation.py --count 100 --seed 0

draws places in `schedules`, `process`, `predictions`, `losses`, `denoise`, `guidance` and `samplers` at random, changes
one operator, comparison, number or condition there, and runs the tests that answer for that file on the changed
package: those that bear its name, and the others if these stay green. A change that no test notices is printed: either
a test is missing, or the change does not matter, and then it should be possible to say why. Not part of `make test`,
which it would make many times longer.
"""

import argparse
import ast
import contextlib
import copy
import importlib
import importlib.abc
import os
import random
import signal
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "diffusion_book"
TESTS: dict[str, list[str]] = {
    "schedules": ["tests/test_schedules.py"],
    "_random.py": ["tests/test_random.py"],
    "process.py": ["tests/test_process.py", "tests/losses"],
    "predictions.py": ["tests/test_predictions.py", "tests/test_process.py", "tests/losses"],
    "losses": ["tests/losses"],
    "denoise.py": ["tests/test_denoise.py", "tests/samplers/test_common.py"],
    "guidance.py": ["tests/test_guidance.py"],
    "samplers": ["tests/samplers"],
}
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult}
COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}


def mutants(tree: ast.Module) -> Iterator[tuple[ast.Module, int, str]]:
    """Every tree that differs in one place, the line of that place, and what was done there."""
    for index, node in enumerate(ast.walk(tree)):
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            yield _changed(tree, index, "op", OPERATORS[type(node.op)]()), node.lineno, f"swap in {ast.unparse(node)}"
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
            new = [COMPARISONS[type(node.ops[0])](), *node.ops[1:]]
            yield _changed(tree, index, "ops", new), node.lineno, f"shift {ast.unparse(node)}"
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            yield _changed(tree, index, "value", node.value + 1), node.lineno, f"{node.value} + 1"
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield _changed(tree, index, "op", ast.UAdd()), node.lineno, f"drop the minus of {ast.unparse(node)}"
        elif isinstance(node, ast.If | ast.IfExp):
            no = ast.UnaryOp(ast.Not(), node.test)
            yield _changed(tree, index, "test", no), node.lineno, f"negate {ast.unparse(node.test)}"


def _changed(tree: ast.Module, index: int, field: str, value: object) -> ast.Module:
    new = copy.deepcopy(tree)
    setattr(list(ast.walk(new))[index], field, copy.deepcopy(value))
    return ast.fix_missing_locations(new)


class Replaced(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Imports one module of the package from other source than its file's."""

    def __init__(self, path: Path, source: str) -> None:
        self.name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        self.path, self.source = str(path), source

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None

    def get_data(self, path: str) -> bytes:
        return self.source.encode()

    def get_filename(self, fullname: str) -> str:
        return self.path


def survives(path: Path, source: str, tests: list[str]) -> bool:
    """Whether the tests stay green with this source in the place of the file's own.

    In a fork of this process: what tests import beside the package takes longer than most of them do.
    """
    child = os.fork()
    if child == 0:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        sys.meta_path.insert(0, Replaced(path, source))
        signal.alarm(600)  # a loop that never ends is noticed
        green = False
        with contextlib.suppress(BaseException):
            green = pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests]) == 0
        os._exit(0 if green else 1)
    _, status = os.waitpid(child, 0)
    return status == 0


def stages(path: Path, tests: list[str]) -> list[list[str]]:
    """The test files that bear this file's name, and then the rest, which no mutant sees that the first have killed."""
    files = [str(file) for test in tests for file in sorted(Path(test).rglob("test_*.py")) or [test]]
    own = [file for file in files if Path(file).name == f"test_{path.name}"]
    return [part for part in (own, [file for file in files if file not in own]) if part]


def warm() -> None:
    """Import what the tests import, but the package, which no fork may have before its mutant is in place."""
    for name in ("diffusers", "hypothesis", "matplotlib.pyplot", "mpmath", "scipy.stats", "torch"):
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    if loaded := [name for name in sys.modules if name.startswith("diffusion_book")]:
        raise RuntimeError(f"the package must not be imported before its mutants, but {loaded[0]} is")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=100, help="how many changes to try")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of the path, such as samplers/ddim")
    options = parser.parse_args()
    os.chdir(ROOT)
    warm()
    found = []
    for part, tests in TESTS.items():
        for path in sorted((PACKAGE / part).rglob("*.py")) if (PACKAGE / part).is_dir() else [PACKAGE / part]:
            if options.only in str(path):
                found += [(path, tests, *mutant) for mutant in mutants(ast.parse(path.read_text("utf8")))]
    chosen = random.Random(options.seed).sample(found, min(options.count, len(found)))
    left = 0
    for number, (path, tests, tree, line, what) in enumerate(chosen, 1):
        alive = all(survives(path, ast.unparse(tree), part) for part in stages(path, tests))
        left += alive
        print(f"{number}/{len(chosen)} {'SURVIVES' if alive else 'killed'} {path.name}:{line} {what}", flush=True)
    print(f"{len(chosen) - left} of {len(chosen)} killed, of {len(found)} possible")


if __name__ == "__main__":
    main()
