r"""A Sphinx builder that writes each chapter as a plain notebook, for Jupyter and Colab.

    jupyter-book build book --config _config.yml --toc $PWD/_toc.yml --path-output . \
        --builder custom --custom-builder notebooks -W --keep-going

It reads the pages that the site was built from, so nothing runs twice. A chapter is a page named `NN-slug`. The
first cell installs the library where it is missing, the second leads to the page online; the code cells are the
page's own.
"""

import posixpath
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import nbformat
from docutils import nodes
from execution import took
from myst_nb.sphinx_ import NbMetadataCollector
from notebook_writer import Code, Markdown, PageWriter, Piece
from sphinx.application import Sphinx
from sphinx.builders import Builder
from sphinx.config import Config

CHAPTER = re.compile(r"\d\d-[\w-]+")
SETUP_TAG = "book-setup"  # marks the cell that is the notebook's own, not the page's
SETUP = """\
# Colab has PyTorch but not this book's library.
import importlib.util

if importlib.util.find_spec("diffusion_book") is None:
    %pip install -q "diffusion-book[folder,scenes] @ git+{repository}"

import torch

from diffusion_book import page

# One thread, as on the site: the numbers are then the same on any number of cores. A GPU needs no such care.
if page.profile() != "gpu":
    torch.set_num_threads(1)"""


def to_cells(pieces: list[Piece]) -> list[nbformat.NotebookNode]:
    """Cells with stable names. Text between two code cells is one cell, or one for each heading."""
    cells: list[nbformat.NotebookNode] = []
    for piece in pieces:
        if isinstance(piece, Code):
            cell = nbformat.v4.new_code_cell(piece.source.rstrip())
            if piece.tags:
                cell.metadata["tags"] = list(piece.tags)
            if piece.hidden:  # the first is Jupyter's name for it, the second Colab's
                cell.metadata["jupyter"] = {"source_hidden": True}
                cell.metadata["cellView"] = "form"
            cells.append(cell)
        elif piece.opens or not cells or cells[-1].cell_type != "markdown":
            cells.append(nbformat.v4.new_markdown_cell(piece.text))
        else:
            cells[-1].source += "\n\n" + piece.text
    for index, cell in enumerate(cells):
        cell["id"] = f"cell-{index:03d}"  # random names would make every build a new file
    return cells


class NotebookBuilder(Builder):
    name = "notebooks"  # also the folder: _build/notebooks
    format = "notebook"
    epilog = "The notebooks are in %(outdir)s."
    supported_image_types = ["image/svg+xml", "image/png", "image/gif", "image/jpeg"]  # noqa: RUF012 (Sphinx's API)

    def init(self) -> None:
        self.base_url = self.config.html_baseurl.rstrip("/") + "/"
        if self.base_url == "/":
            raise ValueError("notebooks link to the site: set `html: baseurl:` in _config.yml")
        options = self.config.html_theme_options
        self.repository = options.get("repository_url", "").rstrip("/")

    def get_outdated_docs(self) -> Iterator[str]:
        # All of them, always: it takes a second, and a chapter shows numbers that other pages decide.
        return (name for name in sorted(self.env.found_docs) if CHAPTER.fullmatch(name))

    def get_target_uri(self, docname: str, typ: str | None = None) -> str:
        return f"{self.base_url}{docname}.html"

    def get_relative_uri(self, from_: str, to: str, typ: str | None = None) -> str:
        return self.get_target_uri(to)

    def absolute(self, docname: str, uri: str) -> str:
        return urljoin(self.get_target_uri(docname), re.sub(r"\.md(?=#|$)", ".html", uri))

    def image_url(self, uri: str) -> str:
        """Where the site keeps the picture."""
        if "://" in uri:
            return uri
        name = self.env.images[uri][1] if uri in self.env.images else posixpath.basename(uri)
        return f"{self.base_url}_images/{name}"

    def prepare_writing(self, docnames: set[str]) -> None:
        Path(self.outdir).mkdir(parents=True, exist_ok=True)
        for old in Path(self.outdir).glob("*.ipynb"):  # of chapters that are gone or renamed
            if old.stem not in docnames:
                old.unlink()

    def write(self, build_docnames: Any, updated_docnames: Any, method: str = "update") -> None:
        # Only chapters: Sphinx would add every page that changed.
        names = [name for name in sorted(self.env.found_docs) if CHAPTER.fullmatch(name)]
        self.prepare_writing(set(names))
        for name in names:
            self.write_doc(name, self.env.get_and_resolve_doctree(name, self))
        self.offer_for_download(names)

    def offer_for_download(self, names: list[str]) -> None:
        """Each page of the site, if it was built first, has a button that leads to its notebook."""
        site = Path(self.outdir).parent / "html"
        if site.is_dir():
            shutil.rmtree(site / "notebooks", ignore_errors=True)
            (site / "notebooks").mkdir()
            for name in names:
                shutil.copy(Path(self.outdir) / f"{name}.ipynb", site / "notebooks")

    def write_doc(self, docname: str, doctree: nodes.document) -> None:
        pieces = [
            Code(SETUP.format(repository=self.repository), (SETUP_TAG,)),
            Markdown(self.preamble(docname)),
            *PageWriter(self, docname).page(doctree),
        ]
        notebook = nbformat.v4.new_notebook(
            cells=to_cells(pieces),
            metadata={
                "accelerator": "GPU",
                "colab": {"name": f"{docname}.ipynb", "provenance": []},
                "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python"},
            },
        )
        nbformat.validate(notebook)
        nbformat.write(notebook, Path(self.outdir) / f"{docname}.ipynb")

    def preamble(self, docname: str) -> str:
        url = self.get_target_uri(docname)
        book = f"[{self.config.html_title}]({self.base_url})"
        text = f"This notebook is a chapter of {book}; read it [online]({url})."
        run = NbMetadataCollector.get_exec_data(self.env, docname)
        if run and run["runtime"] is not None:
            text += f" There it ran in {took(run['runtime'])}."
        return text


def choose_outputs(app: Sphinx, config: Config) -> None:
    """Tell myst-nb how this builder ranks a cell's outputs; it would warn of each one otherwise."""
    images = ["image/svg+xml", "image/png", "image/jpeg", "image/gif"]
    kinds = [*images, "text/html", "text/markdown", "text/latex", "text/plain"]
    ranks = [(NotebookBuilder.name, kind, 10 * rank) for rank, kind in enumerate(kinds, 1)]
    config.nb_mime_priority_overrides = [*config.nb_mime_priority_overrides, *ranks]


def remove_assets(app: Sphinx, exception: Exception | None) -> None:
    """Other extensions put the site's style sheets and MathJax beside the output of any builder."""
    if app.builder.name == NotebookBuilder.name:
        shutil.rmtree(Path(app.outdir) / "_static", ignore_errors=True)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_builder(NotebookBuilder)
    app.connect("config-inited", choose_outputs)
    app.connect("build-finished", remove_assets, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
