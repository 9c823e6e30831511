"""Put matplotlib's SVG into the page itself, in the page's colours, so that one picture serves light and dark.

The style of the figures (`diffusion_book.viz`) draws text and axes in one grey and grid lines in another, which
here mean "the colour of ink" and "the colour of a border"; in a notebook they are seen as they are.
"""

import hashlib
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

INK, GRID = "#767676", "#b0b0b1"
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
PIXELS = {"pt": 96 / 72, "px": 1.0, "in": 96.0, "": 1.0}

ET.register_namespace("", SVG)
ET.register_namespace("xlink", XLINK)


def inline_svg(source: str, alt: str, prefix: str) -> str:
    """Return an SVG file as an element for a page.

    Args:
        source: the file's text.
        alt: what a reader who cannot see the picture needs to know.
        prefix: goes before every id, so that the pictures on one page do not share ids.
    """
    svg = ET.fromstring(source)
    for parent in svg.iter():
        for child in list(parent):
            # matplotlib's <style> is one rule for "*", which inside a page would mean the whole page
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in svg.iter():
        for name, value in element.attrib.items():
            element.set(name, _in_page(name, value, prefix))
    width = _pixels(svg.attrib.pop("width", ""))
    svg.attrib.pop("height", None)
    svg.set("style", f"width:100%;max-width:{width}px;height:auto;stroke-linejoin:round;stroke-linecap:butt")
    svg.set("class", "figure-svg")
    svg.set("role", "img")
    svg.set("aria-label", " ".join(alt.split()))
    return ET.tostring(svg, encoding="unicode")


def _in_page(name: str, value: str, prefix: str) -> str:
    if value.startswith("data:"):
        return value  # a picture inside the picture keeps its pixels
    if name == "id":
        return prefix + value
    if name in ("href", f"{{{XLINK}}}href") and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    value = re.sub(r"url\(#", f"url(#{prefix}", value)
    return value.replace(INK, "currentColor").replace(GRID, "var(--pst-color-border)")


def _pixels(length: str) -> int:
    found = re.fullmatch(r"([\d.]+)(pt|px|in|)", length)
    return round(float(found[1]) * PIXELS[found[2]]) if found else 640


class InlineSvg(SphinxPostTransform):
    """Replace each image that a cell drew as SVG; pictures from files stay files."""

    default_priority = 10  # after MyST-NB has chosen among the forms of an output
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for image in list(self.document.findall(nodes.image)):
            path = Path(self.app.srcdir, image["uri"])
            if "jupyter_execute" not in path.parts or path.suffix != ".svg":
                continue
            source = path.read_text("utf8")
            position = f"{self.env.docname}{image.line}{image['uri']}"
            prefix = f"svg{hashlib.sha256(position.encode()).hexdigest()[:8]}-"
            html = inline_svg(source, image.get("alt", ""), prefix)
            image.replace_self(nodes.raw("", html, format="html"))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_post_transform(InlineSvg)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
