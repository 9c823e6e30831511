"""Interactive figures without a kernel: the directive `{widget} NAME` is a place that a script of the site fills.

The script is book/_static/widgets/NAME.js, which Jupyter Book puts on every page; what the scripts share stands in
book/_static/widgets.js. Its data are what a cell of the page handed to `diffusion_book.page.widget_data(NAME, …)`, so
what moves in the browser is what the build computed. Without JavaScript the place is empty, and an exported notebook
leaves it out: a static figure stands beside every widget.
"""

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Widget(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        script = Path(self.env.srcdir, "_static", "widgets", f"{name}.js")
        if not script.is_file():
            raise self.error(f"there is no widget {name!r}: {script.relative_to(self.env.srcdir)} does not exist")
        # An empty element: notebook_writer.py drops it, since no text is lost.
        return [nodes.raw("", f'<div class="widget" data-widget="{name}"></div>', format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("widget", Widget)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
