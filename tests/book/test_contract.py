"""The contract of a chapter. Every rule is first shown to fail on something wrong, then applied to every chapter."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import execution
import exercises
import pytest
import syllabus
from bs4 import BeautifulSoup, Tag
from pybtex.database import parse_file

from _support import rules
from _support.rules import Page, Problem

LIMIT = 3 * execution.BUDGET  # of a page, in seconds of computing: slower machines run the same page

# A whole chapter, in small, that keeps every rule; test_sample.py builds it.
GOOD = Path(__file__).with_name("sample") / "08-sample.md"
CHAPTER = {"title": "A Sample", "sections": ["One", "Two"]}
KEYS = {"ho2020denoising", "sohl2015deep"}

RULES: dict[str, Callable[[Page], list[Problem]]] = {
    "headings": lambda page: rules.headings(page, CHAPTER),
    "labels": lambda page: rules.labels(page, CHAPTER),
    "boxes": rules.boxes,
    "exercises": lambda page: rules.exercises(page, CHAPTER),
    "figures": rules.figures,
    "numbers": rules.numbers,
    "glue": rules.glue,
    "cells": rules.cells,
    "markup": rules.markup,
    "citations": lambda page: rules.citations(page, KEYS),
}
# The form of two storeys: every chapter but those of rules.NOT_YET.
FORM: dict[str, Callable[[Page], list[Problem]]] = {
    "length": rules.length,
    "visible_code": rules.visible_code,
    "glued_numbers": rules.glued_numbers,
    "first_figure": rules.first_figure,
    "levels": rules.levels,
    "deeper": rules.deeper,
    "references": rules.references,
    "needs": rules.needs,
    "own_pictures": rules.own_pictures,
    "writes": rules.writes,
}
ALL = {**RULES, **FORM}

WARM_UP = ":label: ex-08-01\n:level: warm-up\n"
CALL = "[walker.step() for _ in range(10)]"
END = "```{deeper-end}\n```\n"
GLUED = "{glue:text}`half` "
BAD = [  # rule, what is replaced in the good page, by what
    ("headings", "# A Sample", "# Another Title"),
    ("headings", "## Two\n", ""),
    ("headings", "## One\n", "## Two\n"),
    ("headings", "## Summary", "## In Short"),
    ("headings", "## Further Reading", "## Summary"),
    ("labels", "(ch-sample)=\n", ""),
    ("labels", "(sec-sample-two)=\n", ""),
    ("labels", "(sec-sample-two)=", "(two)="),
    ("boxes", "{admonition} What you need to know", "{admonition} Prerequisites"),
    ("exercises", "ex-08-02", "ex-03-02"),
    ("exercises", "ex-08-02", "ex-08-01"),
    ("exercises", ":class: dropdown\nUse", ":class: tip\nUse"),
    ("exercises", "{admonition} Hint\n", "{admonition} Note\n"),
    ("exercises", ":label: ex-08-01\n:level: warm-up", ":label: ex-08-01\n:level: deep"),  # and so needs a hint
    ("exercises", "```{solution-start} ex-08-01\n:class: dropdown\n", "```{solution-start} ex-08-01\n"),
    ("exercises", "{solution-start} ex-08-01", "{solution-start} ex-08-02"),
    ("exercises", "```{exercise-solution} ex_08_02\n```\n", ""),
    ("exercises", "```{exercise-stub} ex_08_02\n```\n", ""),
    ("exercises", "{exercise-stub} ex_08_02", "{exercise-stub} ex_08_09"),
    ("exercises", "```{code-cell}\nassert sum([1] * 7) ** 2 == 49\n```\n", ""),
    ("exercises", "## Two\n", ""),
    ("figures", "fig-sample-walks\n    caption", "sample-walks\n    caption"),
    ("figures", "    caption: |\n      Twenty walks. They spread, but less and less.\n", ""),
    ("figures", "    alt: Twenty lines", "    title: Twenty lines"),
    ("numbers", "Each step adds one.", "Each step adds 12%."),
    ("numbers", "Twenty walks.", "Some 5000 walks."),
    ("numbers", "Each step adds one.", "Each step adds 0.5."),
    ("numbers", "Each step adds one.", "Each step adds 1e-4."),
    ("numbers", "Each step adds one.", "60,000 digits."),
    ("numbers", "Each step adds one.", "97 per cent."),
    ("numbers", "Three steps", "Its 2500 names"),
    ("numbers", "Why the limit is Gaussian", "Why 2500 are enough"),
    ("numbers", "In 2019", "In 1066"),
    ("glue", "{glue:text}`half`", "a half"),
    ("glue", "{glue:text}`half`", "{glue:text}`third`"),
    ("glue", 'page.glue("half", f"{0.5:.2f}")', 'page.glue("half", 1)\npage.glue("half", 2)'),
    ("glue", 'page.glue("half"', "page.glue(half"),
    ("cells", CALL, f"{CALL}\n" * 60),
    ("cells", CALL, f"plot({'x' * 112})"),
    ("cells", "```{code-cell}\nassert", "```{code-cell}\n:tags: [remove-input]\nassert"),
    ("cells", "viz.use_style()", "pass"),
    ("markup", "Each step adds one.", "Each <b>step</b> adds one."),
    ("markup", "Each step adds one.", "Each $$ x $$ adds one."),
    ("citations", "{cite:t}`ho2020denoising`", "{cite:t}`ho2021`"),
    ("citations", "{reported}`3.17 <ho2020denoising>`", "{reported}`3.17 <ho2021>`"),
    ("citations", "{reported}`3.17 <ho2020denoising>`", "{reported}`3.17`"),
    ("length", "What would a thousand walks say?", "Walk on. " * 451),
    ("visible_code", "walks = [", "walks = 0\n" * 17 + "walks = ["),
    ("visible_code", ":tags: [listing]\n", ":tags: []\nx = [\n" + "    0,\n" * 10 + "]\n"),
    ("visible_code", "}\ndef walk", "}\n:tags: [listing]\ndef walk", "(sec-sample-one)=\n## One\n", ""),
    ("glued_numbers", "{glue:text}`half`", GLUED * 4),
    ("glued_numbers", "Twenty walks.", GLUED * 4),
    ("glued_numbers", "{glue:text}`half`", f"{GLUED}\n" * 4),
    ("first_figure", "How long is a walk", "Walk on. " * 140 + "How long is a walk"),
    ("first_figure", "viz.use_style()", "viz.use_style()\n" * 12),
    ("first_figure", "  figure:\n", "  drawing:\n"),
    ("first_figure", "tags: [hide-input]\n---", "---\n" + "axis = 0\n" * 10),
    ("levels", WARM_UP, ":label: ex-08-01\n"),
    ("levels", WARM_UP, ":label: ex-08-01\n:level: easy\n"),
    ("levels", WARM_UP, ":label: ex-08-01\n:level: deep\n"),
    ("levels", WARM_UP, ":label: ex-08-01\n:level: coding\n"),
    ("levels", "ex-08-02\n:level: coding", "ex-08-02\n:level: warm-up"),
    ("levels", ":level: coding", ":level: deep"),
    ("deeper", ":needs: characteristic functions\n", ""),
    ("deeper", "which others needed {reported}`3.17 <ho2020denoising>` bits for.\n", "\n### A heading\n"),
    ("deeper", "```{deeper-end}\n```\n", END + "```{deeper-start} More\n:needs: it\n```\n" + END),
    ("references", "see {eq}`def-sample-step`", "see {eq}`def-sample-limit`"),
    ("references", "see {eq}`def-sample-step`", "see {eq}`this <def-sample-limit>`"),
    ("references", "walker = Walker(seed=1)", "walker = Walker(seed=limit)"),
    ("references", "many = page", "first = ends[0]\nmany = page"),
    ("needs", "- Loops in Python: [the tutorial](https://docs.python.org/3/tutorial/).", "- Loops in Python."),
    ("needs", "{cite:t}`sohl2015deep`, or {ref}`the first section <sec-sample-one>` of this page", "any book"),
    ("needs", "- What a variance is", "What a variance is", "- Loops in", "Loops in"),
    ("own_pictures", "## On your own data", "## Your own data"),
    ("own_pictures", "## On your own data\n", ""),
    ("own_pictures", "## Summary", "## Another\n\n## Summary"),
    ("writes", CALL, 'Path("walks.txt").write_text("")'),
    ("writes", CALL, 'folder = Path.cwd() / "walks"\nfolder.mkdir()'),
    ("writes", CALL, 'torch.save(walks, f"walks/{1}.pt")'),
    ("writes", CALL, 'with open("walks.txt", "w") as file:\n    file.write("")'),
    ("writes", CALL, 'plt.gcf().savefig("walks.png")'),
]  # fmt: skip


@pytest.mark.parametrize("rule", ALL)
def test_a_good_page_keeps_the_rule(rule: str) -> None:
    assert ALL[rule](Page.read(GOOD)) == []


@pytest.mark.parametrize(("rule", "changes"), [(rule, changes) for rule, *changes in BAD])
def test_the_rule_can_fail(rule: str, changes: list[str]) -> None:
    text = GOOD.read_text("utf8")
    for good, bad in zip(changes[::2], changes[1::2]):
        assert good in text
        text = text.replace(good, bad)
    assert ALL[rule](Page(text, GOOD.stem))


@pytest.mark.parametrize(
    ("rule", "good", "also_good"),
    [
        ("length", "The characteristic function", "Walk on. " * 500 + "The characteristic function"),
        ("length", "Where can a walk", "Walk on. " * 500 + "Where can a walk"),
        ("length", "{cite:t}`sohl2015deep` walk back.", "Walk on. " * 500),
        ("length", "Twenty walks.", "Walk on. " * 500),
        ("length", "Say how far", "Walk on. " * 500 + "Say how far"),
        ("visible_code", CALL, f"{CALL}\n" * 40),
        ("visible_code", "figure, axis = plt.subplots()", "figure, axis = plt.subplots()\n" * 40),
        ("glued_numbers", "  - 1\n:::", f"  - {GLUED * 4}\n:::"),
        ("glued_numbers", "{glue:text}`half`", f"{GLUED * 3}\n\n{GLUED * 3}"),
        ("first_figure", "axis.set(", "axis.set()\n" * 40 + "axis.set("),
        ("references", "{glue:text}`gap` apart", "see {eq}`def-sample-limit`"),
        ("references", "Walker(seed=1)", "Walker(seed=1)\nlimit = 2 * walker.place\nlimit"),
        ("writes", CALL, 'folder = Path(tempfile.mkdtemp())\n(folder / "walks.txt").write_text("")'),
        ("writes", CALL, 'Image.fromarray(x).save(buffer, "png")\ntext = open("x.txt").read()'),
    ],
)  # fmt: skip
def test_what_a_rule_lets_pass(rule: str, good: str, also_good: str) -> None:
    text = GOOD.read_text("utf8")
    assert good in text
    assert ALL[rule](Page(text.replace(good, also_good, 1), GOOD.stem)) == []


def test_a_chapter_before_the_eighth_has_no_section_on_your_own_pictures() -> None:
    text = GOOD.read_text("utf8")
    assert rules.own_pictures(Page(text, "07-sample"))
    assert not rules.own_pictures(Page(text.replace("## On your own data", ""), "07-sample"))


def test_the_main_line_does_not_use_what_an_exercise_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exercises, "FOLDER", GOOD.with_name("exercises"))
    page = Page(GOOD.read_text("utf8").replace("many = page", "other = mean_square(4)\nmany = page"), GOOD.stem)
    assert "'mean_square'" in rules.references(page)[0].message


def test_a_fold_of_another_chapter_is_a_fold() -> None:
    assert rules.folded_labels(Page.read(GOOD)) == {"def-sample-limit"}
    page = Page("See {eq}`def-sample-limit`.", "09-other")
    assert rules.references(page) == []
    assert rules.references(page, {"def-sample-limit"})


def test_a_problem_names_its_line() -> None:
    text = GOOD.read_text("utf8")
    line = text.split("\n").index("Each step adds one.") + 1
    assert [problem.line for problem in rules.numbers(Page(text.replace("adds one.", "adds 0.5.")))] == [line]


@pytest.mark.parametrize(
    "text",
    [
        "Of the 10 digits 256 are here, since 2020.",
        "$0.5$, $$0.5$$ and `0.5`, {glue:text}`x:.2f`, {ref}`the 5000 <sec-x>`",
        "$x$ costs\n$0.5$ and\n\\begin{align*}\n0.5 &= 1\n\\end{align*}",
        "See [this](https://example.org/2.5/60000 'x') and <https://example.org/0.5>.",
        "```python\nx = 0.5\n```",
        "A 2D toy, in the 1990s, mnist5k and x86_64.",
    ],
)
def test_what_is_not_a_typed_result_may_stand(text: str) -> None:
    assert rules.numbers(Page(text)) == []


def test_the_rule_of_the_bibliography_can_fail() -> None:
    good = {"author": "A", "title": "T", "year": "2020", "doi": "10/1"}
    assert rules.bibliography({"a": good}) == []
    for name in good:
        assert rules.bibliography({"a": {**good, name: ""}})


# The chapters --------------------------------------------------------------------------------------------------


def test_there_are_chapters(root: Path) -> None:
    assert rules.chapters(root)


def test_the_map_is_whole(root: Path) -> None:
    """Seven parts, eighteen chapters in the order of their numbers, 76 sections."""
    chapters = rules.syllabus(root)
    assert [int(page[:2]) for page in chapters] == list(range(18))
    assert len({part["part"] for part in syllabus.parts()}) == 7
    sections = [(page, section) for page, chapter in chapters.items() for section in chapter["sections"]]
    assert len(set(sections)) == len(sections) == 76


@pytest.mark.parametrize("rule", RULES)
def test_chapter_keeps_the_rule(rule: str, chapter: Path, root: Path) -> None:
    page = Page.read(chapter)
    known = rules.syllabus(root)
    assert chapter.stem in known, f"book/syllabus.yml has no page {chapter.stem}"
    with_syllabus: dict[str, Callable[[Page, Any], list[Problem]]] = {
        "headings": rules.headings,
        "labels": rules.labels,
        "exercises": rules.exercises,
    }
    if rule in with_syllabus:
        problems = with_syllabus[rule](page, known[chapter.stem])
    elif rule == "citations":
        problems = rules.citations(page, set(bibliography(root)))
    else:
        problems = RULES[rule](page)
    assert not problems, "\n" + "\n".join(f"book/{chapter.name}:{problem}" for problem in problems)


def problems_of_form(page: Page, root: Path) -> dict[str, list[Problem]]:
    """By the rule's name, what keeps a page from having the form of two storeys."""
    pages = [Page.read(path) for path in rules.chapters(root)]
    folded = set().union(*(rules.folded_labels(other) for other in pages))
    return {**{rule: FORM[rule](page) for rule in FORM}, "references": rules.references(page, folded)}


@pytest.mark.parametrize("rule", FORM)
def test_chapter_has_the_form(rule: str, chapter: Path, root: Path) -> None:
    if chapter.stem[:2] in rules.NOT_YET:
        pytest.skip("written before the form of two storeys")
    problems = problems_of_form(Page.read(chapter), root)[rule]
    assert not problems, "\n" + "\n".join(f"book/{chapter.name}:{problem}" for problem in problems)


@pytest.mark.parametrize("number", sorted(rules.NOT_YET))
def test_a_chapter_that_has_the_form_is_not_excepted(number: str, root: Path) -> None:
    (chapter,) = [path for path in rules.chapters(root) if path.stem[:2] == number]
    problems = problems_of_form(Page.read(chapter), root)
    assert any(problems.values()), f"chapter {number} has the form: take it off rules.NOT_YET"


def bibliography(root: Path) -> dict[str, dict[str, str]]:
    entries = parse_file(root / "book" / "references.bib").entries
    return {
        key: {
            **{name: str(value) for name, value in entry.fields.items()},
            "author": " and ".join(map(str, entry.persons.get("author", []))),
        }
        for key, entry in entries.items()
    }


def test_bibliography_is_complete(root: Path) -> None:
    problems = rules.bibliography(bibliography(root))
    assert not problems, "\n".join(problems)


def test_chapter_runs_within_its_budget(chapter: Path, root: Path, site: Path) -> None:
    """What it computed when its outputs were made; another page that ran beside it does not count."""
    record = execution.latest(root).get(chapter.stem)
    assert record, f"no execution of {chapter.name} is recorded: run `make book`"
    seconds = record.data["cpu_seconds"]
    limit = 2 * LIMIT if chapter.stem[:2] in rules.NOT_YET else LIMIT
    assert seconds <= limit, f"{chapter.name} computed for {seconds:.0f} s; its budget is {execution.BUDGET} s"


# The built pages -----------------------------------------------------------------------------------------------

MARKERS = re.compile(
    r"\?\?|\{[\w:.-]+\}`|\{(?:ref|eq|numref|cite|glue)[^}]*\}|:{3,}|\$\$|\[\^|Unknown (?:role|directive)"
)


def leftovers(article: Tag) -> list[str]:
    """What the build could not resolve, as a reader would see it."""
    for code in article.select("pre, code, .math, script, style, svg"):
        code.decompose()
    broken = [element.get_text() for element in article.select(".problematic, .system-message")]
    return broken + [match[0] for match in MARKERS.finditer(article.get_text(" "))]


def unexplained(article: Tag) -> list[str]:
    """Pictures without a text in their place, and pictures that code drew without a caption."""
    found = []
    for picture in article.select("img, svg[role=img], canvas"):
        text = picture.get("alt") if picture.name == "img" else picture.get("aria-label")
        if not str(text or "").strip():
            found.append(f"no text in place of {str(picture)[:100]}")
        if picture.find_parent(class_="cell_output"):
            figure = picture.find_parent("figure")
            if not figure or not figure.find("figcaption"):
                found.append(f"no caption under {str(picture)[:100]}")
    return found


def article(site: Path, name: str) -> Tag:
    path = site / f"{name}.html"
    assert path.is_file(), f"{name} is in the table of contents and not in the site"
    found = BeautifulSoup(path.read_text("utf8"), "html.parser").select_one("article")
    assert found, f"{path.name} has no <article>"
    return found


@pytest.mark.parametrize("text", ["see ??", "{ref}`x`", "a {cite:t}", "::: note", "$$", "text [^1]"])
def test_the_rule_of_leftovers_can_fail(text: str) -> None:
    assert leftovers(BeautifulSoup(f"<article><p>{text}</p></article>", "html.parser"))
    assert not leftovers(BeautifulSoup(f"<article><code>{text}</code></article>", "html.parser"))


@pytest.mark.parametrize(
    "html",
    [
        "<img src='x'>",
        "<img src='x' alt=' '>",
        "<svg role='img'></svg>",
        "<div class='cell_output'><img src='x' alt='good'></div>",
        "<div class='cell_output'><figure><img src='x' alt='good'></figure></div>",
    ],
)
def test_the_rule_of_pictures_can_fail(html: str) -> None:
    assert unexplained(BeautifulSoup(html, "html.parser"))


def test_page_is_built_and_nothing_on_it_is_unresolved(page_name: str, site: Path) -> None:
    problems = leftovers(article(site, page_name))
    assert not problems, problems


def test_every_picture_is_explained(page_name: str, site: Path) -> None:
    problems = unexplained(article(site, page_name))
    assert not problems, "\n".join(problems)
