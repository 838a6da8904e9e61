"""A plan for people: who does what, where the time goes, what limits it, what else there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from coordinator.planner.cost.memory import MEMORY_USE
from coordinator.planner.problem.problem import Array
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.plan import DevicePrediction, Plan, Prediction, Stage
from edge_runtime.contract.profile import DeviceProfile

from .console import cell, say

if TYPE_CHECKING:
    from coordinator.api.plan import PlanResult
    from coordinator.planner.baselines import Alternative
    from coordinator.planner.simulation.simulate import Simulation

BAR = 24
"""Letters of the longest bar."""

UNLIMITED_BYTES = 1 << 50
"""Memory or storage that nobody has: it stands for no limit."""

PROVEN = 1e-4
"""What a plan may be above its bound, relatively, and still be called the best."""


def show_plan(result: PlanResult, console: Console | None = None) -> None:
    """Tables, a drawing of the pipeline, and what there is to say about them."""
    console = console or Console()
    plan, predicted = result.plan, result.plan.predicted
    assert predicted is not None, "the planner predicts"
    profiles = {profile.device: profile for profile in result.problem.profiles}
    console.print(_devices(plan, predicted, profiles))
    say(console, "")
    for line in draw(plan, predicted, result.manifest, result.problem.carried_bytes):
        say(console, line)
    say(console, "")
    console.print(_times(plan, predicted))
    say(console, "")
    for line in limits(plan, predicted, result.problem.epochs):
        say(console, line)
    left_out = [device for device in profiles if device not in plan.devices]
    if left_out:
        say(console, f"left out, since they would slow it down: {', '.join(left_out)}")
    if result.dilation > 1:
        say(console, f"times are the emulation's, {result.dilation:.2f} times as long as in truth")
    say(console, "")
    console.print(_alternatives(predicted, result.alternatives))
    say(console, proof(predicted))
    if result.simulated is not None:
        say(console, "")
        console.print(_simulated(predicted, result.simulated))


def _device_table(title: str, *columns: str) -> Table:
    """Narrow enough for 80 columns; names, which people type, are never cut off."""
    table = Table(title=title, box=None, collapse_padding=True, pad_edge=False)
    table.add_column("device", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


# Who does what.


def _devices(plan: Plan, predicted: Prediction, profiles: dict[DeviceId, DeviceProfile]) -> Table:
    table = _device_table(
        "who does what", "blocks", "share", "shards", "memory", "cache", "network"
    )
    for device in plan.devices:
        stage, part = plan.stage_of(device), predicted.devices.get(device)
        table.add_row(
            cell(device),
            _range(stage) if stage else "-",
            f"{100 * _share(stage, device):.0f} %" if stage else "-",
            str(len(plan.shards_of(device)) or "-"),
            *(_needs(part, profiles[device]) if part else ("-", "-", "-")),
        )
    return table


def _needs(part: DevicePrediction, profile: DeviceProfile) -> tuple[str, str, str]:
    cache = _of_limit(part.storage_bytes, profile.storage_bytes) if part.storage_bytes else "-"
    return (
        _of_limit(part.memory_bytes, MEMORY_USE * profile.memory_bytes),
        cache,
        f"{_size(part.sent_bytes)} out\n{_size(part.received_bytes)} in",
    )


def _of_limit(needed: float, limit: float) -> str:
    return f"{_size(needed)}\nof {_size(limit)}" if limit < UNLIMITED_BYTES else _size(needed)


def _range(stage: Stage) -> str:
    return f"{stage.first}..{stage.last - 1}" if stage.last > stage.first + 1 else f"{stage.first}"


def _share(stage: Stage, device: DeviceId) -> float:
    return sum(member.share for member in stage.devices if member.device == device)


def _size(count: float) -> str:
    """Three digits or so: 12.3 kB, 1234 MB."""
    for unit, factor in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12)):
        value = count / factor
        if value < 999.5 or unit == "TB":
            return f"{value:.0f} {unit}" if value >= 99.5 else f"{value:.3g} {unit}"
    raise AssertionError("TB is the last unit")


# The pipeline.


def draw(plan: Plan, predicted: Prediction, manifest: Manifest, carried: Array) -> Iterator[str]:
    """The pipeline, stage below stage, each device with a bar of the time it is busy.

    Args:
        plan: what to draw.
        predicted: its prediction.
        manifest: names the blocks.
        carried: bytes of a sample that pass each cut.
    """
    longest = max((each.fill_seconds for each in predicted.devices.values()), default=0.0)
    width = max(len(device) for device in plan.devices)
    yield "tokens"
    for stage in plan.stages:
        names = [block.name for block in manifest.blocks[stage.first : stage.last]]
        inside = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        if stage.first:
            size = _size(float(carried[stage.first]))
            yield f"  │  {size} a sample"
        yield f"  ▼  {inside}"
        for member in stage.devices:
            busy = predicted.devices[member.device].fill_seconds
            yield (
                f"  ┃  {member.device:<{width}} {100 * member.share:3.0f} %  "
                f"{_bar(busy, longest):<{BAR}} {_seconds(busy)}"
            )
    yield "  │  every hidden state that the adapter reads, to the owner of its sample"
    yield "  ▼  caches, then adapter epochs"
    most = max(len(owner.shards) for owner in plan.owners)
    for owner in plan.owners:
        part = 100 * len(owner.shards) / plan.num_shards
        bar = _bar(len(owner.shards), most)
        yield (
            f"  ┃  {owner.device:<{width}} {part:3.0f} %  {bar:<{BAR}} "
            f"{_seconds(predicted.devices[owner.device].epoch_seconds)} an epoch"
        )


def _bar(value: float, longest: float) -> str:
    return "█" * max(1, round(BAR * value / longest)) if longest > 0 and value > 0 else ""


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 99.95 else f"{value:.3g} s"


# Where the time goes.


def _times(plan: Plan, predicted: Prediction) -> Table:
    columns = ("compute", "handling", "sending", "receiving", "training", "exchange")
    table = _device_table("busy, in seconds: once with the fill; with each epoch", *columns)
    for device in plan.devices:
        part = predicted.devices.get(device)
        fill = part.fill_parts if part else {}
        epoch = part.epoch_parts if part else {}
        table.add_row(
            cell(device),
            *(_number(fill.get(name)) for name in columns[:4]),
            *(_number(epoch.get(name)) for name in ("compute", "exchange")),
        )
    return table


def _number(value: float | None) -> str:
    if not value:
        return "-"
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"


def limits(plan: Plan, predicted: Prediction, epochs: int) -> Iterator[str]:
    """The predicted times, and which device's what sets each of them."""
    fill, epoch, total = predicted.fill_seconds, predicted.epoch_seconds, predicted.total_seconds
    yield (
        f"predicted: fill {_seconds(fill)} + {epochs} epochs of {_seconds(epoch)} "
        f"= {_seconds(total)}; micro-batches of {plan.micro_batch_size}"
    )
    busiest = max(predicted.devices, key=lambda name: predicted.devices[name].fill_seconds)
    if part := predicted.devices[busiest].fill_parts:
        share = 100 * fill / total if total else 0.0
        yield f"the fill ({share:.0f} % of the time) waits for {busiest}:"
        yield f"  its {_limit(part)}"
    trainers = [owner.device for owner in plan.owners]
    slowest = max(trainers, key=lambda name: predicted.devices[name].epoch_seconds)
    parts = predicted.devices[slowest].epoch_parts
    exchange = parts.get("exchange", 0.0)
    if exchange > parts.get("compute", 0.0):
        yield f"an epoch waits for the exchange of gradients, {_seconds(exchange)}"
    elif parts:
        yield f"an epoch waits for {slowest}: its training, {_seconds(parts['compute'])}"


def _limit(parts: Mapping[str, float]) -> str:
    """What a device is longest busy with in the fill: either way of its link, or its processor."""
    compute, handling = parts.get("compute", 0.0), parts.get("handling", 0.0)
    way = max(("sending", "receiving"), key=lambda name: parts.get(name, 0.0))
    if parts.get(way, 0.0) > compute + handling:
        return f"link, {way} for {_seconds(parts[way])}"
    return f"processor, computing for {_seconds(compute)}, handling data for {_seconds(handling)}"


# What else there is.


def _alternatives(predicted: Prediction, alternatives: tuple[Alternative, ...]) -> Table:
    table = Table(title="the same work placed otherwise", box=None, pad_edge=False)
    for column, right in (("", False), ("fill", True), ("an epoch", True), ("total", True)):
        table.add_column(column, justify="right" if right else "left")
    table.add_column("against this plan", justify="right")
    for each in alternatives:
        other = each.plan.predicted if each.plan else None
        if other is None:
            table.add_row(each.name, "-", "-", "-", "does not fit")
            continue
        times = (other.fill_seconds, other.epoch_seconds, other.total_seconds)
        ratio = other.total_seconds / predicted.total_seconds if predicted.total_seconds else 1.0
        table.add_row(each.name, *map(_seconds, times), f"{ratio:.2f} x as long")
    mine = (predicted.fill_seconds, predicted.epoch_seconds, predicted.total_seconds)
    table.add_row("this plan", *map(_seconds, mine), "")
    return table


def proof(predicted: Prediction) -> str:
    """What is known of plans that are better."""
    total, bound = predicted.total_seconds, predicted.bound_seconds
    if not bound:
        return "how much better another plan could be is not known"
    if total <= bound * (1 + PROVEN):
        return "proven: of the plans that were looked for, none is faster"
    return (
        f"proven: no plan that was looked for is more than {100 * (1 - bound / total):.1f} % faster"
    )


def _simulated(predicted: Prediction, simulated: Simulation) -> Table:
    table = Table(title="played, event by event", box=None, pad_edge=False)
    table.add_column("")
    for column in ("predicted", "simulated", "difference"):
        table.add_column(column, justify="right")
    rows = (
        ("fill", predicted.fill_seconds, simulated.fill_seconds),
        ("an epoch", predicted.epoch_seconds, simulated.epoch_seconds),
        ("total", predicted.total_seconds, simulated.total_seconds),
    )
    for name, before, after in rows:
        off = f"{100 * (after / before - 1):+.1f} %" if before else "-"
        table.add_row(name, _seconds(before), _seconds(after), off)
    return table
