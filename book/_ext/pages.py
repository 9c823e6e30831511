"""What every page gets, and the check that every page is there: buttons to Colab and to the notebook."""

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
    app.connect("build-finished", every_page_exists)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
