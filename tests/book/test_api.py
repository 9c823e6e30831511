"""The reference of the library is complete, reads as its docstrings do, and finds the chapters and is found."""

import ast
import importlib
import inspect
import re
from textwrap import dedent

import api
import pytest
from bs4 import BeautifulSoup
from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import roles

from _support import rules

CITED = ["schedules", "process", "predictions", "losses", "samplers", "guidance", "denoise", "editing"]
DERIVED = [*CITED, "nn", "evaluation"]


def public(room: str) -> set[str]:
    """What importing a room gives: `__all__`, or what the module itself defines. (Not read from the source.)"""
    module = importlib.import_module(f"diffusion_book.{room}")
    if hasattr(module, "__all__"):
        return set(module.__all__)
    defined = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and inspect.getmodule(value) is module
        and (inspect.isroutine(value) or inspect.isclass(value))
    }
    # Constants and aliases do not know where they are from: those whose name the source binds at its left edge.
    bound = re.findall(r"^([A-Za-z]\w*)(?:: [^=\n]+)? = (?!TypeVar)", inspect.getsource(module), flags=re.MULTILINE)
    return defined | set(bound)


# What there is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", api.rooms())
def test_every_public_name_is_an_entry(room):
    assert {entry.name for entry in api.entries(room)} == public(room)


@pytest.mark.parametrize("room", api.rooms())
def test_every_room_has_its_page(room, root):
    page = root / "book" / "api" / f"{room}.md"
    assert page.is_file(), f"{room} is public: write book/api/{room}.md, as its neighbours are"
    assert f"```{{room}} {room}\n```" in page.read_text("utf8")
    assert f"api/{room}" in rules.toc_pages(root), f"add api/{room} to _toc.yml"
    text = api.expand(page.read_text("utf8"))
    for name in public(room):
        assert re.search(rf":: (diffusion_book\.{room}\.)?{name}$", text, re.MULTILINE), name


@pytest.mark.parametrize("room", api.rooms())
def test_every_name_stands_on_the_built_page(room, site):
    page = BeautifulSoup((site / "api" / f"{room}.html").read_text("utf8"), "html.parser")
    ids = {str(element["id"]) for element in page.select("dt.sig[id]")}
    missing = sorted(name for name in public(room) if f"diffusion_book.{room}.{name}" not in ids)
    assert not missing, missing


DERIVATIONS = [
    entry for room in DERIVED for entry in api.entries(room) if isinstance(entry.node, ast.FunctionDef | ast.ClassDef)
]


@pytest.mark.parametrize("entry", DERIVATIONS, ids=lambda entry: f"{entry.room}.{entry.name}")
def test_what_the_book_derives_names_its_chapter(entry, root):
    """In its own docstring, or in that of its file; and it is a chapter of the syllabus."""
    assert entry.chapters, f"{entry.full}: say in the docstring which chapter derives it"
    assert set(entry.chapters) <= {int(page[:2]) for page in rules.syllabus(root)}


OF_NO_PAPER = {
    "schedules.as_tensor": "makes a tensor of numbers",
    "schedules.expand": "gives numbers the dimensions of a batch",
    "schedules.scaled_linear": "the authors' configuration has it, and no equation of the paper",
    "schedules.by_name": "looks up those that name theirs",
    "process.Gaussian": "a record of two tensors; what it samples by is cited in `sample`",
    "process.check_discrete": "a check",
    "predictions.check_prediction": "a check",
    "predictions.weigh": "the arithmetic of `to_x0`, to whose sources it points",
    "predictions.x0_weights": "the numbers of `to_x0`, to which it points",
    "samplers.randn_like": "draws from torch",
    "samplers.seeded": "makes torch's generators",
    "losses.by_time": "means of what was logged",
    "samplers.Step": "what a callback is told",
    "samplers.Sampler": "a row of the table",
    "samplers.by_name": "looks up those that name theirs",
    "denoise.ExactPosteriorMean": "an interface",
    "denoise.exact": "asks the distribution, which knows the closed form",
    "denoise.x0_of": "takes a part of a record",
    "denoise.v_of": "takes a part of a record",
    "denoise.on_x0": "applies a rule to parts of records",
}
YEAR = re.compile(r"\b(19|20)\d\d[a-z]?\b")
LOCUS = re.compile(r"\b(equations?|sections?|algorithms?|theorem|table|appendix|figure)\s+([A-Z]\b|[A-Z]?\d)")
OF_A_PAPER = [entry for entry in DERIVATIONS if entry.room in CITED]


@pytest.mark.parametrize("entry", OF_A_PAPER, ids=lambda entry: f"{entry.room}.{entry.name}")
def test_what_comes_from_a_paper_names_it_and_the_place(entry):
    """A year and an equation, section or the like in its own docstring; or it is on the list, and needs to be."""
    cited = bool(YEAR.search(entry.doc) and LOCUS.search(entry.doc))
    listed = f"{entry.room}.{entry.name}" in OF_NO_PAPER
    assert cited or listed, f"{entry.full}: say which paper it is from, and where in it"
    assert not (cited and listed), f"{entry.full} names a source: take it off OF_NO_PAPER"


def test_the_list_of_what_needs_no_paper_names_what_there_is():
    assert set(OF_NO_PAPER) <= {f"{entry.room}.{entry.name}" for entry in OF_A_PAPER}


def test_the_order_of_the_reference_is_that_of_imports(root):
    """A room on the list uses only rooms above it, as the page of the library says."""
    names = [name.removeprefix("api/") for name in rules.toc_pages(root) if name.startswith("api/")][1:]
    for position, room in enumerate(names):
        folder = api.PACKAGE / room
        files = folder.glob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]
        public = r"from diffusion_book\.([a-z]\w*)"
        used = {found for file in files for found in re.findall(public, file.read_text("utf8"))}
        assert used <= {*names[: position + 1]}, f"{room} uses {used - set(names[: position + 1])}"


def test_a_source_is_read_as_it_is(tmp_path):
    path = tmp_path / "sample.py"
    path.write_text(
        '"""Half a room: the rest is elsewhere. Chapter 3."""\n\nA: int = 1\n"""One."""\n_b = 2\n\ndef f(): ...\n'
    )
    file = api.read(path)
    assert {name: doc for name, (_, doc) in file.definitions.items()} == {"A": "One.", "_b": "", "f": ""}
    assert file.title == "Half a room"


# Chapters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Chapter 2.", [2]),
        ("(chapter 15)", [15]),
        ("Chapters 2 and 3 derive it; see chapter 6", [2, 3, 6]),
        ("chapters 3, 4, 15", [3, 4, 15]),
        ("chapters 3, 4, and 15", [3, 4, 15]),
        ("chapters\n2 to 4", [2, 3, 4]),
        ("a chapter, and 3 more; section 4", []),
    ],
)
def test_chapters_are_found(text, expected):
    assert api.chapters_in(text) == expected


def test_a_chapter_lists_what_names_it():
    names = {f"{entry.room}.{entry.name}" for entry in api.entries_of_chapter(8)}
    assert names >= {"guidance.classifier_free", "guidance.interval"}
    assert "samplers.ddim" not in names
    assert "samplers.ddim" in {f"{entry.room}.{entry.name}" for entry in api.entries_of_chapter(7)}


def test_the_end_of_a_chapter_leads_to_the_library(chapter, site):
    """The links that the extension made, and not a word of it in the source."""
    assert "In the library" not in chapter.read_text("utf8")
    page = BeautifulSoup((site / f"{chapter.stem}.html").read_text("utf8"), "html.parser")
    links = {str(link["href"]).partition("#")[2] for link in page.select(".in-the-library a")}
    assert links == {entry.full for entry in api.entries_of_chapter(int(chapter.stem[:2]))}


def test_a_notebook_has_the_same_links(chapter, notebooks):
    text = (notebooks / f"{chapter.stem}.ipynb").read_text("utf8")
    for entry in api.entries_of_chapter(int(chapter.stem[:2])):
        assert f"api/{entry.room}.html#{entry.full})" in text


def test_an_entry_leads_to_its_chapters(chapter, site):
    number = int(chapter.stem[:2])
    for entry in api.entries_of_chapter(number):
        page = BeautifulSoup((site / "api" / f"{entry.room}.html").read_text("utf8"), "html.parser")
        box = page.find(id=entry.full).find_parent("dl")
        links = {str(link["href"]) for link in box.select("a.reference")}
        assert f"../{chapter.stem}.html" in links, entry.full


# Docstrings ------------------------------------------------------------------------------------------------------


@pytest.fixture
def parsed():
    """Parse reStructuredText, where a reference and a chapter come out as ⟦target⟧."""

    def role(name, rawtext, text, lineno, inliner, options=None, content=None):
        return [nodes.inline(text=f"⟦{text}⟧")], []

    def parse(doc: str, room: str = "samplers", own: str = "") -> nodes.document:
        for name in ("py:obj", "chapter"):
            roles.register_local_role(name, role)
        text = "\n".join(api.to_rst(dedent(doc).strip("\n"), room, own))
        tree = publish_doctree(text, settings_overrides={"report_level": 1, "halt_level": 1, "smart_quotes": False})
        assert not list(tree.findall(nodes.system_message))
        return tree

    return parse


@pytest.mark.parametrize(
    "text",
    [
        "[B, …] of one shape; [1]_ and x_ and _y_ and a_{t|s} b_t² |u| stay",
        "2 * 3 ** 4 and *args, **kwargs; p(x|c)^w",
        "a \\ backslash, a:colon::, :field: and http://x",
        "q(x_t | x_0) = N(a_t x0, b_t²)",
        '‖x‖ ≤ 1 − ρ², “quoted” and "quoted", it\'s',
    ],
)
def test_what_is_no_markup_stays_as_it_is(text, parsed):
    assert parsed(text).astext() == text


@pytest.mark.parametrize(
    "text", ["- 3 is no list", "1. is none either", "# nor a heading", "+ x", "... and so on", ">>> x"]
)
def test_a_paragraph_is_never_a_list(text, parsed):
    (paragraph,) = parsed(text).children
    assert isinstance(paragraph, nodes.paragraph)
    assert paragraph.astext() == text


def test_code_and_names(parsed):
    tree = parsed("`x[0]` by `ddim`, by `denoise.exact`; `unknown`s, a(`ddpm`)b and `heun`", own="heun")
    assert [node.astext() for node in tree.findall(nodes.literal)] == ["x[0]", "unknown", "heun"]
    assert [node.astext() for node in tree.findall(nodes.inline)] == [
        "⟦ddim <diffusion_book.samplers.ddim>⟧",
        "⟦denoise.exact <diffusion_book.denoise.exact>⟧",
        "⟦ddpm <diffusion_book.samplers.ddpm>⟧",
    ]
    assert "unknowns, a(⟦" in tree.astext()


def test_a_name_is_looked_for_near_first():
    assert api.look_up("by_name", "schedules").full == "diffusion_book.schedules.by_name"
    assert api.look_up("by_name", "samplers").full == "diffusion_book.samplers.by_name"
    assert api.look_up("by_name", "losses") is None  # two of them, neither near
    assert api.look_up("Denoiser", "samplers").full == "diffusion_book.denoise.Denoiser"


def test_chapters_become_links(parsed):
    text = parsed("It is (chapter 6). Chapters 2 and 3 derive it.").astext()
    assert text == "It is (⟦chapter 6 <6>⟧). Chapters ⟦2 <2>⟧ and ⟦3 <3>⟧ derive it."


def test_sections_tables_and_code(parsed):
    tree = parsed(
        """
        What it does.

            x = ddim(denoiser)

            y = x

        | a | b |
        |---|---|
        | 1 | `two` |

        Args:
            first, second: [B, …] both
                of one shape: equal.
            third: 1 or 2.

        Returns:
            x_0 [B, …]: data.

        Raises:
            ValueError: a bad one.

        Source: Ho et al. 2020.
        """
    )
    assert tree.next_node(nodes.literal_block).astext() == "x = ddim(denoiser)\n\ny = x"
    assert [entry.astext() for entry in tree.findall(nodes.entry)] == ["a", "b", "1", "two"]
    fields = {field[0].astext(): field[1] for field in tree.findall(nodes.field)}
    assert list(fields) == ["Arguments", "Returns", "Raises", "Source"]
    assert [item.astext() for item in fields["Arguments"].findall(nodes.list_item)] == [
        "first, second – [B, …] both of one shape: equal.",
        "third – 1 or 2.",
    ]
    assert fields["Returns"].astext() == "x_0 [B, …]: data."
    assert fields["Raises"].astext() == "ValueError – a bad one."


@pytest.mark.parametrize("room", api.rooms())
def test_every_docstring_is_understood(room, parsed):
    """All of them, parsed with nothing to complain about, and with no word lost."""
    for entry in api.entries(room):
        for doc in (entry.doc, entry.file.doc):
            found = parsed(doc, room).astext()
            words = [
                word for word in re.findall(r"[^\W_]+", re.sub(r"^ *Args:|^ *\|[-| ]+\|$", "", doc, flags=re.MULTILINE))
            ]
            left = [word for word in words if word not in found]
            assert not left, f"{entry.full}: {left}"


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        ("β rises from β_1 (Ho et al. 2020, section 4). Chapter 2.", "β rises from β_1."),
        ("log p(x) in nats, [N] for x [N, D].", "log p(x) in nats, [N] for x [N, D]."),
        ("One step (chapter 2). Two.\n\nThree.", "One step."),
        ("A (small) thing\nof two lines. More.", "A (small) thing of two lines."),
    ],
)
def test_the_first_sentence(doc, expected):
    assert api.first_sentence(doc) == expected


# Signatures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "samplers.unipc",
            "(denoiser: Denoiser, schedule: Schedule, xt: Tensor, times: Times, *, order: int=2, "
            "callback: Callback | None=None)",
        ),
        ("process.Gaussian", "(mean: Tensor, std: Tensor)"),
        ("schedules.Discrete", "(beta: Tensor)"),
        ("schedules.Flow", ""),
        ("schedules.Schedule.clock", "(t: Tensor)"),
    ],
)
def test_signatures_are_those_of_the_source(name, expected):
    for _ in range(2):  # asking changes nothing
        found = api.signature(None, "", f"diffusion_book.{name}", None, None, None, None)
        assert found[0] == expected
