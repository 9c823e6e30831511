"""The role `reported`: a number that others report, which the build did not check, with where it stands.

``{reported}`3.17 <ho2020denoising>` `` reads “3.17 (Ho et al., 2020)”, and the number is marked as not ours.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

FORM = re.compile(r"(?s)(\S.*?)\s*<([\w:,-]+)>")
EXPLANATION = "Reported by the source that is cited; not computed here."


class Reported(SphinxRole):
    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        found = FORM.fullmatch(self.text)
        if not found:
            message = f"write {{reported}}`NUMBER <key>`, with a key of references.bib; got {self.text!r}"
            error = self.inliner.reporter.error(message, line=self.lineno)
            return [self.inliner.problematic(self.rawtext, self.rawtext, error)], [error]
        number = nodes.abbreviation("", found[1], explanation=EXPLANATION, classes=["reported"])
        cite = self.env.get_domain("cite").role("p")
        assert cite is not None  # sphinxcontrib.bibtex
        citation, messages = cite("cite:p", self.rawtext, found[2], self.lineno, self.inliner)
        return [number, nodes.Text(" "), *citation], messages


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_role("reported", Reported())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
