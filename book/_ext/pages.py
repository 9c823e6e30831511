"""What every page gets and does without: buttons, a description, fewer scripts; and that every page is there."""

import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docutils import nodes
from numbering import chapter_number
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

NOTEBOOKS_BRANCH = "notebooks"  # the job that publishes the site puts the exported .ipynb files here


def colab_url(repository: str, docname: str) -> str:
    """Where Colab opens the notebook of a page."""
    path = repository.rstrip("/").removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{path}/blob/{NOTEBOOKS_BRANCH}/{docname}.ipynb"


def add_buttons(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document
) -> None:
    """Offer a chapter to Colab and for download. (The theme's button would open the .md in Colab.)"""
    if chapter_number(pagename) is None:
        return
    colab = {
        "type": "link",
        "url": colab_url(app.config.html_theme_options["repository_url"], pagename),
        "label": "colab-button",
        "icon": "fas fa-rocket",
        "text": "Colab",
        "tooltip": "Run this chapter in Google Colab",
    }
    notebook = {
        "type": "link",
        "url": context["pathto"](f"notebooks/{pagename}.ipynb", 1),
        "label": "notebook-button",
        "icon": "fas fa-file-code",
        "text": ".ipynb",
        "tooltip": "Download this chapter as a notebook",
    }
    context["header_buttons"].insert(0, colab)
    for group in context["header_buttons"]:
        if group["label"] == "download-buttons":
            group["buttons"].insert(0, notebook)


# What a page says about itself ---------------------------------------------------------------------------------------


def describe(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Give search engines and shared links the title of a page and what its first paragraph says."""
    paragraphs = doctree.findall(nodes.paragraph) if doctree else ()
    text = next((text for node in paragraphs if len(text := " ".join(node.astext().split())) > 40), "")
    if text:
        title = html.unescape(re.sub(r"<[^>]*>", "", context["title"]))
        facts = {"og:title": title, "og:type": "article", "og:description": shorten(text)}
        tags = [f'<meta name="description" content="{html.escape(shorten(text))}">']
        tags += [f'<meta property="{name}" content="{html.escape(fact)}">' for name, fact in facts.items()]
        context["metatags"] += "\n".join(tags)


def shorten(text: str, limit: int = 160) -> str:
    """As many whole sentences as fit, or the words that do."""
    if len(text) <= limit:
        return text
    sentences = re.match(rf".{{1,{limit - 1}}}[.?!](?=\s)", text)
    return sentences[0] if sentences else text[:limit].rpartition(" ")[0] + " …"


# What a page does without --------------------------------------------------------------------------------------------

# Half a megabyte of script for icons that the theme's own fonts draw.
ICON_SCRIPT = re.compile(r"<script[^>]*fontawesome\.js[^>]*></script>\s*")
SEARCH_SCRIPT = re.compile(r"<script (src=\"[^\"]*(?:searchtools|language_data|searchindex)\.js[^\"]*\">)")
SIDEBAR_FOLD = re.compile(r"(<a [^>]*>([^<]+)</a>\s*<details[^>]*><summary)>")


def finish(page: str) -> str:
    """Mend what the theme's templates write: scripts that hold up the page, and a fold without a name."""
    page = ICON_SCRIPT.sub("", page)
    page = SIDEBAR_FOLD.sub(r'\1 aria-label="Pages below \2">', page)
    if "Search.init()" in page or 'id="search-results"' in page:  # the page of the search itself
        return page
    return SEARCH_SCRIPT.sub(r"<script defer \1", page)


def finish_pages(app: Sphinx) -> None:
    """Have every page pass through `finish` on its way to the disk."""
    if app.builder.format == "html":
        render: Callable[[str, dict[str, Any]], str] = app.builder.templates.render  # type: ignore[attr-defined]
        app.builder.templates.render = lambda name, context: finish(render(name, context))  # type: ignore[attr-defined]


def leave_math_to_its_script(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Take MathJax off the page: _static/math.js loads it, later, where there are formulas."""
    context["script_files"] = [
        script for script in context["script_files"] if not str(script.filename or "").endswith(app.config.mathjax_path)
    ]


def every_page_exists(app: Sphinx, exception: Exception | None) -> None:
    """Fail where a page of the table of contents is not in the output."""
    if exception or app.builder.format != "html":
        return
    pages = [str(name).removesuffix(".md") for name in app.config.external_site_map]
    missing = [name for name in pages if not Path(app.outdir, f"{name}.html").is_file()]
    if missing:
        raise ExtensionError(f"pages of the table of contents that were not built: {', '.join(missing)}")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", add_buttons, priority=502)  # after the theme's buttons, at 501
    app.connect("html-page-context", describe)
    app.connect("html-page-context", leave_math_to_its_script, priority=900)  # after Sphinx has put it there
    app.connect("builder-inited", finish_pages, priority=900)
    app.connect("build-finished", every_page_exists)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
