"""A page with one of each: what the elements of a chapter become on the site, in search, in print, in notebooks."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Browser, Page

from _support import browser as web

SAMPLE = Path(__file__).with_name("sample")
NAME = "08-sample"
TYPESET = "() => document.querySelectorAll('.math.notranslate mjx-math').length"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    run = subprocess.run([sys.executable, SAMPLE / "build.py", folder], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def html(built: Path) -> Tag:
    found = BeautifulSoup((built / "html" / f"{NAME}.html").read_text("utf8"), "html.parser").html
    assert found
    return found


def words(element: Tag | None) -> str:
    assert element is not None
    return " ".join(element.get_text().split())


# On the site ---------------------------------------------------------------------------------------------------


def test_a_deeper_block_is_a_closed_fold_with_its_cells(html: Tag) -> None:
    fold = html.select_one("details.deeper")
    assert fold is not None
    assert not fold.has_attr("open")
    assert fold["id"] == "deep-sample-limit"
    assert words(fold.summary) == "Going deeper: Why the limit is Gaussian (needs characteristic functions)"
    assert "torch.cos" in fold.get_text()
    assert fold.select_one("#equation-def-sample-limit")
    assert "The main line goes on" not in fold.get_text()
    signpost = html.select_one('a[href="#deep-sample-limit"]')
    assert words(signpost) == "Why the limit is Gaussian"


def test_hints_and_solutions_are_folds_with_names_of_their_own(html: Tag) -> None:
    assert [words(summary) for summary in html.select("details.solution > summary")][:2] == [
        "Solution to Exercise 8.1 (Three steps)",
        "Solution to Exercise 8.2 (The mean square)",
    ]
    assert not html.select("summary a"), "a link would fight with opening the fold"
    assert {words(summary) for summary in html.select(".exercise details.hint > summary")} == {"Hint"}


def test_plumbing_says_what_it_hides(html: Tag) -> None:
    assert {words(summary) for summary in html.select("details.plumbing > summary")} == {
        "How this was computed",
        "Show the check",
    }
    figure = html.select_one("details.plumbing:has(.cell_input)")
    assert figure is not None
    assert "plt.subplots" in figure.get_text()
    assert not figure.select("svg"), "what it draws is in view"


def test_an_exercise_shows_its_level(html: Tag) -> None:
    assert words(html.select_one("#ex-08-01 .admonition-title")) == "Exercise 8.1 (Three steps) warm-up"
    assert len(html.select(".exercise-level.level-warm-up")) == 3
    assert len(html.select(".exercise-level.level-coding")) == 3
    assert len(html.select(".exercise-level.level-deep")) == 1


def test_a_listing_is_marked(html: Tag) -> None:
    (cell,) = html.select(".cell.tag_listing")
    assert "class Walker" in cell.get_text()


def test_what_was_recorded_and_what_others_report_say_so(html: Tag) -> None:
    note = html.select_one("p.recorded")
    assert words(note).startswith("Recorded, not computed on this page: The mean square of a thousand walks")
    number = html.select_one("abbr.reported")
    assert words(number) == "3.17"
    assert "Reported" in str(number["title"])
    link = number.find_next("a") if number else None
    assert link is not None
    assert words(link) == "Ho et al., 2020"
    assert str(link["href"]).startswith("references.html#")


def test_a_glued_number_stands_in_the_prose_and_not_below_its_cell(html: Tag) -> None:
    assert "each adds its own variance, 0.50 of them up" in words(html.select_one("article"))
    assert not html.find(string=re.compile("half: 0.50"))


def test_the_search_leads_to_the_fold(built: Path) -> None:
    text = (built / "html" / "searchindex.js").read_text("utf8")
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    (title,) = [title for title in index["alltitles"] if title.startswith("Going deeper: Why the limit")]
    page = index["docnames"].index(NAME)
    assert index["alltitles"][title] == [[page, "deep-sample-limit"]]
    assert index["terms"]["worst"] == page, "a word that stands only in the fold"


def test_the_page_describes_itself(html: Tag) -> None:
    description = html.select_one("meta[name=description]")
    assert str(description["content"]).startswith("How long is a walk of random steps?")
    assert html.select_one("link[rel=icon]")


# In a browser --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(built: Path) -> Iterator[str]:
    with web.serve(built / "html") as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with web.launch() as running:
        yield running


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """A small screen, so that the page is long."""
    problems: list[str] = []
    context = browser.new_context(viewport={"width": 390, "height": 300})
    yield web.watched_page(context, address, problems)
    context.close()
    assert not problems, problems


def settled(page: Page) -> int:
    """How many formulas are typeset once nothing more happens."""
    page.wait_for_function("() => window.MathJax?.startup?.promise")
    before = -1
    while before != (now := page.evaluate(TYPESET)):
        before = now
        page.wait_for_timeout(300)
    return now


def test_formulas_are_typeset_when_they_come_near(page: Page, address: str) -> None:
    page.goto(f"{address}{NAME}.html", wait_until="load")
    first = settled(page)
    assert 0 < first < page.locator(".math.notranslate").count()
    last = page.locator("#summary .math.notranslate").first
    assert last.inner_text().startswith("\\(")
    last.scroll_into_view_if_needed()
    settled(page)
    assert last.locator("mjx-math").count() == 1
    hidden = page.locator("details.deeper .math.notranslate")
    assert hidden.locator("mjx-math").count() == 0, "nobody sees what is folded"
    page.locator("details.deeper > summary").click()
    settled(page)
    assert hidden.locator("mjx-math").count() == hidden.count()


@pytest.mark.parametrize("target", ["equation-def-sample-limit", "deep-sample-limit", "sec-sample-two", "summary"])
def test_a_link_lands_where_it_leads_and_opens_what_is_closed(page: Page, address: str, target: str) -> None:
    page.goto(f"{address}{NAME}.html#{target}", wait_until="load")
    settled(page)
    place = page.locator(f"[id='{target}']").first
    assert place.evaluate("e => !e.closest('details:not([open])')")
    top, limit = place.evaluate("e => [e.getBoundingClientRect().top, innerHeight]")
    at_the_end = page.evaluate("() => scrollY + innerHeight >= document.documentElement.scrollHeight - 2")
    assert 0 <= top < (limit if at_the_end else 110)  # below the header, which stays
    page.locator("article a.reference.internal[href^='#']").first.click()
    settled(page)


def test_paper_has_no_closed_folds_and_no_raw_formulas(page: Page, address: str) -> None:
    page.goto(f"{address}{NAME}.html", wait_until="load")
    settled(page)
    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(TYPESET) == page.locator(".math.notranslate").count()
    assert page.locator("details.fold:not(.plumbing):not([open])").count() == 0
    assert page.locator("details.plumbing[open]").count() == 0
    page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert page.locator("details.fold[open]").count() == 0


def test_tab_stops_at_folds_and_at_what_scrolls_and_at_no_formula(page: Page, address: str) -> None:
    web.open_page(page, f"{address}{NAME}.html")
    assert page.locator("mjx-container[tabindex='0']").count() == 0
    code = page.locator("details.deeper pre").first
    code.evaluate("e => { e.tabIndex = -1; }")  # as where a closed fold has no width
    page.locator("details.deeper > summary").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('details.deeper pre').tabIndex === 0")


def test_the_column_on_the_right_has_its_room_before_it_is_there(page: Page, address: str) -> None:
    page.set_viewport_size(web.DESK)
    page.goto(f"{address}{NAME}.html", wait_until="load")
    width = "() => document.querySelector('.bd-article-container').getBoundingClientRect().width"
    whole = page.evaluate(width)
    page.evaluate("() => document.querySelectorAll('.bd-article-container ~ *').forEach(e => e.remove())")
    assert page.evaluate(width) == whole


def test_a_page_loads_no_icon_script_and_mathjax_only_for_formulas(page: Page, address: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{address}references.html", wait_until="networkidle")
    assert asked
    assert not [url for url in asked if "mathjax" in url or "fontawesome.js" in url]
    page.goto(f"{address}{NAME}.html", wait_until="networkidle")
    settled(page)
    assert [url for url in asked if url.endswith("tex-chtml.js")]
    assert not [url for url in asked if "fontawesome.js" in url]


# In a notebook -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cells(built: Path) -> list[nbformat.NotebookNode]:
    return nbformat.read(built / "notebooks" / f"{NAME}.ipynb", as_version=4).cells


def test_a_notebook_marks_what_goes_deeper(cells: list[nbformat.NotebookNode]) -> None:
    sources = [cell.source for cell in cells]
    start = next(i for i, source in enumerate(sources) if source.startswith("### Going deeper"))
    assert sources[start].startswith(
        "### Going deeper: Why the limit is Gaussian (needs characteristic functions)\n\nThe characteristic function"
    )
    assert cells[start + 1].cell_type == "code"
    assert "***\n\n*The main line goes on here.*\n\nThe main line goes on with" in sources[start + 2]


def test_a_notebook_has_levels_listings_and_folded_plumbing(cells: list[nbformat.NotebookNode]) -> None:
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert "**Exercise 8.1 (Three steps)** · *warm-up*" in text
    assert "needed 3.17 ([Ho *et al.*, 2020](https://" in text
    code = [cell for cell in cells if cell.cell_type == "code"]
    (listing,) = [cell for cell in code if "listing" in cell.metadata.get("tags", ())]
    assert "class Walker" in listing.source
    (plot,) = [cell for cell in code if "subplots" in cell.source]
    assert plot.metadata.jupyter == {"source_hidden": True}
    assert plot.metadata.cellView == "form"
