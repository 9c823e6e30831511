"""What a page folds away: `{deeper-start}` … `{deeper-end}`, hints and solutions, and the code of hidden cells.

On the site each is a <details>, closed. It needs no script to open, has a name, is a Tab stop, and a browser opens it
for a search within the page. In a notebook a deeper block is a marked heading (notebook_writer.py writes it).
"""

from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from myst_nb.sphinx_ import HideCodeCellNode
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator
from sphinx_exercise.nodes import solution_node

DEEPER = "Going deeper: "
logger = logging.getLogger(__name__)


class fold_title(nodes.title):  # named as docutils names nodes
    """What can be read while the fold is closed; being a title with an anchor, the search leads to it."""


class fold(nodes.General, nodes.Element):
    """A block that starts closed: its title, then what is in it."""


class deeper(fold):
    """What the main line does without."""


class deeper_end(nodes.General, nodes.Element):
    """Where a deeper block ends, until the two are made one."""


class DeeperStart(SphinxDirective):
    """Like an exercise, it is a start and an end, because a code cell cannot stand inside of a directive."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {"needs": directives.unchanged_required, "label": directives.unchanged_required}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        title, messages = self.state.inline_text(self.arguments[0], self.lineno)
        needs, more = self.state.inline_text(f" (needs {self.options.get('needs', 'nothing new')})", self.lineno)
        node = deeper("", fold_title("", DEEPER, *title, nodes.inline("", "", *needs, classes=["needs"])))
        label = self.options.get("label") or f"deeper-{self.env.new_serialno('deeper') + 1}"
        node["ids"], node["names"], node["classes"] = [nodes.make_id(label)], [nodes.fully_normalize_name(label)], []
        self.set_source_info(node)
        if "label" in self.options:
            self.env.get_domain("std").note_hyperlink_target(  # type: ignore[attr-defined]
                node["names"][0], self.env.docname, node["ids"][0], self.arguments[0]
            )
        return [node, *messages, *more]


class DeeperEnd(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        node = deeper_end()
        self.set_source_info(node)
        return [node]


class GatherDeeper(SphinxTransform):
    """Move what stands between a start and its end into the block."""

    default_priority = 12  # after sphinx-exercise has done the same for exercises, which may stand inside

    def apply(self, **kwargs: Any) -> None:
        for start in list(self.document.findall(deeper)):
            parent = start.parent
            after = parent.children[parent.index(start) + 1 :]
            kinds = [isinstance(node, deeper_end) for node in after]
            if True not in kinds:
                self.warn(start, "a {deeper-start} has no {deeper-end} in its section; a fold holds no heading")
                continue
            body = after[: kinds.index(True)]
            if any(isinstance(node, deeper) for node in body):
                self.warn(start, "a {deeper-start} stands inside another")
            for node in after[: len(body) + 1]:
                parent.remove(node)
            start += body
        for end in list(self.document.findall(deeper_end)):
            self.warn(end, "a {deeper-end} without its {deeper-start}")
            end.parent.remove(end)

    def warn(self, node: nodes.Node, message: str) -> None:
        logger.warning(message, location=node, type="folds")


class FoldBoxes(SphinxPostTransform):
    """On the site, a hint or a solution that is a drop-down becomes a fold."""

    default_priority = 30  # after sphinx-exercise has resolved the titles of solutions
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for box in list(self.document.findall(lambda node: isinstance(node, nodes.Admonition | solution_node))):
            if "dropdown" not in box["classes"]:
                continue
            title, *body = box.children
            for link in list(title.findall(nodes.reference)):  # a link would fight with opening the fold
                link.replace_self(nodes.inline("", "", *link.children))
            classes = [name for name in box["classes"] if name != "dropdown"] or ["hint"]
            new = fold("", fold_title("", "", *title.children), *body, ids=box["ids"], classes=classes)
            box.parent.replace(box, new)


def visit_fold(self: HTML5Translator, node: fold) -> None:
    classes = ["fold", *(["deeper"] if isinstance(node, deeper) else [])]
    self.body.append(self.starttag(node, "details", CLASS=" ".join(classes)))


def depart_fold(self: HTML5Translator, node: fold) -> None:
    self.body.append("</details>\n")


def visit_fold_title(self: HTML5Translator, node: fold_title) -> None:
    self.body.append("<summary>")


def depart_fold_title(self: HTML5Translator, node: fold_title) -> None:
    self.body.append("</summary>\n")


def visit_hidden_code(self: HTML5Translator, node: HideCodeCellNode) -> None:
    """In place of MyST-NB's, whose name for every fold is “Toggle hidden content”."""
    prompt = self.encode(node["prompt_show"])
    self.body.append(f'<details class="fold plumbing">\n<summary>{prompt}</summary>\n')


def setup(app: Sphinx) -> dict[str, Any]:
    for node in (fold, deeper):
        app.add_node(node, html=(visit_fold, depart_fold))
    app.add_node(fold_title, html=(visit_fold_title, depart_fold_title))
    app.add_node(deeper_end)
    app.add_node(HideCodeCellNode, override=True, html=(visit_hidden_code, depart_fold))
    app.add_directive("deeper-start", DeeperStart)
    app.add_directive("deeper-end", DeeperEnd)
    app.add_transform(GatherDeeper)
    app.add_post_transform(FoldBoxes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
