"""Every page of the site in a real browser: on a desk and on a phone, by day and by night, without a network."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page

from _support import browser as web
from _support import rules

# What MathJax should have typeset and has not, or has in red.
MATH = """() => {
    const found = [];
    for (const math of document.querySelectorAll(".math.notranslate")) {
        const count = math.querySelectorAll("mjx-container").length;
        if (count !== 1) found.push(`${count} formulas in ${math.textContent.slice(0, 80)}`);
        const bad = math.querySelector("mjx-merror, [data-mjx-error]");
        if (bad) found.push(`cannot typeset: ${bad.dataset.mjxError ?? bad.textContent}`);
    }
    const prose = document.querySelector("article").cloneNode(true);
    prose.querySelectorAll("pre, code, script, style, mjx-container").forEach(element => element.remove());
    for (const raw of prose.textContent.match(/\\\\[(\\[].{0,60}|\\$[^$]{1,60}\\$/gs) ?? []) found.push(`raw: ${raw}`);
    return found;
}"""

# What sticks out of the page to the right. A box that scrolls by itself may hold something wider.
OVERFLOW = """() => {
    const width = document.scrollingElement.scrollWidth;
    if (width <= innerWidth) return [];
    const scrolls = element => {
        for (let at = element.parentElement; at && at !== document.body; at = at.parentElement)
            if (getComputedStyle(at).overflowX !== "visible") return true;
        return false;
    };
    const wide = [...document.querySelectorAll("body *")]
        .filter(e => e.getBoundingClientRect().right + scrollX > innerWidth + 1 && !scrolls(e))
        .slice(0, 8)
        .map(e => `<${e.tagName.toLowerCase()} class="${e.getAttribute("class") ?? ""}"> `
            + e.textContent.trim().replace(/\\s+/g, " ").slice(0, 40));
    return [`${width} px wide on a screen of ${innerWidth} px`, ...wide];
}"""

# Text whose contrast with what is behind it is below 4.5, the AA level of WCAG for body text; or that is set in a
# weight below the normal one, which looks fainter than its colour says.
CONTRAST = """selector => {
    const parse = color => {
        const n = color.match(/[\\d.]+%?/g)?.map(parseFloat) ?? [0, 0, 0, 0];
        const scale = color.startsWith("color(") ? 255 : 1;  // color(srgb …) counts from 0 to 1
        return [scale * n[0], scale * n[1], scale * n[2], n[3] ?? 1];
    };
    const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3]));
    const luminance = color => {
        const [r, g, b] = color.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = element => {
        const layers = [];
        for (let at = element; at; at = at.parentElement) {
            const color = parse(getComputedStyle(at).backgroundColor);
            layers.push(color);
            if (color[3] === 1) break;
        }
        return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
    };
    const worst = new Map();
    for (const element of document.querySelectorAll(selector)) {
        const own = [...element.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.textContent.trim());
        if (!own || !element.checkVisibility({visibilityProperty: true, opacityProperty: true})) continue;
        if (!element.getClientRects().length || element.closest("[aria-hidden=true], mjx-assistive-mml")) continue;
        const style = getComputedStyle(element), ground = behind(element);
        const ink = parse(element instanceof SVGElement ? style.fill : style.color);
        for (let at = element; at; at = at.parentElement) ink[3] *= parseFloat(getComputedStyle(at).opacity);
        const [a, b] = [luminance(over(ink, ground)), luminance(ground)];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const name = `${element.tagName.toLowerCase()}.${element.getAttribute("class") ?? ""} `
            + `in .${element.parentElement.getAttribute("class") ?? ""}`;
        const thin = style.fontWeight < 400;
        if ((ratio < 4.5 || thin) && !(worst.get(name)?.ratio <= ratio))
            worst.set(name, {ratio, thin, text: element.textContent.trim().slice(0, 40), ink: style.color, ground});
    }
    return [...worst].map(([name, w]) =>
        `${w.ratio.toFixed(2)}${w.thin ? " thin" : ""} ${name}: "${w.text}", ${w.ink} on ${w.ground.map(Math.round)}`);
}"""

# What can be pressed or opened and has no name that a screen reader could say.
UNNAMED = """() => {
    const named = e => [e.innerText, e.getAttribute("aria-label"), e.title]
        .concat(e.querySelector("img[alt]")?.alt, e.querySelector("svg title")?.textContent)
        .concat((e.getAttribute("aria-labelledby") ?? "").split(" ").map(id => document.getElementById(id)?.innerText))
        .some(name => name?.trim());
    return [...document.querySelectorAll("summary, button, a[href], [role=button]")]
        .filter(e => e.getClientRects().length && getComputedStyle(e).visibility === "visible" && !named(e))
        .map(e => e.outerHTML.replace(/\\s+/g, " ").slice(0, 120));
}"""
TEXT = "article *, .bd-sidebar *, .bd-header *, .bd-toc *, .prev-next-footer *, .bd-footer *, .sidebar-toggle"


@dataclass
class Visit:
    """What one look at a page found, each kind of problem by itself."""

    loading: list[str] = field(default_factory=list)
    math: list[str] = field(default_factory=list)
    overflow: list[str] = field(default_factory=list)
    contrast: dict[str, list[str]] = field(default_factory=dict)
    unnamed: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    with web.serve(site) as url:
        yield url


def look(browser: Browser, url: str, allowed: str) -> Visit:
    visit = Visit()
    context = browser.new_context(viewport=web.DESK, reduced_motion="reduce", service_workers="block")
    page = web.watched_page(context, allowed, visit.loading)
    web.open_page(page, url)
    visit.math = page.evaluate(MATH)
    web.unfold(page)
    visit.unnamed = page.evaluate(UNNAMED)
    for theme in ("light", "dark"):
        web.set_theme(page, theme)
        visit.contrast[theme] = page.evaluate(CONTRAST, TEXT)
    page.set_viewport_size(web.PHONE)
    page.wait_for_timeout(100)
    visit.overflow = page.evaluate(OVERFLOW)
    visit.unnamed += page.evaluate(UNNAMED)
    context.close()
    return visit


@pytest.fixture(scope="session")
def visits(browser: Browser, address: str) -> dict[str, Visit]:
    """Each page is opened once, by the first test that asks for it; its tests stay in one process."""

    class Visits(dict[str, Visit]):
        def __missing__(self, name: str) -> Visit:
            self[name] = look(browser, f"{address}{name}.html", address)
            return self[name]

    return Visits()


def test_page_loads_without_errors_or_network(page_name: str, visits: dict[str, Visit]) -> None:
    assert not visits[page_name].loading, "\n".join(visits[page_name].loading)


def test_math_is_typeset(page_name: str, visits: dict[str, Visit]) -> None:
    assert not visits[page_name].math, "\n".join(visits[page_name].math)


def test_page_fits_a_phone(page_name: str, visits: dict[str, Visit]) -> None:
    assert not visits[page_name].overflow, "\n".join(visits[page_name].overflow)


def test_what_can_be_pressed_has_a_name(page_name: str, visits: dict[str, Visit]) -> None:
    assert not visits[page_name].unnamed, "\n".join(visits[page_name].unnamed)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read(page_name: str, theme: str, visits: dict[str, Visit]) -> None:
    assert not visits[page_name].contrast[theme], "\n".join(visits[page_name].contrast[theme])


def test_page_opens_as_a_file(browser: Browser, site: Path, root: Path) -> None:
    """A copy of the site on a disk works as well, formulas included."""
    name = rules.chapters(root)[0].stem
    visit = look(browser, (site / f"{name}.html").as_uri(), "file://")
    assert not visit.loading, "\n".join(visit.loading)
    assert not visit.math, "\n".join(visit.math)


# Links ---------------------------------------------------------------------------------------------------------


@cache
def parsed(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf8"), "html.parser")


@cache
def anchors(path: Path) -> frozenset[str]:
    return frozenset(str(element[name]) for name in ("id", "name") for element in parsed(path).select(f"[{name}]"))


def broken_links(path: Path) -> list[str]:
    """The links of a page that lead to no file, or to no place in it."""
    found = []
    for element in parsed(path).select("[href], [src]"):
        link = str(element.get("href") or element.get("src") or "")
        if urlsplit(link).scheme or link.startswith("//") or not link:
            continue
        name, fragment = urldefrag(link)
        target = (path.parent / unquote(urlsplit(name).path)).resolve() if name else path
        if target.is_dir():
            target = target / "index.html"
        if not target.is_file():
            found.append(f"{link}: there is no such file")
        elif fragment and target.suffix == ".html" and unquote(fragment) not in anchors(target):
            found.append(f"{link}: no such place on that page")
    return found


def test_internal_links_resolve(page_name: str, site: Path) -> None:
    found = broken_links(site / f"{page_name}.html")
    assert not found, "\n".join(sorted(set(found)))


def test_every_derived_equation_leads_to_its_test(chapter: Path, site: Path) -> None:
    page = parsed(site / f"{chapter.stem}.html")
    marks = [str(link["href"]) for link in page.select(".equation-mark a")]
    derived = {str(element["id"]).removeprefix("equation-") for element in page.select("[id^='equation-eq-']")}
    assert sorted(marks) == sorted(f"checks.html#{label}" for label in derived)


# The measures themselves ---------------------------------------------------------------------------------------


@pytest.fixture
def blank(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport=web.PHONE)
    yield page
    page.close()


def test_the_measure_of_overflow_can_fail(blank: Page) -> None:
    blank.set_content("<p>narrow</p><div style='overflow:auto'><p style='width:900px'>scrolls</p></div>")
    assert blank.evaluate(OVERFLOW) == []
    blank.set_content("<p style='width:900px'>wide</p>")
    assert "wide" in blank.evaluate(OVERFLOW)[1]


@pytest.mark.parametrize(
    ("html", "named"),
    [
        ("<details open><summary>Hint</summary></details>", True),
        ("<details open><summary><svg></svg></summary></details>", False),
        ("<button aria-label='Menu'></button>", True),
        ("<button><span style='display:none'>Menu</span></button>", False),
        ("<button><svg><title>Copy</title></svg></button>", True),
        ("<a href='#'><img alt='Home'></a>", True),
        ("<a href='#'><img></a>", False),
    ],
)
def test_the_measure_of_names_can_fail(blank: Page, html: str, named: bool) -> None:
    blank.set_content(html)
    assert (blank.evaluate(UNNAMED) == []) is named


@pytest.mark.parametrize(
    ("style", "readable"),
    [
        ("color:#767676;background:#fff", True),
        ("color:#777777;background:#fff", False),
        ("color:#000;background:rgba(0,0,0,.4)", True),
        ("color:#000;background:rgba(0,0,0,.6)", False),
        ("color:rgba(0,0,0,.5);background:#fff", False),
        ("color:#000;background:#fff;opacity:.5", False),
        ("color:#000;background:#fff;font-weight:300", False),
    ],
)
def test_the_measure_of_contrast_can_fail(blank: Page, style: str, readable: bool) -> None:
    blank.set_content(f"<article><p style='{style}'>text</p></article>")
    assert (blank.evaluate(CONTRAST, TEXT) == []) is readable


@pytest.mark.parametrize(
    "html",
    ["<span class='math notranslate'>\\(x\\)</span>", "<p>\\(x\\)</p>", "<p>a $x$ b</p>"],
)
def test_the_measure_of_math_can_fail(blank: Page, html: str) -> None:
    blank.set_content(f"<article>{html}</article>")
    assert blank.evaluate(MATH)


def test_a_request_to_the_network_is_found(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        "<script src='https://example.org/x.js'></script><script>throw new Error('broken')</script>"
    )
    problems: list[str] = []
    context = browser.new_context()
    with web.serve(tmp_path) as url:
        web.open_page(web.watched_page(context, url, problems), url)
    context.close()
    assert any("example.org" in problem for problem in problems)
    assert any("broken" in problem for problem in problems)


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text("<a href='#there' id='there'></a><a href='b.html'></a><a href='a.html#gone'></a>")
    assert len(broken_links(page)) == 2
