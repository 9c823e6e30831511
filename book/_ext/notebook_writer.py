"""Turn a resolved page of the book into the Markdown and code of a plain notebook.

What Jupyter and Colab read is Markdown, `$…$`, `$$…$$` and a little HTML: no directive and no role. The page
comes here as Sphinx resolved it, so every number, citation and link is the site's own. A node that nobody taught
this module to write is a warning, which `-W` turns into a failed build: text must never go missing in silence.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from docutils import nodes
from sphinx.builders import Builder
from sphinx.locale import admonitionlabels
from sphinx.util import logging

logger = logging.getLogger(__name__)

# Nodes that a reader never sees.
INVISIBLE = {
    "comment", "compound", "docinfo", "index", "meta", "pending", "substitution_definition",
    "tabular_col_spec", "target", "toctree",
}  # fmt: skip
# Nodes that add nothing to what is in them.
TRANSPARENT_BLOCKS = {"container", "compact_paragraph", "document", "header", "legend"}
TRANSPARENT_INLINES = {"abbreviation", "generated", "inline", "number_reference", "pending_xref"}
RAW_TEXT = re.compile(r"<(script|style)\b.*?</\1>|<!--.*?-->|<[^>]*>", re.DOTALL | re.IGNORECASE)


@dataclass
class Markdown:
    """A block of Markdown; `opens` says that it begins a new cell."""

    text: str
    opens: bool = False


@dataclass
class Code:
    """A code cell of the page; `hidden` says that its source starts folded."""

    source: str
    tags: tuple[str, ...] = ()
    hidden: bool = False


Piece = Markdown | Code


def expand_macros(tex: str, macros: dict[str, str | list]) -> str:
    r"""Replace the macros of the site's MathJax, such as `\KL{q}{p}`, by what they stand for.

    A plain Jupyter knows none of them. Arguments are braced groups or single tokens, as in TeX.
    """
    for _ in range(10):  # macros may use macros
        before = tex
        for name, body in macros.items():
            text, count = (body, 0) if isinstance(body, str) else (body[0], int(body[1]))
            pattern = re.compile(r"\\" + re.escape(name) + r"(?![A-Za-z])")
            start = 0
            while match := pattern.search(tex, start):
                end, result = match.end(), text
                for number in range(1, count + 1):
                    argument, end = _argument(tex, end)
                    result = result.replace(f"#{number}", argument)
                # A space keeps `\R x` from becoming `\mathbbRx` when the body ends in a command.
                gap = " " if re.search(r"\\[A-Za-z]+$", result) and tex[end : end + 1].isalpha() else ""
                start = match.start() + len(result)
                tex = tex[: match.start()] + result + gap + tex[end:]
        if tex == before:
            return tex
    raise ValueError(f"these math macros never come to an end: {sorted(macros)}")


def _argument(tex: str, start: int) -> tuple[str, int]:
    """The TeX argument at `start`, without its braces, and where it ends."""
    while tex[start : start + 1].isspace():
        start += 1
    if tex[start : start + 1] != "{":
        token = re.match(r"\\[A-Za-z]+|\\.|.", tex[start:], re.DOTALL)
        return (token[0], start + len(token[0])) if token else ("", start)
    depth, at = 0, start
    while at < len(tex):
        if tex[at] == "\\":
            at += 1
        else:
            depth += {"{": 1, "}": -1}.get(tex[at], 0)
            if depth == 0:
                return tex[start + 1 : at], at + 1
        at += 1
    raise ValueError(f"unbalanced braces in {tex!r}")


def escape(text: str) -> str:
    """Prose that Markdown shows as it is written here."""
    text = re.sub(r"\s*\n\s*", " ", text)
    text = re.sub(r"[\\`*$]", r"\\\g<0>", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)  # inside a word an underscore is only itself
    text = re.sub(r"\](?=[(\[])", r"\\]", text)
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return re.sub(r"&(?=#?\w+;)(?!lt;)", "&amp;", text).replace("~~", r"\~~")


def indent(text: str, first: str, rest: str) -> str:
    """`text` with `first` before its first line and `rest` before the others."""
    lines = text.split("\n")
    starts = [first, *[rest if line else rest.rstrip() for line in lines[1:]]]
    return "\n".join(start + line for start, line in zip(starts, lines))


def text_of(pieces: Iterable[Piece]) -> str:
    return "\n\n".join(piece.text for piece in pieces if isinstance(piece, Markdown))


def has_code(pieces: Iterable[Piece]) -> bool:
    return any(isinstance(piece, Code) for piece in pieces)


def details(summary: str, text: str) -> str:
    # The blank lines make Markdown read what is inside.
    return f"<details>\n<summary><b>{summary}</b></summary>\n\n{text}\n\n</details>"


class PageWriter:
    """Writes one page. `block_NAME` gives the pieces of a node, `inline_NAME` its Markdown within a line."""

    def __init__(self, builder: Builder, docname: str) -> None:
        self.builder, self.docname = builder, docname
        self.config, self.env = builder.config, builder.env
        self.fignumbers = self.env.toc_fignumbers.get(docname, {})
        self.secnumbers = self.env.toc_secnumbers.get(docname, {})
        mathjax = getattr(self.config, "mathjax3_config", None) or {}
        self.macros = mathjax.get("tex", {}).get("macros", {})
        self.level = 0
        self.quoted = 0  # within a block quote, or a table, display math must stay on one line
        self.footnotes: list[str] = []

    # -- dispatch

    def page(self, document: nodes.document) -> list[Piece]:
        pieces = self.blocks(document.children)
        if self.footnotes:
            pieces.append(Markdown("\n\n".join(self.footnotes), opens=True))
        return pieces

    def blocks(self, children: Iterable[nodes.Node]) -> list[Piece]:
        pieces: list[Piece] = []
        for node in children:
            method = self._method("block", node)
            if method:
                pieces += method(node)
            elif isinstance(node, nodes.Inline | nodes.Text) or self._method("inline", node):
                pieces += self.paragraph(self.inline(node))
            elif node.tagname in TRANSPARENT_BLOCKS:
                pieces += self.blocks(node.children)
            elif node.tagname not in INVISIBLE:
                self.unknown(node)
                pieces += self.blocks(node.children)
        return [piece for piece in pieces if isinstance(piece, Code) or piece.text.strip()]

    def inlines(self, node: nodes.Node) -> str:
        return "".join(self.inline(child) for child in node.children)

    def inline(self, node: nodes.Node) -> str:
        method = self._method("inline", node)
        if method:
            return method(node)
        if node.tagname in TRANSPARENT_INLINES:
            return self.inlines(node)
        if node.tagname in INVISIBLE:
            return ""
        self.unknown(node)
        return self.inlines(node) or escape(node.astext())

    def _method(self, kind: str, node: nodes.Node) -> Callable | None:
        """The method for the node's own class or the nearest of its parents that has one."""
        for parent in type(node).__mro__:
            if method := getattr(self, f"{kind}_{parent.__name__}", None):
                return method
        return None

    def unknown(self, node: nodes.Node) -> None:
        logger.warning(
            "the notebook exporter cannot write a <%s>: %.80r; teach it in notebook_writer.py",
            node.tagname, node.astext(), location=node, type="notebooks",
        )  # fmt: skip

    # -- numbers and links, as the site has them

    def number(self, kind: str, node: nodes.Element) -> str:
        """The number of a figure, a table, an equation or an exercise, or nothing."""
        for name in node["ids"]:
            if numbers := self.fignumbers.get(kind, {}).get(name):
                return ".".join(map(str, numbers))
        return ""

    def label(self, kind: str, node: nodes.Element) -> str:
        number = self.number(kind, node)
        return self.config.numfig_format[kind] % number if number else ""

    def url(self, node: nodes.Element) -> str:
        page = self.builder.get_target_uri(self.docname)
        if "refid" in node:
            return f"{page}#{node['refid']}"
        uri = node.get("refuri", "")
        # Some extensions make links relative to the page without asking the builder.
        return uri if re.match(r"[a-z][a-z0-9+.-]*:", uri) else self.builder.absolute(self.docname, uri)

    def link(self, text: str, url: str) -> str:
        url = url.replace(" ", "%20").replace("(", "%28").replace(")", "%29")
        return f"[{text.strip()}]({url})"

    def tex(self, text: str) -> str:
        return expand_macros(text.strip(), self.macros)

    # -- blocks

    def paragraph(self, text: str) -> list[Piece]:
        text = re.sub(r" *\n *", "\n", text).strip()
        # A line that happens to begin like a list, a heading or a quotation is none.
        text = re.sub(r"^(#{1,6} |[-+>] |\d+(?=[.)] ))", lambda m: self._escape_start(m[0]), text)
        return [Markdown(text)]

    @staticmethod
    def _escape_start(start: str) -> str:
        return start + "\\" if start.isdigit() else "\\" + start

    def block_paragraph(self, node: nodes.Element) -> list[Piece]:
        if "computed" in node["classes"]:  # the page's last line, on outputs that a notebook does not carry
            return []
        if "equation-definition" in node["classes"]:  # the mark beside an equation that has no test
            return []
        # A theme may move a footnote or a picture into the paragraph: what is a block is written as one.
        if any(self._method("block", child) and not self._method("inline", child) for child in node.children):
            return self.blocks(node.children)
        return self.paragraph(self.inlines(node))

    def block_section(self, node: nodes.Element) -> list[Piece]:
        self.level += 1
        pieces = self.blocks(node.children)
        self.level -= 1
        return pieces

    def block_title(self, node: nodes.Element) -> list[Piece]:
        section = node.parent
        ids = [f"#{name}" for name in section.get("ids", [])] + ([""] if self.level == 1 else [])
        number = next((self.secnumbers[name] for name in ids if name in self.secnumbers), None)
        prefix = ".".join(map(str, number)) + self.config.html_secnumber_suffix if number else ""
        return [Markdown("#" * min(self.level, 6) + f" {prefix}{self.inlines(node).strip()}", opens=True)]

    def block_rubric(self, node: nodes.Element) -> list[Piece]:
        return [Markdown(f"**{self.inlines(node).strip()}**")]

    def block_transition(self, node: nodes.Element) -> list[Piece]:
        return [Markdown("***")]

    def block_literal_block(self, node: nodes.Element) -> list[Piece]:
        language = node.get("language", "")
        return self._fence(node.astext(), "" if language in ("default", "none") else language)

    def block_doctest_block(self, node: nodes.Element) -> list[Piece]:
        return self._fence(node.astext(), "python")

    def _fence(self, text: str, language: str) -> list[Piece]:
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
        return [Markdown(f"{fence}{language}\n{text.rstrip()}\n{fence}")]

    def block_math_block(self, node: nodes.Element) -> list[Piece]:
        tex = self.tex(node.astext())
        number = self.number("displaymath", node) if node.get("ids") else ""
        tag = rf" \tag{{{number}}}" if number else ""
        if node.get("nowrap"):  # an environment such as align, which stands on its own
            tex = re.sub(r"(\\end\{\w+\*?\})$", lambda m: tag + m[1], tex)
            return [Markdown(" ".join(tex.split("\n")) if self.quoted else tex)]
        if r"\\" in tex and not tex.startswith(r"\begin{"):
            tex = rf"\begin{{split}}{tex}\end{{split}}"  # as the site does
        if self.quoted:
            tex = re.sub(r"(?<!\\)%.*", "", tex)  # a comment would swallow what now follows on its line
            return [Markdown("$$ " + " ".join(f"{tex}{tag}".split()) + " $$")]
        return [Markdown(f"$$\n{tex}{tag}\n$$")]

    def block_block_quote(self, node: nodes.Element) -> list[Piece]:
        self.quoted += 1
        pieces = self.blocks(node.children)
        self.quoted -= 1
        return self._quote(pieces)

    def _quote(self, pieces: list[Piece]) -> list[Piece]:
        if has_code(pieces):  # a code cell cannot stand in a quotation
            return pieces
        return [Markdown(indent(text_of(pieces), "> ", "> "))]

    def block_attribution(self, node: nodes.Element) -> list[Piece]:
        return [Markdown(f"— {self.inlines(node).strip()}")]

    def block_bullet_list(self, node: nodes.Element) -> list[Piece]:
        return self._list(node, lambda index: "- ")

    def block_enumerated_list(self, node: nodes.Element) -> list[Piece]:
        start = node.get("start", 1)
        return self._list(node, lambda index: f"{start + index}. ")

    def _list(self, node: nodes.Element, marker: Callable[[int], str]) -> list[Piece]:
        items = [self.blocks(item.children) for item in node.children]
        if any(has_code(item) for item in items):
            return [piece for item in items for piece in item]
        texts = [indent(text_of(item), marker(i), " " * len(marker(i))) for i, item in enumerate(items)]
        return [Markdown(("\n\n" if any("\n" in text for text in texts) else "\n").join(texts))]

    def block_definition_list(self, node: nodes.Element) -> list[Piece]:
        pieces: list[Piece] = []
        for item in node.children:
            terms = [self.inlines(child).strip() for child in item.children if isinstance(child, nodes.term)]
            body = [child for child in item.children if isinstance(child, nodes.definition)]
            pieces.append(Markdown("**" + ", ".join(terms) + "**"))
            pieces += self._quote(self.blocks(child for definition in body for child in definition.children))
        return pieces

    def block_glossary(self, node: nodes.Element) -> list[Piece]:
        return self.blocks(node.children)

    def block_field_list(self, node: nodes.Element) -> list[Piece]:
        if isinstance(node.parent, nodes.document):  # the page's front matter
            return []
        fields = [(self.inlines(name), text_of(self.blocks(body.children))) for name, body in node.children]
        return [Markdown("\n".join(indent(f"**{name}**: {body}", "- ", "  ") for name, body in fields))]

    def block_line_block(self, node: nodes.Element) -> list[Piece]:
        return [Markdown("  \n".join(self.inlines(line) for line in node.findall(nodes.line)))]

    def block_footnote(self, node: nodes.Element) -> list[Piece]:
        label = node.children[0].astext()
        self.footnotes.append(f"<sup>{label}</sup> {text_of(self.blocks(node.children[1:]))}")
        return []

    def block_raw(self, node: nodes.Element) -> list[Piece]:
        # Widgets of the site are empty elements that a script fills: without text, nothing is lost.
        if "html" in node.get("format", "").split() and RAW_TEXT.sub("", node.astext()).strip():
            self.unknown(node)
        return []

    def block_table(self, node: nodes.Element) -> list[Piece]:
        self.quoted += 1
        rows = [
            ([self._table_cell(entry) for entry in row.children], row.parent.tagname == "thead", row)
            for row in node.findall(nodes.row)
        ]
        title = next((self.inlines(child) for child in node.children if isinstance(child, nodes.title)), "")
        self.quoted -= 1
        if not rows:
            return []
        if not rows[0][1]:
            rows.insert(0, ([""] * len(rows[0][0]), True, rows[0][2]))
        lines = ["| " + " | ".join(cells) + " |" for cells, _, _ in rows]
        sides = {"text-left": ":---", "text-right": "---:", "text-center": ":---:"}
        classes = [entry["classes"] for entry in rows[0][2].children]
        rule = [next((sides[name] for name in names if name in sides), "---") for names in classes]
        lines.insert(1, "| " + " | ".join(rule) + " |")
        label = self.label("table", node)
        caption = [Markdown(f"*{label}.* {title}" if label else f"*{title}*")] if title else []
        return [*caption, Markdown("\n".join(lines))]

    def _table_cell(self, entry: nodes.Element) -> str:
        text = text_of(self.blocks(entry.children)).replace("\n\n", "<br>").replace("\n", " ")
        # In a formula a bar has names; elsewhere it is escaped, or it would end the cell.
        parts = re.split(r"(\${1,2}[^$]+\${1,2})", text)
        for i, part in enumerate(parts):
            if part.startswith("$"):
                parts[i] = part.replace(r"\|", r"\Vert ").replace("|", r"\vert ")
            else:
                parts[i] = re.sub(r"(?<!\\)\|", r"\\|", part)
        return "".join(parts)

    def block_figure(self, node: nodes.Element) -> list[Piece]:
        captions = [child for child in node.children if isinstance(child, nodes.caption)]
        pieces = self.blocks(child for child in node.children if not isinstance(child, nodes.caption))
        return [*pieces, *self._captions(node, captions)]

    def _captions(self, figure: nodes.Element, captions: Iterable[nodes.Element]) -> list[Piece]:
        label = self.label("figure", figure)
        prefix = f"*{label}.* " if label else ""
        return [Markdown(prefix + self.inlines(caption).strip()) for caption in captions]

    # -- boxes

    def block_Admonition(self, node: nodes.Element) -> list[Piece]:
        """Every box: a quotation with a bold title, or a fold where the site has a drop-down."""
        titles = [child for child in node.children if isinstance(child, nodes.title)]
        known = str(admonitionlabels.get(node.tagname, node.tagname.title()))
        title = self.inlines(titles[0]).strip() if titles else known
        folded = "dropdown" in node["classes"] or "toggle" in node["classes"]
        self.quoted += not folded
        pieces = self.blocks(child for child in node.children if child not in titles)
        self.quoted -= not folded
        if folded and not has_code(pieces):
            return [Markdown(details(title, text_of(pieces)))]
        return self._quote([Markdown(f"**{title}**"), *pieces])

    def block_exercise_node(self, node: nodes.Element) -> list[Piece]:
        label = self.label("exercise", node)
        # Its title holds what follows “Exercise 2.1”, such as “ (A title)”.
        title = f"**{label}{self.inlines(node.children[0]).rstrip()}**"
        level = f" · *{node['level']}*" if node.get("level") else ""
        return [Markdown(title + level, opens=True), *self.blocks(node.children[1:])]

    block_exercise_enumerable_node = block_exercise_node

    def block_deeper(self, node: nodes.Element) -> list[Piece]:
        """A heading of its own, and a line where the main line goes on; a fold could not hold the code."""
        self.level += 1
        heading = Markdown("#" * min(self.level, 6) + f" {self.inlines(node[0]).strip()}", opens=True)
        pieces = [heading, *self.blocks(node.children[1:])]
        self.level -= 1
        after = node.next_node(descend=False, siblings=True)
        if after is not None and not isinstance(after, nodes.section):
            pieces.append(Markdown("***\n\n*The main line goes on here.*"))
        return pieces

    def block_solution_node(self, node: nodes.Element) -> list[Piece]:
        """Fold the text and the code; a plain notebook has no fold that holds both."""
        # A link within a fold's summary would fight with opening it: keep its text.
        parts = [self.inlines(c) if isinstance(c, nodes.reference) else self.inline(c) for c in node.children[0]]
        title = "".join(parts).strip()
        pieces = self.blocks(node.children[1:])
        folded: list[Piece] = []
        text: list[Piece] = []
        for piece in [*pieces, None]:
            if isinstance(piece, Markdown):
                text.append(piece)
                continue
            if text:
                again = ", continued" if folded else ""
                folded.append(Markdown(details(title + again, text_of(text)), opens=not folded))
                text = []
            if isinstance(piece, Code):
                if not folded:
                    folded.append(Markdown(f"**{title}** is in the folded cell below.", opens=True))
                folded.append(Code(piece.source, piece.tags, hidden=True))
        return folded

    def block_container(self, node: nodes.Element) -> list[Piece]:
        if node.get("nb_element") == "cell_code":
            return self._code_cell(node)
        if node.get("design_component") == "dropdown":
            titles = [child for child in node.children if isinstance(child, nodes.rubric)]
            title = self.inlines(titles[0]) if titles else "Details"
            pieces = self.blocks(child for child in node.children if child not in titles)
            return pieces if has_code(pieces) else [Markdown(details(title, text_of(pieces)))]
        if "toctree-wrapper" in node["classes"]:
            return []
        return self.blocks(node.children)

    def _code_cell(self, node: nodes.Element) -> list[Piece]:
        """The cell without its outputs, then the captions of the figures that it draws."""
        pieces: list[Piece] = []
        metadata = node.get("cell_metadata", {})
        tags = tuple(metadata.get("tags", ()))
        for part in node.children:
            if part.get("nb_element") == "cell_code_source":
                hidden = bool({"hide-input", "hide-cell"} & set(tags))
                pieces += [Code(block.astext(), tags, hidden) for block in part.findall(nodes.literal_block)]
            for figure in part.findall(nodes.figure):
                pieces += self._captions(figure, figure.findall(nodes.caption))
        return pieces

    # -- inlines

    def inline_Text(self, node: nodes.Text) -> str:
        return escape(node.astext())

    def _wrap(self, mark: str, node: nodes.Element) -> str:
        text = self.inlines(node)
        inner = text.strip()
        return text.replace(inner, f"{mark}{inner}{mark}", 1) if inner else text

    def inline_emphasis(self, node: nodes.Element) -> str:
        return self._wrap("*", node)

    inline_title_reference = inline_emphasis

    def inline_strong(self, node: nodes.Element) -> str:
        return self._wrap("**", node)

    def inline_subscript(self, node: nodes.Element) -> str:
        return f"<sub>{self.inlines(node)}</sub>"

    def inline_superscript(self, node: nodes.Element) -> str:
        return f"<sup>{self.inlines(node)}</sup>"

    def inline_literal(self, node: nodes.Element) -> str:
        # Sphinx dresses the text of some links (“Exercise 2.1”) as code; those are prose.
        if {"std-ref", "std-numref", "xref"} & set(node["classes"]) and "code" not in node["classes"]:
            return escape(node.astext())
        text = node.astext().replace("\n", " ")
        fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
        pad = " " if text.startswith("`") or text.endswith("`") else ""
        return f"{fence}{pad}{text}{pad}{fence}"

    def inline_math(self, node: nodes.Element) -> str:
        return f"${' '.join(self.tex(node.astext()).split())}$"

    def inline_math_block(self, node: nodes.Element) -> str:
        self.quoted += 1
        text = text_of(self.block_math_block(node))
        self.quoted -= 1
        return text

    def inline_reference(self, node: nodes.Element) -> str:
        text, url = self.inlines(node), self.url(node)
        if node.astext() == url:
            return f"<{url}>"
        return self.link(text, url) if text.strip() else ""

    inline_download_reference = inline_reference

    def inline_footnote_reference(self, node: nodes.Element) -> str:
        return f"<sup>{node.astext()}</sup>"

    def inline_image(self, node: nodes.Element) -> str:
        return f"![{escape(node.get('alt', ''))}]({self.builder.image_url(node['uri'])})"

    def inline_raw(self, node: nodes.Element) -> str:
        self.block_raw(node)
        return ""

    def inline_problematic(self, node: nodes.Element) -> str:
        self.unknown(node)
        return escape(node.astext())
