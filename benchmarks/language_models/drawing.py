"""Draws curves of held-out loss against CPU-seconds as SVG; the seconds on a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from coordinator.render.svg import AXIS, document, rect, text, ticks

from .curves import Curve

WIDTH, HEIGHT = 860.0, 480.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, 24.0, 24.0, 56.0
SIDE, LORA = ("#2f6db3", "#8e4ea8", "#3f9b5f"), ("#d9822b", "#c2455a", "#8a8f98")


def draw(side: Sequence[Curve], lora: Sequence[Curve]) -> str:
    """Draws all curves that have a point."""
    curves = [
        *zip(side, SIDE * len(side), strict=False),
        *zip(lora, LORA * len(lora), strict=False),
    ]
    if not curves:
        return document(WIDTH, HEIGHT, [text(LEFT, TOP, "nothing is measured yet")])
    return document(WIDTH, HEIGHT, _parts(curves))


class _Place:
    """Where seconds and losses lie."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        points = [point for curve in curves for point in curve.points]
        seconds = [point.cpu_seconds for point in points if point.cpu_seconds > 0] or [1.0]
        self.least, self.most = 0.7 * min(seconds), 1.2 * max(seconds)
        losses = [point.loss for point in points]
        margin = 0.06 * (max(losses) - min(losses)) + 1e-6
        self.low, self.high = min(losses) - margin, max(losses) + margin

    def x(self, seconds: float) -> float:
        part = math.log(max(seconds, self.least) / self.least) / math.log(self.most / self.least)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(self, loss: float) -> float:
        part = (self.high - loss) / (self.high - self.low)
        return round(TOP + part * (HEIGHT - TOP - BOTTOM), 1)

    def seconds(self) -> Iterator[float]:
        """1, 2 and 5 times powers of ten."""
        for power in range(math.floor(math.log10(self.least)), 9):
            for factor in (1, 2, 5):
                if self.least <= factor * 10.0**power <= self.most:
                    yield factor * 10.0**power


def _parts(curves: Sequence[tuple[Curve, str]]) -> Iterator[str]:
    place = _Place([curve for curve, _ in curves])
    floor = HEIGHT - BOTTOM
    yield rect(LEFT, floor, WIDTH - LEFT - RIGHT, 1, AXIS)
    for seconds in place.seconds():
        yield rect(place.x(seconds), floor, 1, 5, AXIS)
        yield text(place.x(seconds), floor + 18, f"{seconds:g}", text_anchor="middle")
    for loss in ticks(place.low, place.high, at_most=8):
        yield rect(LEFT, place.y(loss), WIDTH - LEFT - RIGHT, 0.5, "#e5e7eb")
        yield text(LEFT - 8, place.y(loss) + 4, f"{loss:.4g}", text_anchor="end")
    yield text(WIDTH / 2, HEIGHT - 14, "CPU-seconds, evaluating apart", text_anchor="middle")
    yield text(8, TOP - 8, "held-out loss, nats a token")
    for row, (curve, colour) in enumerate(curves):
        yield from _drawn(curve, colour, place)
        yield text(WIDTH - RIGHT, TOP + 16 * row + 8, curve.name, fill=colour, text_anchor="end")


def _drawn(curve: Curve, colour: str, place: _Place) -> Iterator[str]:
    at = [(place.x(point.cpu_seconds), place.y(point.loss)) for point in curve.points]
    path = " ".join(f"{x:.1f},{y:g}" for x, y in at)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
    for x, y in at:
        yield f'<circle cx="{x:.1f}" cy="{y:g}" r="3" fill="{colour}"/>'
