"""The contract of a chapter. Every rule is first shown to fail on something wrong, then applied to every chapter."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import execution
import pytest
import syllabus
from bs4 import BeautifulSoup, Tag
from pybtex.database import parse_file

from _support import rules
from _support.rules import Page, Problem

LIMIT = 2 * execution.BUDGET  # of a page, in seconds of computing: slower machines run the same page
CHAPTER = {"title": "A Title", "sections": ["One", "Two"]}

# A whole chapter, in small, that keeps every rule.
GOOD = """\
---
kernelspec:
  name: python3
---

(ch-sample)=
# A Title

An opening of 2019, with $T = 1000$, `0.5` and {cite:t}`ho2020denoising`. [A link](https://example.org/1.5).

:::{admonition} What you need to know
:class: note
Little.
:::

:::{admonition} What you will be able to do
:class: tip
Much.
:::

(sec-sample-one)=
## One

```{code-cell}
viz.use_style()
page.glue("half", f"{0.5:.2f}")
```

It is {glue:text}`half`, see {ref}`sec-sample-two`.

$$ x = 0.25 $$ (def-x)

```{code-cell}
---
mystnb:
  image:
    alt: A line that rises from left to right.
  figure:
    name: fig-sample
    caption: |
      It rises.
---
plot()
```

```{exercise-start} Its name
:label: ex-02-01
```
What is it?

:::{admonition} Hint
:class: dropdown
Think.
:::

```{exercise-stub} ex_02_01
```
```{exercise-end}
```

```{solution-start} ex-02-01
:class: dropdown
```
So.

```{exercise-solution} ex_02_01
```
```{solution-end}
```

(sec-sample-two)=
## Two

```{exercise-start} A proof
:label: ex-02-02
```
Why?

:::{admonition} Hint
:class: dropdown
Think.
:::
```{exercise-end}
```

```{solution-start} ex-02-02
:class: dropdown
```
Because.

```{code-cell}
assert True
```
```{solution-end}
```

## Summary

Done.

## Further Reading

More.
"""

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
    "citations": lambda page: rules.citations(page, {"ho2020denoising"}),
}

# rule, what is replaced in the good page, by what
BAD = [
    ("headings", "# A Title", "# Another Title"),
    ("headings", "## Two\n", ""),
    ("headings", "## One\n", "## Two\n"),
    ("headings", "## Summary", "## In Short"),
    ("headings", "## Further Reading", "## Summary"),
    ("labels", "(ch-sample)=\n", ""),
    ("labels", "(sec-sample-two)=\n", ""),
    ("labels", "(sec-sample-two)=", "(two)="),
    ("boxes", "What you need to know", "Prerequisites"),
    ("exercises", "ex-02-02", "ex-03-02"),
    ("exercises", "ex-02-02", "ex-02-01"),
    ("exercises", ":class: dropdown\nThink.", ":class: tip\nThink."),
    ("exercises", "{admonition} Hint\n", "{admonition} Note\n"),
    ("exercises", "```{solution-start} ex-02-01\n:class: dropdown\n", "```{solution-start} ex-02-01\n"),
    ("exercises", "{solution-start} ex-02-01", "{solution-start} ex-02-02"),
    ("exercises", "```{exercise-solution} ex_02_01\n```\n", ""),
    ("exercises", "```{exercise-stub} ex_02_01\n```\n", ""),
    ("exercises", "{exercise-stub} ex_02_01", "{exercise-stub} ex_02_05"),
    ("exercises", "```{code-cell}\nassert True\n```\n", ""),
    ("exercises", "## Two\n", ""),
    ("figures", "fig-sample", "sample"),
    ("figures", "    caption: |\n      It rises.\n", ""),
    ("figures", "    alt: A line that rises from left to right.\n", "    width: 300px\n"),
    ("numbers", "It rises.", "It rises by 12%."),
    ("numbers", "So.", "So 0.5."),
    ("numbers", "So.", "So 1e-4 it is."),
    ("numbers", "So.", "So 5000 it is."),
    ("numbers", "So.", "So 60,000 digits."),
    ("numbers", "So.", "So 97 per cent."),
    ("numbers", "Its name", "Its 2500 names"),
    ("numbers", "of 2019", "of 1066"),
    ("glue", "{glue:text}`half`", "a half"),
    ("glue", "{glue:text}`half`", "{glue:text}`third`"),
    ("glue", 'page.glue("half", f"{0.5:.2f}")', 'page.glue("half", 1)\npage.glue("half", 2)'),
    ("glue", 'page.glue("half"', "page.glue(half"),
    ("cells", "plot()\n", "plot()\n" * 46),
    ("cells", "plot()\n", f"plot({'x' * 112})\n"),
    ("cells", "```{code-cell}\nassert", "```{code-cell}\n:tags: [remove-input]\nassert"),
    ("cells", "viz.use_style()", "pass"),
    ("markup", "So.", "So <b>it</b> is."),
    ("markup", "So.", "So $$ x $$ is."),
    ("citations", "ho2020denoising", "ho2021"),
]


@pytest.mark.parametrize("rule", RULES)
def test_a_good_page_keeps_the_rule(rule: str) -> None:
    assert RULES[rule](Page(GOOD)) == []


@pytest.mark.parametrize(("rule", "good", "bad"), BAD)
def test_the_rule_can_fail(rule: str, good: str, bad: str) -> None:
    assert good in GOOD
    assert RULES[rule](Page(GOOD.replace(good, bad)))


def test_a_problem_names_its_line() -> None:
    line = GOOD.split("\n").index("So.") + 1
    assert [problem.line for problem in rules.numbers(Page(GOOD.replace("So.", "So 0.5.")))] == [line]


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
    assert seconds <= LIMIT, f"{chapter.name} computed for {seconds:.0f} s; its budget is {execution.BUDGET} s"


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
