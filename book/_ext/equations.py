"""Every labelled equation is a definition (`def-…`) or is derived (`eq-…`); what is derived has a numeric test.

The build fails on a derived equation without a test and on a test of an equation that no page has. On its page,
a mark beside a derived equation leads to the test's source, which the directive `{equation-checks}` lists.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

CHECKS = "checks"  # the page with the directive; a build without it is of one chapter only
TESTED = "A test checks this equation numerically. Follow the link to read it."
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Equation:
    label: str
    latex: str
    nowrap: bool  # the LaTeX brings its own environment
    docname: str
    line: int | None

    @property
    def derived(self) -> bool:
        return self.label.startswith("eq-")


@dataclass(frozen=True)
class EquationTest:
    label: str
    path: Path
    line: int
    source: str
    by: tuple[str, ...] = ()  # names of the library that implement it, such as "process.noising"


class equation_checks(nodes.General, nodes.Element):  # named as docutils names nodes
    """Where the list of equations and tests goes once all pages are read."""


class EquationChecks(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [equation_checks()]


# Collect


def find_tests(folder: Path) -> list[EquationTest]:
    """The functions decorated with `@pytest.mark.equation("label")`, read without running them."""
    found = []
    for path in sorted(folder.glob("test_*.py")):
        text = path.read_text("utf8")
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef):
                first = min([function.lineno, *(mark.lineno for mark in function.decorator_list)])
                source = "\n".join(text.splitlines()[first - 1 : function.end_lineno])
                labels = [label for mark in function.decorator_list for label in _labels(mark)]
                by = tuple(name for mark in function.decorator_list for name in _implementations(mark))
                found += [EquationTest(label, path, function.lineno, source, by) for label in labels]
    return found


def _labels(decorator: ast.expr) -> list[str]:
    mark = _equation_mark(decorator)
    return [argument.value for argument in mark.args if isinstance(argument, ast.Constant)] if mark else []


def _implementations(decorator: ast.expr) -> list[str]:
    """The names in `by="process.noising"`, one or several with spaces between."""
    mark = _equation_mark(decorator)
    values = [word.value for word in mark.keywords if word.arg == "by"] if mark else []
    return [name for value in values if isinstance(value, ast.Constant) for name in value.value.split()]


def _equation_mark(decorator: ast.expr) -> ast.Call | None:
    found = isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.equation"
    return decorator if found else None


def collect(app: Sphinx, doctree: nodes.document) -> None:
    docname = app.env.docname
    pages = _pages(app.env)
    pages[docname] = [
        Equation(math["label"], math.astext(), bool(math.get("nowrap")), docname, math.line)
        for math in doctree.findall(nodes.math_block)
        if math.get("label")
    ]


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    _pages(env).pop(docname, None)


def _pages(env: BuildEnvironment) -> dict[str, list[Equation]]:
    if not hasattr(env, "book_equations"):
        env.book_equations = {}  # type: ignore[attr-defined]
    return env.book_equations  # type: ignore[attr-defined]


# Check


def problems(equations: list[Equation], tests: list[EquationTest], whole_book: bool) -> Iterator[tuple[str, Any]]:
    """What is wrong, each with where: a page's name and line, or a file and line of the tests."""
    tested = {test.label for test in tests}
    for equation in equations:
        where = (equation.docname, equation.line)
        name = f"equation {equation.label!r}"
        if not equation.label.startswith(("def-", "eq-")):
            yield f"{name}: a label begins with def- or eq- (and a bare environment of amsmath needs a star)", where
        elif equation.derived and equation.label not in tested:
            mark = f'@pytest.mark.equation("{equation.label}")'
            yield f"{name} is derived, but no test in tests/equations carries {mark}", where
    if whole_book:
        known = {equation.label for equation in equations}
        for test in tests:
            if test.label not in known:
                yield f"a test names equation {test.label!r}, which no page has", f"{test.path}:{test.line}"


def check(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Warn about every problem, and write the page of checks again: any page or test may have changed."""
    equations = [equation for page in sorted(_pages(env)) for equation in _pages(env)[page]]
    whole_book = CHECKS in env.found_docs
    found = list(problems(equations, find_tests(_folder(app)), whole_book))
    app.equation_problems = len(found)  # type: ignore[attr-defined]
    for message, where in found:
        logger.warning(message, location=where, type="equations")
    return [CHECKS] if whole_book else []


def fail(app: Sphinx, exception: Exception | None) -> None:
    """Fail even where warnings are allowed."""
    count = getattr(app, "equation_problems", 0)
    if count and exception is None:
        raise ExtensionError(f"{count} labelled equations and tests of equations do not match; see the warnings")


def _folder(app: Sphinx) -> Path:
    return Path(app.srcdir).parent / "tests" / "equations"


# Show


def show(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Put the marks on a page of the site; notebooks do without."""
    if app.builder.format != "html":
        return
    for math in list(doctree.findall(nodes.math_block)):
        if math.get("label"):
            box = nodes.container(classes=["equation"])
            math.replace_self(box)
            box += [math, mark(app, math["label"], docname)]
    for place in list(doctree.findall(equation_checks)):
        place.replace_self(list_of_checks(app, docname))


def mark(app: Sphinx, label: str, docname: str) -> nodes.paragraph:
    """What stands beside an equation: a link to its test, or that it is a definition."""
    if not label.startswith("eq-"):
        return nodes.paragraph("", "definition", classes=["equation-mark", "equation-definition"])
    if CHECKS not in app.env.found_docs:
        return nodes.paragraph("", "✓ tested", classes=["equation-mark"])
    uri = f"{app.builder.get_relative_uri(docname, CHECKS)}#{label}"
    link = nodes.reference("", "✓ tested", internal=True, refuri=uri, reftitle=TESTED)
    return nodes.paragraph("", "", link, classes=["equation-mark"])


def list_of_checks(app: Sphinx, docname: str) -> list[nodes.Node]:
    """A section for each page: its derived equations, each with the source of its tests."""
    tests = find_tests(_folder(app))
    sections: list[nodes.Node] = []
    for page, equations in sorted(_pages(app.env).items()):
        derived = [equation for equation in equations if equation.derived]
        if derived:
            number = app.env.toc_secnumbers.get(page, {}).get("", ())
            title = " ".join([*map(str, number), app.env.titles[page].astext()])
            section = nodes.section("", nodes.title(text=title), ids=[f"checks-{page}"])
            for equation in derived:
                section += entry(app, docname, equation, [t for t in tests if t.label == equation.label])
            sections.append(section)
    return sections


def entry(app: Sphinx, docname: str, equation: Equation, tests: list[EquationTest]) -> nodes.container:
    anchor = nodes.make_id(f"equation-{equation.label}")
    numbers = app.env.toc_fignumbers.get(equation.docname, {}).get("displaymath", {})
    number = ".".join(map(str, numbers.get(anchor, ())))
    uri = f"{app.builder.get_relative_uri(docname, equation.docname)}#{anchor}"
    link = nodes.reference("", f"Equation ({number})" if number else equation.label, internal=True, refuri=uri)
    latex = equation.latex
    box = nodes.container(ids=[equation.label], classes=["equation-check"])
    box += nodes.paragraph("", "", link)
    box += nodes.math_block(latex, latex, nowrap=equation.nowrap, number=None, label=None)
    if names := sorted({name for test in tests for name in test.by}):
        box += nodes.paragraph(
            "", "In the library: ", *_with_commas([library_name(app, docname, name) for name in names])
        )
    for test in tests:
        box += nodes.paragraph("", "", nodes.literal(text=f"tests/equations/{test.path.name}"))
        box += nodes.literal_block(test.source, test.source, language="python")
    return box


def library_name(app: Sphinx, docname: str, name: str) -> nodes.Node:
    """A link to the library's reference, where a build has it."""
    text = nodes.literal(text=name)
    known = app.env.get_domain("py").data["objects"].get(f"diffusion_book.{name}")  # type: ignore[attr-defined]
    if known is None:
        return text
    uri = f"{app.builder.get_relative_uri(docname, known.docname)}#{known.node_id}"
    return nodes.reference("", "", text, internal=True, refuri=uri)


def _with_commas(pieces: list[nodes.Node]) -> list[nodes.Node]:
    return [node for piece in pieces for node in (nodes.Text(", "), piece)][1:]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(equation_checks)
    app.add_directive("equation-checks", EquationChecks)
    app.connect("doctree-read", collect)
    app.connect("env-purge-doc", forget)
    app.connect("env-updated", check)
    app.connect("doctree-resolved", show)
    app.connect("build-finished", fail)
    app.set_html_assets_policy("always")  # MathJax on the page of checks too, whose source holds no equation
    return {"parallel_read_safe": False, "parallel_write_safe": True}
