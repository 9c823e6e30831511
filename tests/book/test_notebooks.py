"""The exported notebooks: plain Markdown, absolute links, the page's own cells, and they run."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import exercises
import nbformat
import pytest
from docutils import nodes
from IPython.core.inputtransformer2 import TransformerManager
from myst_nb.core.read import read_myst_markdown_notebook
from notebook_writer import Code, Markdown, PageWriter, escape, expand_macros, indent
from notebooks import SETUP, SETUP_TAG, to_cells

from _support import rules

LINK = re.compile(r"\]\(([^)\s]*)\)|<a [^>]*href=\"([^\"]*)\"|<img [^>]*src=\"([^\"]*)\"")


def read(folder: Path, chapter: Path) -> nbformat.NotebookNode:
    path = folder / f"{chapter.stem}.ipynb"
    assert path.is_file(), f"{chapter.name} has no notebook: run `make notebooks`"
    return nbformat.read(path, as_version=4)


def markdown(notebook: nbformat.NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def prose(text: str) -> str:
    """Markdown without its code and its math."""
    text = re.sub(r"^(`{3,})[^\n]*\n.*?^\1\s*$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text)
    return re.sub(r"(?<!\\)(\${1,2}).+?(?<!\\)\1", "", text, flags=re.DOTALL)


@pytest.mark.parametrize(
    "text",
    ["```{note}\nx\n```", ":::{tip}\nx\n:::", "see {ref}`x`", "{eq}`x`", "(sec-x)=\n# X", "+++", ":label: x"],
)
def test_the_rule_against_raw_myst_can_fail(text: str) -> None:
    assert rules.raw_myst(f"Before.\n\n{text}\n\nAfter.")


def test_code_that_shows_myst_is_not_raw_myst() -> None:
    assert not rules.raw_myst("````\n```{note}\nx\n```\n````\n\n```python\nf'{x}`y`'\n```")


def test_chapter_is_a_valid_notebook(chapter: Path, notebooks: Path) -> None:
    notebook = read(notebooks, chapter)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert all(not cell.get("outputs") for cell in notebook.cells), "a clean notebook has no outputs"
    names = [cell.id for cell in notebook.cells]
    assert len(set(names)) == len(names)


def test_nothing_of_myst_is_left(chapter: Path, notebooks: Path) -> None:
    found = rules.raw_myst(markdown(read(notebooks, chapter)))
    assert not found, found


def test_links_are_absolute(chapter: Path, notebooks: Path) -> None:
    text = markdown(read(notebooks, chapter))
    links = [next(filter(None, match), "") for match in LINK.findall(prose(text))]
    assert links
    relative = [link for link in links if not re.match(r"(https?://|mailto:)", link)]
    assert not relative, relative


def test_labelled_equations_are_numbered(chapter: Path, notebooks: Path) -> None:
    text = markdown(read(notebooks, chapter))
    labels = re.findall(r"\$\$[ \t]*\(((?:def|eq)-[\w-]+)\)", chapter.read_text("utf8"))
    assert len(re.findall(r"\\tag\{[\d.]+\}", text)) == len(labels)


def test_code_cells_are_those_of_the_page(chapter: Path, notebooks: Path) -> None:
    """The page is read here as MyST-NB reads it; the notebook was made from what Sphinx made of it."""
    text = exercises.expand(chapter.read_text("utf8"))
    page = read_myst_markdown_notebook(text, code_directive="{code-cell}", raw_directive="{raw-cell}")
    wanted = [cell.source.strip() for cell in page.cells if cell.cell_type == "code"]
    first, *cells = [cell for cell in read(notebooks, chapter).cells if cell.cell_type == "code"]
    assert first.metadata.tags == [SETUP_TAG]
    assert [cell.source.strip() for cell in cells] == wanted


@pytest.mark.parametrize(("profile", "threads"), [("cpu", 1), ("gpu", 3)])
def test_the_first_cell_leaves_one_thread_except_on_a_gpu(profile: str, threads: int) -> None:
    """So that the numbers of a notebook are the site's, which are computed with one."""
    cell = TransformerManager().transform_cell(SETUP.format(repository="https://example.org"))
    code = f"import torch\ntorch.set_num_threads(3)\n{cell}\nprint(torch.get_num_threads())"
    environment = {**os.environ, "DIFFUSION_BOOK_PROFILE": profile}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout == f"{threads}\n", run.stderr


def test_notebook_runs(chapter: Path, notebooks: Path, tmp_path: Path) -> None:
    """From top to bottom and unchanged, as a reader would run it, but in the profile that only proves this.

    The build of the site has run every page in its own profile.
    """
    left = run(read(notebooks, chapter), tmp_path)
    assert not left, f"a page writes only into a directory that it made with tempfile; this one left {left}"


def run(notebook: nbformat.NotebookNode, folder: Path) -> list[str]:
    """Run a notebook in an empty folder; return what it has left there."""
    path = folder / "page.ipynb"
    nbformat.write(notebook, path)
    command = [sys.executable, "-m", "jupyter", "execute", "--timeout=600", str(path)]
    environment = {**os.environ, "DIFFUSION_BOOK_PROFILE": "smoke"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return sorted(found.name for found in folder.iterdir() if found != path)


def test_the_measure_of_what_a_notebook_leaves_can_fail(tmp_path: Path) -> None:
    code = (
        "import tempfile, pathlib\nfolder = tempfile.TemporaryDirectory()\npath = pathlib.Path({})\npath.write_text('')"
    )
    for place, left in (("folder.name, 'x.txt'", []), ("'x.txt'", ["x.txt"])):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code.format(place))])
        assert run(notebook, tmp_path) == left


# The writer ----------------------------------------------------------------------------------------------------


def test_macros_are_expanded() -> None:
    macros = {"E": r"\mathbb{E}", "KL": [r"D(#1\|#2)", 2], "R": r"\mathbb R"}
    assert expand_macros(r"\E_x \KL{q_{t}}{p} \KL q p \Ex", macros) == (r"\mathbb{E}_x D(q_{t}\|p) D(q\|p) \Ex")
    assert expand_macros(r"\R x", macros) == r"\mathbb R x"


def test_a_macro_without_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="never come to an end"):
        expand_macros(r"\x", {"x": r"{\x}"})


def test_prose_is_escaped() -> None:
    assert escape("2 * 3 costs $5, _a_ but L_simple; a <b> & `c`") == (
        r"2 \* 3 costs \$5, \_a\_ but L_simple; a &lt;b> & \`c\`"
    )


def test_indent_leaves_no_spaces_on_empty_lines() -> None:
    assert indent("a\n\nb", "- ", "  ") == "- a\n\n  b"


def test_cells_have_stable_names_and_begin_at_headings() -> None:
    pieces = [Markdown("a"), Markdown("b"), Markdown("# c", opens=True), Code("d", hidden=True)]
    cells = to_cells(pieces)
    assert [(cell.id, cell.source) for cell in cells] == [
        ("cell-000", "a\n\nb"),
        ("cell-001", "# c"),
        ("cell-002", "d"),
    ]
    assert cells[2].metadata.jupyter == {"source_hidden": True}


def writer() -> PageWriter:
    env = SimpleNamespace(toc_fignumbers={}, toc_secnumbers={})
    config = SimpleNamespace(numfig_format={}, html_secnumber_suffix=" ", mathjax3_config=None)
    return PageWriter(SimpleNamespace(config=config, env=env), "02-sample")


@pytest.mark.parametrize(
    "lost",
    [nodes.sidebar("", nodes.paragraph("", "text")), nodes.raw("", "<b>text</b>", format="html")],
)
def test_what_cannot_be_written_is_a_warning(lost: nodes.Element, monkeypatch: pytest.MonkeyPatch) -> None:
    """With -W a warning fails the build, so that no text is lost in silence."""
    warnings: list[str] = []
    monkeypatch.setattr("notebook_writer.logger.warning", lambda message, *rest, **_: warnings.append(message))
    writer().blocks([lost])
    assert len(warnings) == 1


def test_an_empty_place_for_a_widget_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notebook_writer.logger.warning", pytest.fail)
    assert writer().blocks([nodes.raw("", "<div class='widget'></div>", format="html")]) == []


def test_display_math_in_a_quotation_is_one_line() -> None:
    """Jupyter takes math out before it reads the Markdown, so a `>` within it would be part of the formula."""
    quote = nodes.block_quote("", nodes.math_block("", "a\n= b % why\n= c"))
    assert writer().blocks([quote]) == [Markdown("> $$ a = b = c $$")]
