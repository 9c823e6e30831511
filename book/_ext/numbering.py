"""Number chapters by their file name: 02-forward-process.md is chapter 2, whatever else is written.

Sphinx counts the pages of a numbered table of contents, so that chapter 2 would be "1" until chapters 0 and 1
exist. Here the number comes from the name. Sections are 2.1, 2.2, …; figures, equations and exercises follow,
because Sphinx numbers them from the number of the chapter that they are in.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx_external_toc.collectors import TocTreeCollectorWithStyles

UNNUMBERED = ("On your own pictures", "On your own data", "Summary", "Further Reading")  # how chapters end

Numbers = dict[str, tuple[int, ...]]  # by anchor, as Sphinx looks them up when it writes a page


def chapter_number(docname: str) -> int | None:
    """The number of the chapter that a page holds, or None for a page that is not a chapter."""
    found = re.match(r"(\d\d)-", docname)
    return int(found[1]) if found else None


def number_page(env: BuildEnvironment, docname: str, chapter: int) -> Numbers:
    """Number a chapter's title and its sections."""
    numbers: Numbers = {}
    env.titles[docname]["secnumber"] = [chapter]  # for the links to the next and the previous page
    for title, *below in env.tocs[docname].children:  # one item: the title, then a list of the sections
        _number(title, (chapter,), numbers)
        section = 0
        for heading in (heading for entry in below for heading in entry.findall(nodes.reference)):
            numbers[heading["anchorname"]] = ()  # finer headings stay without; Sphinx would use the chapter's
        for entry in (entry for sections in below for entry in sections):
            if isinstance(entry, nodes.list_item) and entry[0].astext() not in UNNUMBERED:
                section += 1
                _number(entry[0], (chapter, section), numbers)
    return numbers


def _number(paragraph: nodes.Element, number: tuple[int, ...], numbers: Numbers) -> None:
    reference = paragraph[0]
    reference["secnumber"] = list(number)  # in the sidebar
    numbers[reference["anchorname"]] = number


def number_sections(env: BuildEnvironment) -> list[str]:
    """Number every chapter; return the pages whose numbers changed."""
    before, env.toc_secnumbers = env.toc_secnumbers, {}
    for docname in env.tocs:
        chapter = chapter_number(docname)
        if chapter is not None:
            env.toc_secnumbers[docname] = number_page(env, docname, chapter)
    return [name for name, numbers in env.toc_secnumbers.items() if numbers != before.get(name)]


def setup(app: Sphinx) -> dict[str, Any]:
    # The collector of sphinx_external_toc is the one that Jupyter Book runs; figures it numbers as Sphinx does.
    TocTreeCollectorWithStyles.assign_section_numbers = lambda collector, env: number_sections(env)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
