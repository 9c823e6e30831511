"""The glossary: a term has one gloss, later sections link to it once, its sentence stands on the page of terms."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

FIRST = """# A Chapter

## One

Nothing yet. The {gloss}`score` is $\\nabla \\log p$, which
has {gloss}`two ends <end>`. A score again.

## Two

### A score in a heading

Scores, `score`, [score](https://example.org) and another score. No scoreboard.
"""
SECOND = "# Another\n\n## Three\n\nThe Score and the end. Once more: score.\n"
Build = Callable[..., tuple[dict[str, BeautifulSoup], str]]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def build(**chapters: str) -> tuple[dict[str, BeautifulSoup], str]:
        names = {f"{name[-2:]}-page": text for name, text in chapters.items()}
        toctree = "\n".join(["```{toctree}", *names, "glossary", "```"])
        names |= {"index": f"# A Book\n\n{toctree}\n", "glossary": "# Terms\n\n```{glossary-of-terms}\n```\n"}
        source, warnings = tmp_path / "book", io.StringIO()
        source.mkdir()
        for name, text in names.items():
            (source / f"{name}.md").write_text(text, "utf8")
        settings = {
            "extensions": ["myst_parser", "glossary"],
            "myst_enable_extensions": ["dollarmath"],
            "source_suffix": {".md": "markdown"},
        }
        with patch_docutils(), docutils_namespace():
            Sphinx(source, None, tmp_path / "html", tmp_path / "doctrees", "html", settings, None, warnings).build()
        pages = {name: (tmp_path / "html" / f"{name}.html").read_text("utf8") for name in names}
        return {name: BeautifulSoup(page, "html.parser") for name, page in pages.items()}, warnings.getvalue()

    return build


def links(page: BeautifulSoup) -> list[tuple[str, str]]:
    return [(link.text, str(link["href"])) for link in page.select("a.term")]


def test_later_sections_link_to_the_gloss_once_each(build: Build) -> None:
    pages, warnings = build(ch02=FIRST, ch03=SECOND)
    assert warnings == ""
    anchor = pages["02-page"].find(id="term-score")
    assert anchor is not None
    assert anchor.name == "strong"
    assert links(pages["02-page"]) == [("Scores", "#term-score")]
    assert links(pages["03-page"]) == [("Score", "02-page.html#term-score"), ("end", "02-page.html#term-end")]


def test_an_earlier_chapter_does_not_link_ahead(build: Build) -> None:
    pages, _ = build(ch01=SECOND, ch02=FIRST)
    assert links(pages["01-page"]) == []


def test_the_page_of_terms_has_the_sentence(build: Build) -> None:
    pages, _ = build(ch02=FIRST)
    terms = pages["glossary"].select("dl.glossary dt")
    texts = [" ".join(text.text.split()) for text in pages["glossary"].select("dl.glossary dd")]
    assert [term.text for term in terms] == ["end", "score"]
    assert [term.a["href"] for term in terms] == ["02-page.html#term-end", "02-page.html#term-score"]
    assert texts[0] == texts[1]
    assert texts[0].startswith("The score is ")
    assert texts[0].endswith("which has two ends.")
    assert links(pages["02-page"])  # whose titles are that sentence
    assert str(pages["02-page"].select_one("a.term")["title"]).startswith("The score is ")


def test_a_second_gloss_is_a_warning(build: Build) -> None:
    _, warnings = build(ch02=FIRST, ch03="# B\n\n## C\n\nA {gloss}`Score` is a number.\n")
    assert "'Score' has its gloss in 02-page already" in warnings
