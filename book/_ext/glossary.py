"""The role `gloss`: a term where it is first explained; the list `{glossary-of-terms}` and the links are made from it.

``A {gloss}`score` is the slope of a log-density.`` sets the term in bold and keeps the sentence for the glossary;
``{gloss}`scores <score>` `` names the term where the sentence needs another form. Later sections link to it, each once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from docutils import nodes
from numbering import chapter_number
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective, SphinxRole

PAGE = "glossary"
FORM = re.compile(r"(?s)(\S.*?)\s*<([^<>]+)>")
SENTENCE_END = re.compile(r"[.!?]['”)]*(?=\s|$)")
NOT_TEXT = (nodes.title, nodes.reference, nodes.literal, nodes.math, nodes.caption, nodes.FixedTextElement, nodes.raw)
KEPT = (nodes.Text, nodes.math, nodes.literal, nodes.emphasis, nodes.strong)  # in a sentence that is moved
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gloss:
    term: str
    docname: str
    place: str  # the id of its anchor
    sentence: tuple[nodes.Node, ...]

    @property
    def text(self) -> str:
        return " ".join("".join(node.astext() for node in self.sentence).split())


class gloss(nodes.strong):  # named as docutils names nodes
    """A term where it is first explained."""


class glossary_of_terms(nodes.General, nodes.Element):
    """Where the list of terms goes once all pages are read."""


class GlossRole(SphinxRole):
    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        found = FORM.fullmatch(self.text)
        shown, term = found.groups() if found else (self.text, self.text)
        term = " ".join(term.split())
        return [gloss(self.rawtext, shown, ids=[nodes.make_id(f"term-{term}")], term=term, classes=["gloss"])], []


class GlossaryOfTerms(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [glossary_of_terms()]


# Collect


def collect(app: Sphinx, doctree: nodes.document) -> None:
    docname = app.env.docname
    _pages(app.env)[docname] = [
        Gloss(node["term"], docname, node["ids"][0], tuple(sentence_around(node))) for node in doctree.findall(gloss)
    ]


def sentence_around(node: nodes.Node) -> Iterator[nodes.Node]:
    """The sentence of a paragraph in which this node stands."""
    while not isinstance(node.parent, nodes.TextElement) or isinstance(node.parent, nodes.Inline):
        node = node.parent
    line = node.parent.children
    place = line.index(node)
    before: list[nodes.Node] = []
    for other in reversed(line[:place]):
        text = other.astext() if isinstance(other, nodes.Text) else ""
        ends = list(SENTENCE_END.finditer(text))
        before.insert(0, nodes.Text(text[ends[-1].end() :].lstrip()) if ends else _plain(other))
        if ends:
            break
    yield from before
    yield nodes.strong("", node.astext())
    for other in line[place + 1 :]:
        end = SENTENCE_END.search(other.astext()) if isinstance(other, nodes.Text) else None
        yield nodes.Text(other.astext()[: end.end()]) if end else _plain(other)
        if end:
            break


def _plain(node: nodes.Node) -> nodes.Node:
    """A copy without links, footnotes and labels, which belong to the place that it comes from."""
    return node.deepcopy() if isinstance(node, KEPT) else nodes.Text(node.astext())


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    _pages(env).pop(docname, None)


def _pages(env: BuildEnvironment) -> dict[str, list[Gloss]]:
    if not hasattr(env, "book_glosses"):
        env.book_glosses = {}  # type: ignore[attr-defined]
    return env.book_glosses  # type: ignore[attr-defined]


def glosses(env: BuildEnvironment) -> dict[str, Gloss]:
    """Every term, in lower case, in the order of the book."""
    found: dict[str, Gloss] = {}
    for docname in sorted(_pages(env), key=_order):
        for one in _pages(env)[docname]:
            found.setdefault(one.term.lower(), one)
    return found


def _order(docname: str) -> tuple[int, str]:
    """Front matter first, then the chapters by number."""
    number = chapter_number(docname)
    return (-1 if number is None else number, docname)


def check(app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Warn where a term is explained twice, and write every page again: any of them may link to what has changed."""
    known = glosses(env)
    for page in _pages(env).values():
        for one in page:
            first = known[one.term.lower()]
            if one is not first:
                message = f"{one.term!r} has its gloss in {first.docname} already; write it in bold here, or not at all"
                logger.warning(message, location=one.docname, type="glossary")
    return sorted(page for page in env.found_docs if page == PAGE or chapter_number(page) is not None) if known else []


# Show


def show(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Link a page's later sections, and fill the glossary; notebooks do without the links."""
    known = glosses(app.env)
    for place in list(doctree.findall(glossary_of_terms)):
        place.replace_self(list_of_terms(app, docname, known))
    if app.builder.format == "html" and chapter_number(docname) is not None:
        for section in doctree.findall(nodes.section):
            if isinstance(section.parent, nodes.section) and isinstance(section.parent.parent, nodes.document):
                link_terms(app, docname, section, known)


def list_of_terms(app: Sphinx, docname: str, known: dict[str, Gloss]) -> nodes.definition_list:
    found = nodes.definition_list(classes=["glossary"])
    for key in sorted(known):
        one = known[key]
        number = chapter_number(one.docname)
        where = "the preface" if number is None else f"chapter {number}"
        link = nodes.reference(
            "", one.term, internal=True, refuri=_uri(app, docname, one), reftitle=f"Explained in {where}"
        )
        text = nodes.paragraph("", "", *(node.deepcopy() for node in one.sentence))
        found += nodes.definition_list_item("", nodes.term("", "", link), nodes.definition("", text))
    return found


def link_terms(app: Sphinx, docname: str, section: nodes.section, known: dict[str, Gloss]) -> None:
    """Make the first mention of each term explained before this section a link to where that is."""
    here = {node["term"].lower() for node in section.findall(gloss)}
    later = _later_in(section)
    open_terms = {
        term: one
        for term, one in known.items()
        if term not in here and _order(one.docname) <= _order(docname) and one.place not in later
    }
    for text in list(section.findall(nodes.Text)):
        if open_terms and not _inside(text, NOT_TEXT):
            pieces = list(_linked(app, docname, str(text), open_terms))
            if len(pieces) > 1:
                parent = text.parent
                place = parent.index(text)
                parent.remove(text)
                parent.insert(place, pieces)


def _later_in(section: nodes.section) -> set[str]:
    """Anchors of the terms that this page explains in later sections."""
    siblings = section.parent.children
    after = siblings[siblings.index(section) + 1 :]
    return {node["ids"][0] for sibling in after for node in sibling.findall(gloss)}


def _linked(app: Sphinx, docname: str, text: str, open_terms: dict[str, Gloss]) -> Iterator[nodes.Node]:
    """The text in pieces, the terms in it as links; each link closes its term."""
    while open_terms:
        words = "|".join(sorted(map(re.escape, open_terms), key=len, reverse=True)).replace(r"\ ", r"\s+")
        found = re.search(rf"(?i)\b({words})(?:s|es)?\b", text)
        if not found:
            break
        one = open_terms.pop(" ".join(found[1].lower().split()))
        yield nodes.Text(text[: found.start()])
        uri = _uri(app, docname, one)
        yield nodes.reference("", found[0], internal=True, refuri=uri, reftitle=one.text, classes=["term"])
        text = text[found.end() :]
    yield nodes.Text(text)


def _uri(app: Sphinx, docname: str, one: Gloss) -> str:
    page = "" if docname == one.docname else app.builder.get_relative_uri(docname, one.docname)
    return f"{page}#{one.place}"


def _inside(node: nodes.Node, kinds: tuple[type, ...]) -> bool:
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds):
            return True
    return False


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_node(
        gloss, html=(lambda writer, node: writer.visit_strong(node), lambda writer, node: writer.depart_strong(node))
    )
    app.add_node(glossary_of_terms)
    app.add_role("gloss", GlossRole())
    app.add_directive("glossary-of-terms", GlossaryOfTerms)
    app.connect("doctree-read", collect)
    app.connect("env-purge-doc", forget)
    app.connect("env-updated", check)
    app.connect("doctree-resolved", show)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
