"""Exercises: the cells that come from the one file of solution, stub and check, and the mark of each one's level.

`expand` replaces the directives `{exercise-stub}` and `{exercise-solution}` in a page's text by code cells.
Sphinx gets the expanded text, so the cells are executed and cached like any other.
"""

import ast
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx_exercise.directive import ExerciseStartDirective
from sphinx_exercise.nodes import is_exercise_node

FOLDER = Path(__file__).resolve().parents[1] / "exercises"
BEGIN, END = "# solution", "# end solution"
CHECK = "---\nmystnb:\n  code_prompt_show: Show the check\ntags: [hide-input]\n---"
EMPTY = 'raise NotImplementedError("your turn")'
LEVELS = ("warm-up", "coding", "deep")
DIRECTIVE = re.compile(r"^```\{exercise-(stub|solution)\}[ \t]+(\S+)[ \t]*\n```[ \t]*$", re.MULTILINE)


class ExerciseError(ValueError):
    """A file or a directive of an exercise that is not of the agreed form."""


@dataclass(frozen=True)
class Exercise:
    name: str
    function: str  # the name of what the reader writes
    stub: str
    solution: str
    check: str

    def cells(self, kind: str) -> str:
        """The cells that stand for `{exercise-stub}` or `{exercise-solution}`, as MyST."""
        if kind == "stub":
            attempt = f"{self.check}\n\n\npage.attempt(check, {self.function})"
            return f"{_cell(self.stub)}\n\n{_cell(attempt, CHECK)}"
        return _cell(f"{self.solution}\n\n\npage.attempt(check, {self.function}, must_pass=True)")


def load(name: str, folder: Path = FOLDER) -> Exercise:
    """Read an exercise by the name of its file, such as `ex_02_01`."""
    path = folder / f"{name}.py"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("ex_*.py"))) or "none yet"
        raise ExerciseError(f"there is no exercise {name!r} in book/exercises; there are: {known}")
    return split(name, path.read_text("utf8"))


def split(name: str, text: str) -> Exercise:
    """Split the text of an exercise's file: above `check` is the answer, from `check` on is the check."""
    module = ast.parse(text)
    public = [node for node in module.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"]
    checks = [node for node in public if node.name == "check"]
    answers = [node for node in public if node.name != "check"]
    if len(checks) != 1 or len(answers) != 1:
        raise ExerciseError(
            f"{name}: expected one public function and one function `check`, "
            f"got {', '.join(node.name for node in public) or 'none'}"
        )
    check, answer = checks[0], answers[0]
    if check.lineno < answer.lineno:
        raise ExerciseError(f"{name}: `check` stands below the function that it checks")

    lines = text.splitlines()
    begin, end = _markers(name, lines)
    if not answer.lineno - 1 < begin < end < (answer.end_lineno or 0) + 1:
        raise ExerciseError(f"{name}: the markers of the solution stand inside {answer.name}")
    first = (ast.get_docstring(module) is not None and module.body[0].end_lineno) or 0
    head, body, tail = lines[first:begin], lines[begin + 1 : end], lines[end + 1 : check.lineno - 1]
    indent = lines[begin][: -len(lines[begin].lstrip())]
    return Exercise(
        name=name,
        function=answer.name,
        stub="\n".join([*head, indent + EMPTY, *tail]).strip(),
        solution="\n".join([*head, *body, *tail]).strip(),
        check="\n".join(lines[check.lineno - 1 :]).strip(),
    )


def _markers(name: str, lines: list[str]) -> tuple[int, int]:
    begins = [index for index, line in enumerate(lines) if line.strip() == BEGIN]
    ends = [index for index, line in enumerate(lines) if line.strip() == END]
    if len(begins) != 1 or len(ends) != 1:
        raise ExerciseError(
            f"{name}: expected one line `{BEGIN}` and one line `{END}`, got {len(begins)} and {len(ends)}"
        )
    return begins[0], ends[0]


def expand(text: str, folder: Path = FOLDER) -> str:
    """Replace the directives of exercises in a page's text by code cells.

    Raises:
        ExerciseError: an unknown name, or a solution whose stub is not the last one before it. (Each stub
            defines `check` anew; the solution would be checked by another exercise's check.)
    """
    last_stub = None

    def cells(found: re.Match[str]) -> str:
        nonlocal last_stub
        kind, name = found.groups()
        if kind == "stub":
            last_stub = name
        elif name != last_stub:
            raise ExerciseError(f"the solution of {name} follows the stub of {last_stub}; put it right after its own")
        return load(name, folder).cells(kind)

    return DIRECTIVE.sub(cells, text)


def _cell(code: str, options: str = "") -> str:
    return "\n".join(filter(None, ["```{code-cell}", options, code, "```"]))


class LevelledExercise(ExerciseStartDirective):
    """`{exercise-start}` with the option `:level:`."""

    option_spec = {  # noqa: RUF012
        **ExerciseStartDirective.option_spec,
        "level": lambda argument: directives.choice(argument, LEVELS),
    }

    def run(self) -> list[nodes.Node]:
        found = super().run()
        for node in found:
            node["level"] = self.options.get("level", "")
        return found


class ShowLevels(SphinxPostTransform):
    """On the site, the level stands behind the title; in a notebook, notebook_writer.py writes it."""

    default_priority = 25  # after sphinx-exercise has resolved the titles
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for exercise in self.document.findall(is_exercise_node):
            if level := exercise.get("level"):
                exercise[0] += [nodes.Text(" "), nodes.inline("", level, classes=["exercise-level", f"level-{level}"])]


def expand_source(app: Sphinx, docname: str, source: list[str]) -> None:
    try:
        source[0] = expand(source[0], Path(app.srcdir) / "exercises")
    except ExerciseError as error:
        raise ExerciseError(f"{docname}.md: {error}") from None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", expand_source)
    app.add_directive("exercise-start", LevelledExercise, override=True)
    app.add_post_transform(ShowLevels)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
