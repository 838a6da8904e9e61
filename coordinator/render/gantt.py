"""Draws a simulated plan as a Gantt chart in SVG, light however long the schedule is. Pure.

Time runs to the right, in panels with an axis each: the beginning of the fill, its end if
that was not in view yet, and the first steps of an epoch. Every device has three lanes: its
processor, what its link sends, what it receives. What would be too narrow to be seen is
drawn together with its neighbours.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from coordinator.planner.simulation.simulate import Interval, Lane, Simulation
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan

from .svg import AXIS, document, rect, text, ticks

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

_PLACES: dict[Lane, tuple[float, float]] = {
    "handle": (PROCESSOR - 5, 4),
    "send": (PROCESSOR, LINK - 1),
    "receive": (PROCESSOR + LINK, LINK - 1),
}
"""Top of a lane in its row and its height, where it is not the processor's."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Panel:
    """A stretch of time, what happens in it, and where it is drawn."""

    title: str
    start: float
    end: float
    intervals: Sequence[Interval]
    left: float = 0.0
    width: float = 0.0

    def x(self, time: float) -> float:
        span = max(self.end - self.start, 1e-9)
        return self.left + (min(max(time, self.start), self.end) - self.start) / span * self.width


def gantt_svg(simulation: Simulation, plan: Plan) -> str:
    """Draws a simulation of ``plan`` as the text of an SVG file."""
    devices = plan.devices[:MAX_DEVICES]
    stages = [plan.stage_of(device) for device in devices]
    names = [
        f"{device}  {stage.first}..{stage.last - 1}" if stage else str(device)
        for device, stage in zip(devices, stages, strict=True)
    ]
    left = MARGIN + LETTER * max(map(len, names)) + 12
    panels = _side_by_side(_panels(simulation, plan), left)
    height = TOP + ROW * len(devices) + 76
    parts = [
        text(MARGIN, 22, _headline(simulation, len(plan.devices)), font_size=14),
        *(text(MARGIN, TOP + ROW * i + PROCESSOR - 4, name) for i, name in enumerate(names)),
        *(part for panel in panels for part in _drawn(panel, devices)),
        *_legend(height - 18, {each.lane for panel in panels for each in panel.intervals}),
    ]
    return document(WIDTH, height, parts)


def _headline(simulation: Simulation, devices: int) -> str:
    said = (
        f"simulated: fill {simulation.fill_seconds:.4g} s ({simulation.micro_batches} "
        f"micro-batches), an epoch {simulation.epoch_seconds:.4g} s, "
        f"in all {simulation.total_seconds:.4g} s"
    )
    hidden = devices - MAX_DEVICES
    return f"{said}; {hidden} more devices are not drawn" if hidden > 0 else said


def _panels(simulation: Simulation, plan: Plan) -> Iterator[_Panel]:
    """Splits the fill, or its beginning and its end where it is long, from the first steps."""
    steps = [each for each in simulation.intervals if each.label.startswith("step")]
    fill = [each for each in simulation.intervals if not each.label.startswith("step")]
    if fill:
        wanted = max(12, 3 * len(plan.stages))
        kept = sorted({int(each.label) for each in fill})
        whole, end = len(kept) == kept[-1] + 1, max(each.end for each in fill)
        if whole and len(kept) <= 2 * wanted:
            yield _Panel("fill", 0.0, end, fill)
        else:
            first = [number for index, number in enumerate(kept) if index == number < wanted]
            last = [number for number in kept if number > first[-1]][-(wanted // 2) :]
            begin, finish = "the fill begins", "the fill ends"
            if not whole:
                begin = f"the first {len(first)} micro-batches alone"
                finish = f"the last {len(last)} micro-batches alone"
            until = max(each.end for each in fill if int(each.label) in first)
            yield _Panel(begin, 0.0, until, fill)
            # A fill that was not played to its end ends later than its last interval.
            later = simulation.fill_seconds - end
            shifted = [
                dataclasses.replace(each, start=each.start + later, end=each.end + later)
                for each in fill
                if int(each.label) >= kept[-1] // 2
            ]
            since = min(each.start for each in shifted if int(each.label) in last)
            yield _Panel(finish, since, simulation.fill_seconds, shifted)
    if steps:
        yield _Panel("first steps of an epoch", 0.0, max(each.end for each in steps), steps)


def _side_by_side(panels: Iterable[_Panel], left: float) -> list[_Panel]:
    """Places panels; the first one gets half as much room again."""
    found, placed = list(panels), list[_Panel]()
    room = WIDTH - MARGIN - left - GAP * (len(found) - 1)
    for panel in found:
        width = room * (1.0 if placed else 1.5) / (len(found) + 0.5)
        inside = [x for x in panel.intervals if x.end > panel.start and x.start < panel.end]
        placed.append(dataclasses.replace(panel, left=left, width=width, intervals=inside))
        left += width + GAP
    return placed


def _drawn(panel: _Panel, devices: Sequence[DeviceId]) -> Iterator[str]:
    yield text(panel.left, TOP - 10, panel.title)
    rows = {device: float(TOP + ROW * row) for row, device in enumerate(devices)}
    for top in rows.values():
        yield rect(panel.left, top, panel.width, ROW - ROW_GAP, "#f3f4f6")
    yield from _axis(panel, TOP + ROW * len(devices))
    lanes: dict[tuple[float, float], list[Interval]] = {}
    for each in sorted(panel.intervals, key=lambda each: each.start):
        if each.device in rows:
            offset, height = _PLACES.get(each.lane, (1.0, PROCESSOR - 2.0))
            lanes.setdefault((rows[each.device] + offset, height), []).append(each)
    for (top, height), intervals in lanes.items():
        for start, end, interval in _visible(panel, intervals):
            number = interval.label.removeprefix("step ")
            colour = COLOURS[interval.lane][int(number) % 2]
            width = max(end - start, 0.3)
            yield rect(start, top, width, height, colour)
            if height > 10 and width > LETTER * len(number) + 4:
                middle = (start + end) / 2
                yield text(middle, top + 12, number, text_anchor="middle", fill="#ffffff")


def _visible(panel: _Panel, intervals: Iterable[Interval]) -> list[tuple[float, float, Interval]]:
    """Finds left, right and the interval whose colour counts; narrow neighbours are one."""
    bars: list[tuple[float, float, Interval]] = []
    for each in intervals:
        start, end = panel.x(each.start), panel.x(each.end)
        if bars:
            left, right, first = bars[-1]
            narrow = min(end - start, right - left) < MIN_SEEN
            if narrow and start - right < MIN_SEEN / 2:
                bars[-1] = (left, max(end, right), first)
                continue
        bars.append((start, end, each))
    return bars


def _axis(panel: _Panel, y: float) -> Iterator[str]:
    """Draws the axis of a panel."""
    yield rect(panel.left, y, panel.width, 1, AXIS)
    for tick in ticks(panel.start, panel.end, at_most=panel.width / 90):
        x = panel.x(tick)
        yield rect(x, y, 1, 5, AXIS)
        yield text(x, y + 18, f"{tick:.6g} s", text_anchor="middle")


def _legend(y: float, lanes: set[Lane]) -> Iterator[str]:
    x = float(MARGIN)
    for lane in COLOURS:
        if lane in lanes:
            yield rect(x, y - 9, 12, 10, COLOURS[lane][0])
            yield text(x + 17, y, MEANINGS[lane])
            x += 17 + LETTER * len(MEANINGS[lane]) + 18
