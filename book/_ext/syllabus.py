"""The directive `{syllabus}`: the map of the book, from syllabus.yml, with links to the chapters written."""

from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from numbering import chapter_number
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SYLLABUS = Path(__file__).resolve().parents[1] / "syllabus.yml"


def parts() -> list[dict[str, Any]]:
    """The parts of the book, each with its chapters: `page`, `title` and `sections`."""
    return yaml.safe_load(SYLLABUS.read_text("utf8"))


class Syllabus(SphinxDirective):
    """Plain paragraphs and lists, which a notebook can hold as well as a page."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(SYLLABUS))
        result: list[nodes.Node] = []
        for part in parts():
            heading = nodes.paragraph("", "", nodes.strong(text=part["part"]), classes=["syllabus-part"])
            chapters = nodes.bullet_list("", *map(self.chapter, part["chapters"]), bullet="-", classes=["syllabus"])
            result += [heading, chapters]
        return result

    def chapter(self, chapter: dict[str, Any]) -> nodes.list_item:
        title = f"{chapter_number(chapter['page'])} {chapter['title']}"
        written = chapter["page"] in self.env.found_docs
        line = nodes.paragraph()
        if written:
            line += self.link(chapter["page"], title)
        else:
            line += [nodes.Text(title), nodes.Text(" "), nodes.emphasis(text="planned")]
        sections = nodes.paragraph(text=" · ".join(chapter["sections"]), classes=["syllabus-sections"])
        return nodes.list_item("", line, sections, classes=["written" if written else "planned"])

    def link(self, page: str, title: str) -> addnodes.pending_xref:
        return addnodes.pending_xref(
            "",
            nodes.inline(text=title),
            refdoc=self.env.docname,
            refdomain="std",
            reftype="doc",
            reftarget=f"/{page}",
            refexplicit=True,
            refwarn=True,
        )


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("syllabus", Syllabus)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
