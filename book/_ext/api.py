"""The reference of the library, made from its docstrings: `{room} NAME` on a page of book/api/ is one of its rooms.

Docstrings are plain text: `name` in backticks, "chapter 6", `Args:`, `Returns:`, `Raises:`, a table in Markdown.
`to_rst` turns them into what Sphinx's autodoc reads, with a link wherever a name is of the library and a chapter
is written; nothing else in them is markup, so shapes like [B, …] and symbols like x_t stay as they are. Signatures
are those of the source. Each chapter ends with the entries whose docstrings name it.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from numbering import chapter_number
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxRole
from sphinx.util.nodes import make_refnode
from syllabus import parts

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "diffusion_book"
FOLDER = "api"  # of book/
DIRECTIVE = re.compile(r"^```\{room\}[ \t]+(\w+)[ \t]*\n```[ \t]*$", re.MULTILINE)
SECTION = re.compile(r"(Args|Returns|Raises|Attributes|Yields):$")
TITLES = {"Args": "Arguments"}
CHAPTERS = re.compile(r"\b[Cc]hapters?\s+\d+(?:(?:,\s+and|,|\s+and|\s+to)\s+\d+)*")
Definition = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign


# What there is -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """Something public: a function, a class, or a name for a value or a type."""

    room: str
    name: str
    node: Definition = field(repr=False)
    doc: str
    file: "File" = field(repr=False)

    @property
    def full(self) -> str:
        return f"{PACKAGE.name}.{self.room}.{self.name}"

    @property
    def chapters(self) -> list[int]:
        """Those that its docstring names; where a function's or a class's names none, those of its file's."""
        inherits = isinstance(self.node, ast.FunctionDef | ast.ClassDef)
        return chapters_in(self.doc) or (chapters_in(self.file.doc) if inherits else [])


@dataclass(frozen=True)
class File:
    path: Path
    doc: str
    definitions: dict[str, tuple[Definition, str]]  # in the order of the source, each with its docstring

    @property
    def module(self) -> str:
        parts = [PACKAGE.name, *self.path.relative_to(PACKAGE).with_suffix("").parts]
        return ".".join(parts).removesuffix(".__init__")

    @property
    def title(self) -> str:
        """What its docstring begins with, up to a colon or a source: “DDIM”."""
        return re.split(r"[:.] | \(|\.?\n|\.$", self.doc, maxsplit=1)[0]


@cache
def read(path: Path) -> File:
    tree = ast.parse(path.read_text("utf8"))
    definitions: dict[str, tuple[Definition, str]] = {}
    for node, after in zip(tree.body, [*tree.body[1:], None]):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                definitions[name] = (node, ast.get_docstring(node) or "")
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                if "TypeVar(" not in ast.unparse(node):
                    definitions[name] = (node, _string(after))
    return File(path, ast.get_docstring(tree) or "", definitions)


def _string(node: ast.stmt | None) -> str:
    """The docstring of a constant: a string that stands below it."""
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return inspect.cleandoc(text)
    return ""


def rooms() -> list[str]:
    found = [path.stem for path in PACKAGE.glob("*.py")] + [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    return sorted(name for name in found if not name.startswith("_"))


@cache
def room_file(room: str) -> File:
    path = PACKAGE / room / "__init__.py"
    return read(path if path.is_file() else PACKAGE / f"{room}.py")


@cache
def entries(room: str) -> list[Entry]:
    """What a room offers: a module's own public names, or what a package gathers in `__all__`; file by file."""
    front = room_file(room)
    if front.path.name != "__init__.py":
        public = [name for name in front.definitions if not name.startswith("_")]
        return [Entry(room, name, *front.definitions[name], front) for name in public]
    sources = dict.fromkeys(front.definitions, front)
    for node in ast.parse(front.path.read_text("utf8")).body:
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(PACKAGE.name):
            path = PACKAGE.parent.joinpath(*str(node.module).split("."))
            file = read(path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))
            sources |= {name.name: file for name in node.names if name.name in file.definitions}
    exported = ast.literal_eval(next(n.value for n in _assigned(front, "__all__")))
    files = {sources[name].path: sources[name] for name in sources if name in exported}
    return [
        Entry(room, name, *file.definitions[name], file)
        for file in files.values()
        for name in file.definitions
        if name in exported and sources.get(name) is file
    ]


def _assigned(file: File, name: str) -> Iterator[ast.Assign]:
    for node in ast.parse(file.path.read_text("utf8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            yield node


def source_pages() -> list[str]:
    """The pages that show the source of a file, made by Sphinx's viewcode, to which the entries lead."""
    files = {
        entry.file.module
        for room in rooms()
        for entry in entries(room)
        if isinstance(entry.node, ast.FunctionDef | ast.ClassDef)
    }
    return sorted(f"_modules/{module.replace('.', '/')}" for module in files)


@cache
def index() -> dict[str, Entry]:
    """Every entry by the names that a docstring may call it: `linear`, where that is clear, and `schedules.linear`."""
    found: dict[str, list[Entry]] = {}
    for room in rooms():
        for entry in entries(room):
            for name in (entry.name, f"{room}.{entry.name}", entry.full):
                found.setdefault(name, []).append(entry)
    return {name: same[0] for name, same in found.items() if len(same) == 1}


def look_up(name: str, room: str) -> Entry | None:
    near = [entry for entry in entries(room) if entry.name == name] if room in rooms() else []
    return near[0] if near else index().get(name)


def chapters_in(text: str) -> list[int]:
    found: list[int] = []
    for mention in CHAPTERS.findall(text):
        numbers = [int(number) for number in re.findall(r"\d+", mention)]
        if re.search(r"\d\s+to\s+\d", mention):
            numbers = list(range(numbers[0], numbers[-1] + 1))
        found += numbers
    return sorted(set(found))


# From a docstring to reStructuredText ----------------------------------------------------------------------------


def inline(text: str, room: str = "", own: str = "") -> str:
    """One paragraph: code and names of the library, links to chapters, and all else as it is.

    Args:
        room: where names are looked for first.
        own: the name of the entry itself, which does not link to itself.
    """
    pieces = []
    for piece in re.split(r"(`[^`]+`|[Cc]hapters?\s+\d+(?:(?:,\s+and|,|\s+and|\s+to)\s+\d+)*)", " ".join(text.split())):
        if piece.startswith("`"):
            name = piece.strip("`")
            entry = look_up(name, room)
            linked = entry is not None and name not in (own, "")
            pieces.append(f":py:obj:`{name} <{entry.full}>`" if linked and entry else f"``{name}``")
        elif CHAPTERS.fullmatch(piece):
            one = len(re.findall(r"\d+", piece)) == 1
            pattern = r".*?(\d+)" if one else r"(\d+)"  # the word is part of the link where there is one number
            pieces.append(re.sub(pattern, lambda match: f":chapter:`{match[0]} <{match[1]}>`", piece))
        else:
            pieces.append(re.sub(r"([\\*`|_:])", r"\\\1", piece))
    result = pieces[0]
    for piece in pieces[1:]:  # markup begins and ends at the edge of a word; an escaped space makes one
        touching = bool(result and piece and not result[-1].isspace() and not piece[0].isspace())
        result += ("\\ " if touching else "") + piece
    return result


def to_rst(doc: str, room: str = "", own: str = "") -> list[str]:
    """A docstring as lines of reStructuredText."""
    lines: list[str] = []
    for block in blocks(doc):
        first = block[0]
        if found := SECTION.fullmatch(first):
            name, body = found[1], textwrap.dedent("\n".join(block[1:])).split("\n")
            lines.append(f":{TITLES.get(name, name)}:")
            lines += textwrap.indent("\n".join(_items(body, name, room, own)), "    ").split("\n")
        elif first.startswith("|"):
            lines += _table(block, room, own)
        elif first.startswith("    "):
            lines += [".. code-block:: python", "", *block]
        elif first.startswith("Source: "):
            lines += [":Source:", "    " + inline(" ".join(block).removeprefix("Source: "), room, own)]
        else:
            text = inline(" ".join(block), room, own)
            lines.append(text if text[0] in ":`\\" else "\\" + text)  # no list or heading by chance
        lines.append("")
    return lines


def blocks(doc: str) -> Iterator[list[str]]:
    """Paragraphs, tables and code as they are separated by blank lines; a section with all that is indented below."""
    block: list[str] = []
    for line in [*doc.split("\n"), ""]:
        in_section = bool(block and SECTION.fullmatch(block[0]))
        code = bool(block and block[0].startswith("    "))
        if line.strip() and not (block and ((in_section or code) and not line.startswith("    "))):
            block.append(line)
        elif line.strip():
            yield _trim(block)
            block = [line]
        elif in_section or code:
            block.append(line)
        elif block:
            yield block
            block = []
    if _trim(block):
        yield _trim(block)


def _trim(block: list[str]) -> list[str]:
    while block and not block[-1].strip():
        block = block[:-1]
    return block


def _items(body: list[str], section: str, room: str, own: str) -> list[str]:
    """`names: what they are` as a list; what is not of that form, as `Returns` rarely is, as paragraphs."""
    items: list[tuple[str, list[str]]] = []
    for line in body:
        found = re.match(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*)", line) if section != "Returns" else None
        if found:
            items.append((found[1], [found[2]]))
        elif items:
            items[-1][1].append(line)
        else:
            return [line for block in blocks("\n".join(body)) for line in (inline(" ".join(block), room, own), "")]
    lines = []
    for names, text in items:
        bold = ", ".join(f"``{name}``" for name in names.split(", "))
        lines.append(f"* {bold} – {inline(' '.join(text), room, own)}")
    return lines


def _table(block: list[str], room: str, own: str) -> list[str]:
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))] for line in block]
    rows = [row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        cells = [inline(cell, room, own) for cell in row]
        lines += [f"   {'*' if i == 0 else ' '} - {cell}" for i, cell in enumerate(cells)]
    return lines


# A page ---------------------------------------------------------------------------------------------------------


def expand(text: str) -> str:
    """The source of a page with each `{room}` replaced by the room's entries, and `{rooms}` by a list of all."""
    text = re.sub(r"^```\{rooms\}[ \t]*\n```[ \t]*$", lambda match: list_of_rooms(), text, flags=re.MULTILINE)
    return DIRECTIVE.sub(lambda match: room_page(match[1]), text)


def list_of_rooms() -> str:
    """In the order of the table of contents, which is that of what may import what."""
    pages = re.findall(rf"file: {FOLDER}/(\w+)", (ROOT / "_toc.yml").read_text("utf8"))
    lines = [
        f"* :doc:`{room} </{FOLDER}/{room}>` – {inline(room_file(room).doc.split(chr(10) * 2)[0], room)}"
        for room in pages
        if room in rooms()
    ]
    return _rst(lines)


def room_page(room: str) -> str:
    if room not in rooms():
        raise ValueError(f"there is no room {room!r} in {PACKAGE.name}; there are {', '.join(rooms())}")
    every = entries(room)
    files = list({entry.file.path: entry.file for entry in every}.values())
    pieces = [_rst(to_rst(room_file(room).doc, room)), _rst(_summary(every))]
    for file in files:
        if len(files) > 1:
            pieces += [f"## {file.title}", _rst(to_rst(file.doc, room))]
        pieces.append(_rst([line for entry in every if entry.file is file for line in directive(entry)]))
    return "\n\n".join(pieces)


def _rst(lines: list[str]) -> str:
    return "\n".join(["````{eval-rst}", *lines, "````"])


def _summary(every: list[Entry]) -> list[str]:
    """A list of all entries with the first sentence of each."""
    lines = [".. list-table::", "   :class: api-summary", "   :widths: auto", ""]
    for entry in every:
        said = inline(first_sentence(entry.doc), entry.room, entry.name) or f"``{value(entry, 60)}``"
        lines += [f"   * - :py:obj:`{entry.name} <{entry.full}>`", f"     - {said}"]
    return lines


def first_sentence(doc: str) -> str:
    """Without the sources and chapters in its brackets, whose “et al.” is no end of a sentence."""
    aside = r"\s\([^()]*(?:\b(?:19|20)\d\d|\b[Cc]hapters? \d)[^()]*\)"
    text = re.sub(aside, "", " ".join(doc.split("\n\n")[0].split()))
    return re.split(r"(?<=[.])\s", text, maxsplit=1)[0]


def directive(entry: Entry) -> list[str]:
    module, name = entry.full.rsplit(".", 1)
    if isinstance(entry.node, ast.FunctionDef):
        return [f".. autofunction:: {entry.full}", ""]
    if isinstance(entry.node, ast.ClassDef):
        return [f".. autoclass:: {entry.full}", "   :members:", ""]
    lines = [f".. py:data:: {name}", f"   :module: {module}"]
    lines.append(f"   :value: {value(entry, 160)}")
    body = to_rst(entry.doc, entry.room, entry.name)
    return [*lines, "", *(f"   {line}".rstrip() for line in body), ""]


def value(entry: Entry, width: int) -> str:
    """What a constant or an alias is, as the source says it, cut to a width."""
    found = getattr(entry.node, "value", None)
    return textwrap.shorten(ast.unparse(found), width, placeholder=" …") if found else ""


def _where(entry: Entry) -> list[str]:
    """The chapter of an entry that leaves it to its file to say."""
    if chapters_in(entry.doc) or not entry.chapters:
        return []
    numbers = [str(number) for number in entry.chapters]
    plural = "s" if len(numbers) > 1 else ""
    said = " and ".join(filter(None, [", ".join(numbers[:-1]), numbers[-1]]))
    return ["", inline(f"Chapter{plural} {said}."), ""]


def expand_page(app: Sphinx, docname: str, source: list[str]) -> None:
    if docname.startswith(f"{FOLDER}/"):
        for room in DIRECTIVE.findall(source[0]):
            for path in {room_file(room).path, *(entry.file.path for entry in entries(room))}:
                app.env.note_dependency(str(path))
        source[0] = expand(source[0])


# What autodoc is told -------------------------------------------------------------------------------------------


def _entry_of(name: str) -> tuple[Entry | None, list[str]]:
    """The entry that a full name begins with, and what follows it: a member of a class."""
    _, room, *rest = name.split(".")
    found = [entry for entry in entries(room) if rest and entry.name == rest[0]] if room in rooms() else []
    return (found[0], rest[1:]) if found else (None, [])


def docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """autodoc's event: the docstring it found becomes what it can read."""
    entry, member = _entry_of(name)
    room = entry.room if entry else ""
    lines[:] = to_rst("\n".join(lines).strip("\n"), room, entry.name if entry else "")
    if entry and not member:
        if isinstance(entry.node, ast.ClassDef):
            bases = [base for base in map(ast.unparse, entry.node.bases) if look_up(base, room)]
            lines += [f":Base: {inline(f'`{base}`', room)}" for base in bases]
        lines += _where(entry)


def signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, given: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """autodoc's event: the signature as it is written, with the library's own names for types."""
    entry, member = _entry_of(name)
    node: ast.AST | None = entry.node if entry else None
    for part in member:
        found = [n for n in getattr(node, "body", []) if isinstance(n, ast.FunctionDef) and n.name == part]
        node = found[0] if found else None
    if isinstance(node, ast.ClassDef) and entry:
        return _class_arguments(node, entry.room), None
    if isinstance(node, ast.FunctionDef):
        static = any(ast.unparse(mark) == "staticmethod" for mark in node.decorator_list)
        result = ast.unparse(node.returns) if node.returns else None
        return _arguments(node.args, bool(member) and not static), result
    return None


def _arguments(arguments: ast.arguments, bound: bool) -> str:
    if bound:
        arguments = ast.arguments(**{**{name: getattr(arguments, name) for name in arguments._fields}})
        arguments.args = arguments.args[1:]
    return f"({ast.unparse(arguments)})"


def _class_arguments(node: ast.ClassDef, room: str) -> str:
    """Those of `__init__`, or the fields of a data class or named tuple, or those of a base of the library's."""
    bases = [ast.unparse(base) for base in node.bases]
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name == "__init__":
            return _arguments(method.args, True)
    if "NamedTuple" in bases or any("dataclass" in ast.unparse(mark) for mark in node.decorator_list):
        fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
        return f"({', '.join(ast.unparse(field) for field in fields)})"
    for base in bases:
        entry = look_up(base, room)
        if entry and isinstance(entry.node, ast.ClassDef):
            return _class_arguments(entry.node, entry.room)
    return ""


def skip(app: Sphinx, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """The fields of a named tuple stand in its signature; Python documents them as “Alias for field number 0”."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def resolve(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, text: nodes.TextElement) -> Any:
    """A short name, as in a signature: `Denoiser` is `diffusion_book.denoise.Denoiser`."""
    if node.get("refdomain") != "py":
        return None
    entry = look_up(node["reftarget"], node["refdoc"].rpartition("/")[2])  # a page is named as its room
    known = env.get_domain("py").data["objects"].get(entry.full) if entry else None
    if not known or not app.builder:
        return None
    return make_refnode(app.builder, node["refdoc"], known.docname, known.node_id, text, node["reftarget"])


# Links between chapters and entries ----------------------------------------------------------------------------


@cache
def chapter_pages() -> dict[int, str]:
    pages = [chapter["page"] for part in parts() for chapter in part["chapters"]]
    return {number: page for page in pages if (number := chapter_number(page)) is not None}


class Chapter(SphinxRole):
    """`:chapter:`chapter 6 <6>``: a link where the chapter is written, else its text."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        found = re.fullmatch(r"(.*?) <(\d+)>", self.text)
        text, number = (found[1], int(found[2])) if found else (self.text, -1)
        page = chapter_pages().get(number)
        if page is None or page not in self.env.found_docs:
            return [nodes.Text(text)], []
        return [_link(self.env, "std", "doc", f"/{page}", nodes.inline(text=text))], []


def _link(env: BuildEnvironment, domain: str, kind: str, target: str, text: nodes.Node) -> addnodes.pending_xref:
    return addnodes.pending_xref(
        "",
        text,
        refdoc=env.docname,
        refdomain=domain,
        reftype=kind,
        reftarget=target,
        refexplicit=True,
        refwarn=False,
    )


def entries_of_chapter(number: int) -> list[Entry]:
    return [entry for room in rooms() for entry in entries(room) if number in entry.chapters]


def in_the_library(app: Sphinx, doctree: nodes.document) -> None:
    """End a chapter with what of the library it derives, as the docstrings say."""
    number = chapter_number(app.env.docname)
    found = entries_of_chapter(number) if number is not None else []
    sections = list(doctree.findall(nodes.section))
    if not found or not sections:
        return
    line = nodes.paragraph("", "", nodes.strong(text="In the library"), nodes.Text(": "), classes=["in-the-library"])
    for i, entry in enumerate(found):
        name = f"{entry.room}.{entry.name}"
        line += [nodes.Text(", ")] if i else []
        line += _link(app.env, "py", "obj", entry.full, nodes.literal(text=name))
    line += nodes.Text(".")
    sections[0] += line


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("chapter", Chapter())
    app.connect("source-read", expand_page)
    app.connect("autodoc-process-docstring", docstring)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skip)
    app.connect("missing-reference", resolve)
    app.connect("doctree-read", in_the_library)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
