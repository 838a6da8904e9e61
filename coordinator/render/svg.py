"""Writes the few elements of SVG that charts are drawn with. Pure."""

import html
import math
from collections.abc import Iterable, Iterator
from typing import Any

INK, AXIS = "#111827", "#6b7280"


def document(width: float, height: float, parts: Iterable[str]) -> str:
    """Joins elements to the text of an SVG file with a white ground."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">'
    )
    return "\n".join([head, rect(0, 0, width, height, "#ffffff"), *parts, "</svg>"]) + "\n"


def rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    """Draws a rectangle, whose upper left corner is at (x, y)."""
    return f'<rect x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="{height:g}" fill="{fill}"/>'


def text(x: float, y: float, content: str, *, fill: str = INK, **attributes: Any) -> str:
    """Writes a line of text; underscores of attributes' names stand for hyphens."""
    more = "".join(f' {name.replace("_", "-")}="{each}"' for name, each in attributes.items())
    return f'<text x="{x:.1f}" y="{y:g}" fill="{fill}"{more}>{html.escape(content)}</text>'


def ticks(start: float, end: float, *, at_most: float) -> Iterator[float]:
    """Chooses some multiples of 1, 2 or 5 times a power of ten from ``start`` to ``end``."""
    least = max(end - start, 1e-9) / max(2.0, at_most)
    power = 10.0 ** math.floor(math.log10(least))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)
    for tick in range(math.ceil(start / step), math.floor(end / step + 1e-9) + 1):
        yield tick * step
