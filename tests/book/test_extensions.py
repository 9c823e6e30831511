"""The book's own Sphinx extensions: what they promise, on small pages and in small builds."""

import importlib
import io
import operator
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import equations
import execution
import exercises
import inline_svg
import numbering
import pages
import pytest
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import docutils_namespace, patch_docutils

# Equations and their tests


@dataclass
class Built:
    error: ExtensionError | None
    warnings: str
    html: Path


Build = Callable[..., Built]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Build a book of one chapter, without `-W`: text of the page, text of its tests, and is it the whole book."""

    def build(page: str, tests: str, whole_book: bool = True) -> Built:
        source, folder = tmp_path / "book", tmp_path / "tests" / "equations"
        source.mkdir()
        folder.mkdir(parents=True)
        (source / "index.md").write_text(f"# A Chapter\n\n{page}\n", "utf8")
        (folder / "test_02.py").write_text(dedent(tests), "utf8")
        if whole_book:
            (source / "checks.md").write_text("---\norphan: true\n---\n# Checks\n\n```{equation-checks}\n```\n", "utf8")
        settings = {
            "extensions": ["myst_parser", "equations"],
            "myst_enable_extensions": ["dollarmath", "amsmath"],
            "source_suffix": {".md": "markdown"},  # Sphinx keeps what other builds of this process have set
        }
        html, warnings, error = tmp_path / "html", io.StringIO(), None
        with patch_docutils(), docutils_namespace():
            app = Sphinx(source, None, html, tmp_path / "doctrees", "html", settings, None, warnings)
            try:
                app.build()
            except ExtensionError as caught:
                error = caught
        return Built(error, warnings.getvalue(), html)

    return build


TESTS = """
    import pytest

    @pytest.mark.equation("eq-sum")
    @pytest.mark.parametrize("n", [1, 2])
    def test_sum(n):
        assert n + n == 2 * n
    """


def test_tested_equation_is_marked_and_its_test_is_shown(build: Build) -> None:
    built = build("$$ n + n = 2n $$ (eq-sum)\n\n$$ n = 1 $$ (def-one)", TESTS)
    assert built.error is None
    page = (built.html / "index.html").read_text("utf8")
    assert 'href="checks.html#eq-sum"' in page
    assert "checks.html#def-one" not in page
    checks = (built.html / "checks.html").read_text("utf8")
    assert 'id="eq-sum"' in checks
    assert 'href="index.html#equation-eq-sum"' in checks
    assert "n + n = 2n" in checks
    assert "parametrize" in checks, "the source of a test begins with its decorators"


def test_derived_equation_without_test_fails_the_build(build: Build) -> None:
    built = build("$$ n + n = 2n $$ (eq-sum)\n\n$$ n = n $$ (eq-untested)", TESTS)
    assert built.error is not None
    assert "index.md:5: WARNING: equation 'eq-untested' is derived, but no test" in built.warnings


def test_directive_math_is_seen_too(build: Build) -> None:
    built = build("$$ n + n = 2n $$ (eq-sum)\n\n```{math}\n:label: eq-untested\nn = n\n```", TESTS)
    assert built.error is not None
    assert "'eq-untested' is derived" in built.warnings


def test_test_of_no_equation_fails_the_build(build: Build) -> None:
    built = build("$$ n = 1 $$ (def-one)", TESTS)
    assert built.error is not None
    assert "test_02.py:6: WARNING: a test names equation 'eq-sum', which no page has" in built.warnings


def test_one_chapter_may_leave_tests_of_others_alone(build: Build) -> None:
    assert build("$$ n = 1 $$ (def-one)", TESTS, whole_book=False).error is None


@pytest.mark.parametrize(
    "math", ["$$ n = 1 $$ (one)", "\\begin{align}\nn = 1\n\\end{align}"], ids=["prefix", "unlabelled align"]
)
def test_label_of_no_kind_fails_the_build(build: Build, math: str) -> None:
    built = build(f"$$ n + n = 2n $$ (eq-sum)\n\n{math}", TESTS)
    assert built.error is not None
    assert "a label begins with def- or eq-" in built.warnings


def test_several_tests_of_one_equation_and_several_equations_of_one_test(tmp_path: Path) -> None:
    (tmp_path / "test_02.py").write_text(
        dedent("""
        import pytest

        class TestBoth:
            @pytest.mark.equation("eq-a")
            @pytest.mark.equation("eq-b")
            def test_ab(self): ...

        @pytest.mark.equation("eq-a")
        def test_a(): ...

        @pytest.mark.slow("eq-c")
        def test_c(): ...
        """),
        "utf8",
    )
    found = {(test.label, test.source.splitlines()[-1].strip()) for test in equations.find_tests(tmp_path)}
    assert found == {
        ("eq-a", "def test_ab(self): ..."),
        ("eq-b", "def test_ab(self): ..."),
        ("eq-a", "def test_a(): ..."),
    }


# Exercises

EXERCISE = '''"""Double it."""

import math

UNIT = math.pi


def double(x: float) -> float:
    """Return twice x."""
    # solution
    secret = 2 * x
    return secret
    # end solution


def check(double):
    assert double(UNIT) == 2 * UNIT, "twice pi"
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ex_02_01.py").write_text(EXERCISE, "utf8")
    (tmp_path / "ex_02_02.py").write_text(EXERCISE.replace("double", "twice"), "utf8")
    return tmp_path


def test_exercise_is_split(folder: Path) -> None:
    exercise = exercises.load("ex_02_01", folder)
    assert exercise.function == "double"
    assert "secret" not in exercise.stub
    assert exercise.stub.startswith("import math"), "the file's docstring is for its author"
    assert exercise.stub.endswith(f"    {exercises.EMPTY}")
    assert exercise.solution.endswith("    secret = 2 * x\n    return secret")
    assert "# solution" not in exercise.solution
    assert "UNIT = math.pi" in exercise.stub
    assert "UNIT = math.pi" in exercise.solution
    assert exercise.check.startswith("def check(double):")


def test_directives_become_cells_that_run(folder: Path) -> None:
    text = "Before.\n\n```{exercise-stub} ex_02_01\n```\n\n```{exercise-solution} ex_02_01\n```\n\nAfter.\n"
    expanded = exercises.expand(text, folder)
    assert expanded.startswith("Before.\n\n```{code-cell}\nimport math")
    assert expanded.endswith("```\n\nAfter.\n")
    assert "{exercise-" not in expanded
    cells = [part.split("\n```")[0] for part in expanded.split("```{code-cell}\n")[1:]]
    assert len(cells) == 3
    stub, check, solution = cells
    assert check.startswith(exercises.CHECK)
    attempts: list[object] = []

    class Page:
        @staticmethod
        def attempt(check: Callable[..., None], answer: Callable[..., object], must_pass: bool = False) -> None:
            attempts.append((answer.__name__, must_pass))
            if must_pass:
                check(answer)

    namespace: dict[str, object] = {"page": Page}
    for cell in (stub, check.removeprefix(exercises.CHECK), solution):
        exec(cell, namespace)
    assert attempts == [("double", False), ("double", True)]


def test_text_without_exercises_stays_as_it_is() -> None:
    text = "# Title\n\n```{code-cell}\n1 + 1\n```\n\n```{exercise-start}\n:label: ex-02-01\n```\n"
    assert exercises.expand(text) == text


def test_unknown_exercise_says_which_there_are(folder: Path) -> None:
    with pytest.raises(exercises.ExerciseError, match=r"no exercise 'ex_09_09'.*ex_02_01, ex_02_02"):
        exercises.expand("```{exercise-stub} ex_09_09\n```", folder)


def test_solution_must_follow_its_own_stub(folder: Path) -> None:
    text = "```{exercise-stub} ex_02_01\n```\n```{exercise-stub} ex_02_02\n```\n```{exercise-solution} ex_02_01\n```"
    with pytest.raises(exercises.ExerciseError, match="solution of ex_02_01 follows the stub of ex_02_02"):
        exercises.expand(text, folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    # end solution\n", "", "one line `# solution` and one line `# end solution`, got 1 and 0"),
        ("    # solution\n", "    # solution\n    # solution\n", "got 2 and 1"),
        ("def check(double)", "def verify(double)", "one function `check`, got double, verify"),
        ("def check", "def triple(x): ...\n\n\ndef check", "got double, triple, check"),
        ('    # solution\n    secret = 2 * x\n    return secret\n    # end solution\n', "    return 2 * x\n", "got 0"),
        ("UNIT = math.pi\n", "# solution\nUNIT = math.pi\n# end solution\n", "got 2 and 2"),
    ],
)  # fmt: skip
def test_file_of_another_form_is_refused(old: str, new: str, message: str) -> None:
    assert old in EXERCISE
    with pytest.raises(exercises.ExerciseError, match=message):
        exercises.split("ex_02_01", EXERCISE.replace(old, new, 1))


def test_markers_outside_the_function_are_refused() -> None:
    moved = EXERCISE.replace("    # solution\n", "").replace("    # end solution\n", "")
    moved = moved.replace("UNIT = math.pi\n", "# solution\nUNIT = math.pi\n# end solution\n")
    with pytest.raises(exercises.ExerciseError, match="stand inside double"):
        exercises.split("ex_02_01", moved)


# Pages, figures and the cache


def test_chapters_are_numbered_by_their_name() -> None:
    assert numbering.chapter_number("02-forward-process") == 2
    assert numbering.chapter_number("17-future") == 17
    assert numbering.chapter_number("notation") is None


def test_colab_opens_the_exported_notebook() -> None:
    assert pages.colab_url("https://github.com/someone/book/", "02-forward-process") == (
        "https://colab.research.google.com/github/someone/book/blob/notebooks/02-forward-process.ipynb"
    )


@pytest.mark.parametrize(
    ("written", "finished"),
    [
        ('<script defer src="../_static/scripts/fontawesome.js?digest=1"></script>\n  <link>', "<link>"),
        ('<script src="../searchindex.js"></script>', '<script defer src="../searchindex.js"></script>'),
        (
            '<a class="reference internal" href="api/index.html">The Library</a><details><summary><i></i></summary>',
            '<a class="reference internal" href="api/index.html">The Library</a><details>'
            '<summary aria-label="Pages below The Library"><i></i></summary>',
        ),
        ('<div id="search-results"></div><script src="searchtools.js"></script>', None),
    ],
)
def test_what_the_theme_writes_is_mended(written: str, finished: str | None) -> None:
    assert pages.finish(written) == (written if finished is None else finished)


def test_the_functions_that_implement_an_equation_exist() -> None:
    tests = equations.find_tests(Path(__file__).parents[1] / "equations")
    names = {name for test in tests for name in test.by}
    assert names
    for name in sorted(names):
        operator.attrgetter(name)(importlib.import_module("diffusion_book"))


def test_a_description_is_whole_sentences() -> None:
    text = "How do you ruin a picture? Slowly, in a thousand steps, " + "and so on " * 20 + "."
    assert pages.shorten("Short.") == "Short."
    assert pages.shorten(text) == "How do you ruin a picture?"
    assert pages.shorten(text.replace("?", ",")).endswith(" …")
    assert len(pages.shorten(text.replace("?", ","))) <= 162


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("```{deeper-start} More\n```\nText.\n\n## Next\n\n```{deeper-end}\n```", "has no {deeper-end} in its section"),
        ("Text.\n\n```{deeper-end}\n```", "a {deeper-end} without its {deeper-start}"),
        ("```{deeper-start} A\n```\n```{deeper-start} B\n```\nx\n\n```{deeper-end}\n```", "stands inside another"),
        ("{reported}`3.17`", "write {reported}`NUMBER <key>`"),
    ],
)
def test_elements_of_another_form_are_refused(page: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "index.md").write_text(f"# A Chapter\n\n{page}\n", "utf8")
    warnings = io.StringIO()
    settings = {
        "extensions": ["myst_nb", "sphinx_exercise", "folds", "reported"],
        "source_suffix": {".md": "myst-nb"},  # as above
    }
    with patch_docutils(), docutils_namespace():
        app = Sphinx(tmp_path, None, tmp_path / "html", tmp_path / "doctrees", "html", settings, None, warnings)
        app.build()
    assert message in warnings.getvalue()


SVG = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"
     width="72pt" height="36pt" viewBox="0 0 72 36">
  <metadata>made on a Monday</metadata>
  <defs><style>*{stroke-linejoin: round}</style><path id="a"/><clipPath id="c"/></defs>
  <use xlink:href="#a" style="stroke: #767676" clip-path="url(#c)"/>
  <path style="stroke: #b0b0b1"/>
  <image xlink:href="data:image/png;base64,AAAA" style="fill: #123456"/>
</svg>"""


def test_svg_takes_the_colours_of_the_page_and_ids_of_its_own() -> None:
    text = inline_svg.inline_svg(SVG, 'A "line"\nthat falls', "p1-")
    svg = ET.fromstring(text)
    assert "Monday" not in text
    assert "<?xml" not in text
    assert "*{" not in text
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == 'A "line" that falls'
    assert svg.get("width") is None
    assert "max-width:96px" in (svg.get("style") or "")
    use = svg.find(f"{{{inline_svg.SVG}}}use")
    assert use is not None
    assert use.get(f"{{{inline_svg.XLINK}}}href") == "#p1-a"
    assert use.get("clip-path") == "url(#p1-c)"
    assert {element.get("id") for element in svg.iter()} == {None, "p1-a", "p1-c"}
    assert use.get("style") == "stroke: currentColor"
    assert "stroke: var(--pst-color-border)" in text
    assert "data:image/png;base64,AAAA" in text
    assert "#123456" in text


def test_cache_of_executions_knows_what_outputs_depend_on(tmp_path: Path) -> None:
    sources = ["src/library/a.py", "book/exercises/ex_02_01.py", "book/recorded/throws.json", "constraints.txt"]
    for name in [*sources, "book/02-page.md"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1", "utf8")
    seen = {execution.fingerprint(tmp_path, "cpu")}
    (tmp_path / "book/02-page.md").write_text("2", "utf8")
    assert execution.fingerprint(tmp_path, "cpu") in seen, "a page's own cells are compared by the cache itself"
    for name in sources:
        (tmp_path / name).write_text("2", "utf8")
        seen.add(execution.fingerprint(tmp_path, "cpu"))
    seen.add(execution.fingerprint(tmp_path, "gpu"))
    assert len(seen) == 6
