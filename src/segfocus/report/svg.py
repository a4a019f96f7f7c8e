"""Matplotlib figures as small inline SVG that takes its colours and its font from the page.

Charts are drawn with placeholder colours, one for each role; in the SVG they become CSS variables, so one drawing
serves light and dark.  Text stays text.  Equal numbers give equal bytes: no dates, no random ids.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {
    role: f"#0a0b{number:02x}"
    for number, role in enumerate(("ink", "soft", "line", "bar", "bed", "good", "bad", "warn", "card"), start=1)
}
"""placeholder colour of each role; `--ROLE` is the page's variable"""

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "segfocus",
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "text.usetex": False,
    "text.parse_math": False,  # a "$" in a name is a dollar
    "axes.linewidth": 1,
    "path.simplify": False,
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many CSS pixels; needs no display and leaves no trace in pyplot."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72, frameon=False)


def new_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in CSS pixels from the top left corner, with nothing but the data in them."""
    full_width, full_height = figure.get_size_inches() * 72
    axes = figure.add_axes(
        (left / full_width, 1 - (top + height) / full_height, width / full_width, height / full_height)
    )
    axes.set_axis_off()
    return axes


def to_svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The figure as an <svg> element for an HTML page.

    Args:
        figure: drawn in `COLORS`.
        name: makes the ids of this chart different from those of the others of the page.
        title: what the chart shows.
        description: its numbers in words, for those who cannot see it.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.BytesIO()
    with matplotlib.rc_context(_SETTINGS):
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(buffer.getvalue())
    _clean(root, name)
    text = ElementTree.tostring(_with_words(root, name, title, description), encoding="unicode")
    for role, color in COLORS.items():
        text = text.replace(color, f"var(--{role})")
    return text


def _clean(root: ElementTree.Element, name: str) -> None:
    """Drop namespaces, styles for the whole page, ids nobody refers to, fonts and superfluous groups, in place."""
    used = {value[1:] for item in root.iter() for key, value in item.attrib.items() if key.endswith("href")}
    for item in root.iter():
        item.tag = _local(item.tag)
        item.attrib = {_local(key): value for key, value in item.attrib.items()}
        item.attrib.pop("clip-path", None)
        identity = item.attrib.pop("id", None)
        if identity in used:
            item.set("id", f"{name}-{identity}")
        if "href" in item.attrib:
            item.set("href", f"#{name}-{item.attrib['href'][1:]}")
        if "d" in item.attrib:
            item.set("d", re.sub(r"(\.\d\d)\d+", r"\1", " ".join(item.attrib["d"].split())))
        if "style" in item.attrib:
            style = re.sub(r"font:\s*([^;']*px)[^;]*", r"font-size: \1", item.attrib["style"])
            item.set("style", re.sub(r"font-family:[^;]*(;\s*|$)", "", style))
        if item.attrib.get("transform", "").startswith("rotate(-0 "):
            del item.attrib["transform"]
        for child in list(item):
            if _local(child.tag) in ("style", "metadata", "clipPath") or _invisible(child):
                item.remove(child)
        item.tail = None
        if item.text is not None and not item.text.strip():
            item.text = None
    _drop_empty(root)


def _invisible(item: ElementTree.Element) -> bool:
    """The figure's and the axes' empty backgrounds."""
    style = item.attrib.get("style", "")
    return _local(item.tag) == "path" and "fill: none" in style and "stroke:" not in style


def _drop_empty(item: ElementTree.Element) -> None:
    for child in list(item):
        _drop_empty(child)
        if child.tag in ("g", "defs") and not len(child):
            item.remove(child)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _with_words(root: ElementTree.Element, name: str, title: str, description: str) -> ElementTree.Element:
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "class": "chart",
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
    }
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(position, element)
    return root
