"""A simulated plan as a Gantt chart in SVG, light however long the schedule is. Pure.

Time runs to the right, in panels with an axis each: the beginning of the fill, its end if
that was not in view yet, and the first steps of an epoch. Every device has three lanes: its
processor, what its link sends, what it receives. What would be too narrow to be seen is
drawn together with its neighbours.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterable, Iterator, Sequence

from coordinator.planner.simulation.simulate import Interval, Lane, Simulation
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan

MAX_DEVICES = 48
"""Rows; of more devices the first ones of the plan are drawn."""

WIDTH = 1280
MARGIN, GAP, TOP = 16, 28, 64
PROCESSOR, LINK, ROW_GAP = 18, 6, 10
ROW = PROCESSOR + 2 * LINK + ROW_GAP
LETTER = 6.6
"""Pixels of a letter in the labels."""

MIN_SEEN = 1.5
"""Pixels below which an interval is drawn together with the next one."""

COLOURS: dict[Lane, tuple[str, str]] = {
    "compute": ("#2f6db3", "#5b93cf"),
    "handle": ("#8a8f98", "#a9adb5"),
    "send": ("#d9822b", "#e6a15c"),
    "receive": ("#3f9b5f", "#6fbb8a"),
    "train": ("#8e4ea8", "#ab74c2"),
    "exchange": ("#c2455a", "#d66f80"),
}
"""Of even and odd micro-batches or steps."""

MEANINGS: dict[Lane, str] = {
    "compute": "computes and encodes a micro-batch",
    "handle": "handles messages, stores",
    "send": "link sends",
    "receive": "link receives",
    "train": "trains",
    "exchange": "adds up gradients",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Panel:
    """A stretch of time and what happens in it."""

    title: str
    start: float
    end: float
    intervals: tuple[Interval, ...]
    left: float = 0.0
    width: float = 0.0

    def x(self, time: float) -> float:
        span = self.end - self.start
        return self.left + (min(max(time, self.start), self.end) - self.start) / span * self.width


def gantt_svg(simulation: Simulation, plan: Plan) -> str:
    """The chart of a simulation of ``plan``, as the text of an SVG file."""
    devices = plan.devices[:MAX_DEVICES]
    names = {device: _row_name(plan, device) for device in devices}
    left = MARGIN + LETTER * max(map(len, names.values())) + 12
    panels = _placed(_panels(simulation, plan), left)
    height = TOP + ROW * len(devices) + 76
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(MARGIN, 22, _headline(simulation, len(plan.devices)), size=14),
        *(part for row, device in enumerate(devices) for part in _row(row, names[device], panels)),
        *(part for panel in panels for part in _drawn(panel, devices)),
        *_legend(height - 18, _lanes(panels)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _headline(simulation: Simulation, devices: int) -> str:
    said = (
        f"simulated: fill {simulation.fill_seconds:.4g} s ({simulation.micro_batches} "
        f"micro-batches), an epoch {simulation.epoch_seconds:.4g} s, "
        f"in all {simulation.total_seconds:.4g} s"
    )
    hidden = devices - MAX_DEVICES
    return f"{said}; {hidden} more devices are not drawn" if hidden > 0 else said


def _row_name(plan: Plan, device: DeviceId) -> str:
    stage = plan.stage_of(device)
    return f"{device}  {stage.first}..{stage.last - 1}" if stage else str(device)


# Panels.


def _panels(simulation: Simulation, plan: Plan) -> list[_Panel]:
    steps = [each for each in simulation.intervals if each.label.startswith("step")]
    fill = [each for each in simulation.intervals if not each.label.startswith("step")]
    panels = [*_fill_panels(simulation, plan, fill)]
    if steps:
        end = max(each.end for each in steps)
        panels.append(_panel("first steps of an epoch", 0.0, end, steps))
    return panels


def _fill_panels(simulation: Simulation, plan: Plan, fill: Sequence[Interval]) -> Iterator[_Panel]:
    """The fill, or its beginning and its end where it is too long, or not all of it is known."""
    if not fill:
        return
    wanted = max(12, 3 * len(plan.stages))
    kept = sorted({int(each.label) for each in fill})
    count, end = kept[-1] + 1, max(each.end for each in fill)
    if len(kept) == count <= 2 * wanted:
        yield _panel("fill", 0.0, end, fill)
        return
    first = [number for index, number in enumerate(kept) if index == number < wanted]
    last = [number for number in kept if number > first[-1]][-(wanted // 2) :]
    # A fill that was not played to its end ends later than its last interval.
    later = simulation.fill_seconds - end
    shifted = [
        dataclasses.replace(each, start=each.start + later, end=each.end + later)
        for each in fill
        if int(each.label) >= kept[-1] // 2
    ]
    whole = len(kept) == count
    yield _panel(
        "the fill begins" if whole else f"the first {len(first)} micro-batches alone",
        0.0,
        max(each.end for each in fill if int(each.label) in first),
        fill,
    )
    yield _panel(
        "the fill ends" if whole else f"the last {len(last)} micro-batches alone",
        min(each.start for each in shifted if int(each.label) in last),
        simulation.fill_seconds,
        shifted,
    )


def _panel(title: str, start: float, end: float, intervals: Iterable[Interval]) -> _Panel:
    inside = tuple(each for each in intervals if each.end > start and each.start < end)
    return _Panel(title=title, start=start, end=max(end, start + 1e-9), intervals=inside)


def _placed(panels: Sequence[_Panel], left: float) -> list[_Panel]:
    """Panels side by side; the first one gets half as much again."""
    weights = [1.5, *[1.0] * (len(panels) - 1)][: len(panels)]
    room = WIDTH - MARGIN - left - GAP * (len(panels) - 1)
    placed = []
    for panel, weight in zip(panels, weights, strict=True):
        width = room * weight / sum(weights)
        placed.append(dataclasses.replace(panel, left=left, width=width))
        left += width + GAP
    return placed


def _lanes(panels: Iterable[_Panel]) -> list[Lane]:
    there = {each.lane for panel in panels for each in panel.intervals}
    return [lane for lane in COLOURS if lane in there]


# Drawing.


def _row(row: int, name: str, panels: Iterable[_Panel]) -> Iterator[str]:
    top = TOP + ROW * row
    yield _text(MARGIN, top + PROCESSOR - 4, name)
    for panel in panels:
        yield (
            f'<rect x="{panel.left:.1f}" y="{top}" width="{panel.width:.1f}" '
            f'height="{ROW - ROW_GAP}" fill="#f3f4f6"/>'
        )


def _drawn(panel: _Panel, devices: Sequence[DeviceId]) -> Iterator[str]:
    bottom = TOP + ROW * len(devices)
    yield _text(panel.left, TOP - 10, panel.title)
    yield from _axis(panel, bottom)
    rows = {device: row for row, device in enumerate(devices)}
    lanes: dict[tuple[int, float, float], list[Interval]] = {}
    for each in panel.intervals:
        if each.device in rows:
            offset, height = _place(each.lane)
            lanes.setdefault((rows[each.device], offset, height), []).append(each)
    for (row, offset, height), found in lanes.items():
        for start, end, interval in _seen(panel, sorted(found, key=lambda each: each.start)):
            yield from _bar(start, end, TOP + ROW * row + offset, height, interval)


def _place(lane: Lane) -> tuple[float, float]:
    """Where in its row a lane is, and how high."""
    if lane == "send":
        return PROCESSOR, LINK - 1
    if lane == "receive":
        return PROCESSOR + LINK, LINK - 1
    return (PROCESSOR - 5, 4) if lane == "handle" else (1, PROCESSOR - 2)


def _seen(panel: _Panel, intervals: Iterable[Interval]) -> Iterator[tuple[float, float, Interval]]:
    """Left, right and the interval whose colour counts; narrow neighbours are one."""
    pending: tuple[float, float, Interval] | None = None
    for each in intervals:
        start, end = panel.x(each.start), panel.x(each.end)
        if pending is not None:
            narrow = end - start < MIN_SEEN or pending[1] - pending[0] < MIN_SEEN
            if narrow and start - pending[1] < MIN_SEEN / 2:
                pending = (pending[0], max(end, pending[1]), pending[2])
                continue
            yield pending
        pending = (start, end, each)
    if pending is not None:
        yield pending


def _bar(start: float, end: float, top: float, height: float, each: Interval) -> Iterator[str]:
    number = each.label.removeprefix("step ")
    colour = COLOURS[each.lane][int(number) % 2]
    width = max(end - start, 0.3)
    yield (
        f'<rect x="{start:.1f}" y="{top:.0f}" width="{width:.1f}" height="{height:.0f}" '
        f'fill="{colour}"/>'
    )
    if height > 10 and width > LETTER * len(number) + 4:
        middle = (start + end) / 2
        yield (
            f'<text x="{middle:.1f}" y="{top + 12:.0f}" text-anchor="middle" '
            f'fill="#ffffff">{number}</text>'
        )


def _axis(panel: _Panel, bottom: float) -> Iterator[str]:
    step = _nice_step((panel.end - panel.start) / max(2.0, panel.width / 90))
    yield (
        f'<line x1="{panel.left:.1f}" y1="{bottom}" x2="{panel.left + panel.width:.1f}" '
        f'y2="{bottom}" stroke="#6b7280"/>'
    )
    for tick in range(math.ceil(panel.start / step), math.floor(panel.end / step + 1e-9) + 1):
        x = panel.x(tick * step)
        yield f'<line x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 5}" stroke="#6b7280"/>'
        yield (
            f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" fill="#374151">'
            f"{tick * step:.6g} s</text>"
        )


def _nice_step(at_least: float) -> float:
    """1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= at_least)


def _legend(y: float, lanes: Iterable[Lane]) -> Iterator[str]:
    x = float(MARGIN)
    for lane in lanes:
        colour = COLOURS[lane][0]
        yield f'<rect x="{x:.0f}" y="{y - 9:.0f}" width="12" height="10" fill="{colour}"/>'
        yield _text(x + 17, y, MEANINGS[lane])
        x += 17 + LETTER * len(MEANINGS[lane]) + 18


def _text(x: float, y: float, text: str, *, size: int = 11) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="#111827">'
        f"{html.escape(text)}</text>"
    )
