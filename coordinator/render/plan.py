"""Shows a plan: the devices' parts, where the time goes, what limits it, what else there is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from coordinator.planner.cost.memory import MEMORY_USE
from coordinator.planner.problem.calibrate import source_of
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan, Prediction
from edge_runtime.contract.profile import DeviceProfile

from .console import cell, say, table_of

if TYPE_CHECKING:
    from coordinator.api.plan import PlanResult
    from coordinator.planner.baselines import Alternative
    from coordinator.planner.simulation.simulate import Simulation

BAR = 24
"""Letters of the longest bar."""

UNLIMITED_BYTES = 1 << 50
"""Memory or storage that nobody has: it stands for no limit."""

WORTH_SAYING = 0.05
"""Part of an epoch."""

PROVEN = 1e-4
"""Relative distance to the bound within which a plan is called the best."""


def show_plan(result: PlanResult, console: Console | None = None) -> None:
    """Prints tables, a drawing of the pipeline, and what limits it."""
    console = console or Console()
    plan, predicted = result.plan, result.plan.predicted
    assert predicted is not None, "the planner predicts"
    profiles = {profile.device: profile for profile in result.problem.profiles}
    console.print(_devices(plan, predicted, profiles))
    say(console, "")
    for line in _pipeline(result, predicted):
        say(console, line)
    say(console, "")
    console.print(_times(plan, predicted))
    say(console, "")
    for line in _limits(plan, predicted, result.problem.epochs):
        say(console, line)
    say(console, _certainty(result))
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


def _devices(plan: Plan, predicted: Prediction, profiles: dict[DeviceId, DeviceProfile]) -> Table:
    columns = ("device", "blocks", "share", "shards", "memory", "cache", "network")
    table = table_of("who does what", *columns, devices=True)
    for device in plan.devices:
        blocks = share = cache = "-"
        if stage := plan.stage_of(device):
            last = stage.last - 1
            blocks = f"{stage.first}..{last}" if last > stage.first else f"{last}"
            part = sum(member.share for member in stage.devices if member.device == device)
            share = f"{100 * part:.0f} %"
        needs, profile = predicted.devices[device], profiles[device]
        if needs.storage_bytes:
            cache = _of_limit(needs.storage_bytes, profile.storage_bytes)
        table.add_row(
            *(cell(device), blocks, share, str(len(plan.shards_of(device)) or "-")),
            *(_of_limit(needs.memory_bytes, MEMORY_USE * profile.memory_bytes), cache),
            f"{_size(needs.sent_bytes)} out\n{_size(needs.received_bytes)} in",
        )
    return table


def _of_limit(needed: float, limit: float) -> str:
    return f"{_size(needed)}\nof {_size(limit)}" if limit < UNLIMITED_BYTES else _size(needed)


def _size(count: float) -> str:
    """Three digits or so: 12.3 kB, 1234 MB."""
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5:
            return f"{_number(count, 99.5)} {unit}"
    return f"{_number(count / 1000, 99.5)} TB"


def _number(value: float, whole_from: float = 99.95) -> str:
    return f"{value:.0f}" if value >= whole_from else f"{value:.3g}"


def _seconds(value: float) -> str:
    return f"{_number(value)} s"


def _pipeline(result: PlanResult, predicted: Prediction) -> Iterator[str]:
    """Draws stage below stage, each device with a bar of the time it is busy."""
    plan, devices = result.plan, predicted.devices
    longest = max((each.fill_seconds for each in devices.values()), default=0.0)
    width = max(map(len, plan.devices))

    def row(device: DeviceId, part: float, bar: float, said: str) -> str:
        drawn = "█" * max(1, round(BAR * bar)) if bar > 0 else ""
        return f"  ┃  {device:<{width}} {100 * part:3.0f} %  {drawn:<{BAR}} {said}"

    yield "tokens"
    for stage in plan.stages:
        names = [block.name for block in result.manifest.blocks[stage.first : stage.last]]
        if stage.first:
            yield f"  │  {_size(float(result.problem.carried_bytes[stage.first]))} a sample"
        yield f"  ▼  {names[0]}" + (f" to {names[-1]}" if len(names) > 1 else "")
        for member in stage.devices:
            busy = devices[member.device].fill_seconds
            yield row(member.device, member.share, busy / (longest or 1.0), _seconds(busy))
    yield "  │  every hidden state that the adapter reads, to the owner of its sample"
    yield "  ▼  caches, then adapter epochs"
    most = max(len(owner.shards) for owner in plan.owners)
    for owner in plan.owners:
        shards, epoch = len(owner.shards), _seconds(devices[owner.device].epoch_seconds)
        yield row(owner.device, shards / plan.num_shards, shards / most, f"{epoch} an epoch")


def _times(plan: Plan, predicted: Prediction) -> Table:
    columns = ("compute", "handling", "sending", "receiving", "training", "exchange")
    title = "busy, in seconds: once with the fill; with each epoch"
    table = table_of(title, "device", *columns, devices=True)
    for device in plan.devices:
        part = predicted.devices[device]
        seconds = [part.fill_parts.get(name) for name in columns[:4]]
        seconds += [part.epoch_parts.get(name) for name in ("compute", "exchange")]
        table.add_row(cell(device), *(_number(each) if each else "-" for each in seconds))
    return table


def _limits(plan: Plan, predicted: Prediction, epochs: int) -> Iterator[str]:
    """Names the predicted times, and which device's what sets each of them."""
    fill, epoch, total = predicted.fill_seconds, predicted.epoch_seconds, predicted.total_seconds
    yield (
        f"predicted: fill {_seconds(fill)} + {epochs} epochs of {_seconds(epoch)} "
        f"= {_seconds(total)}; micro-batches of {plan.micro_batch_size}"
    )
    devices = predicted.devices
    bottleneck = max(devices, key=lambda name: devices[name].fill_seconds)
    if parts := devices[bottleneck].fill_parts:
        yield f"the fill ({100 * fill / (total or 1.0):.0f} % of the time) waits for {bottleneck}:"
        compute, handling = parts.get("compute", 0.0), parts.get("handling", 0.0)
        way = max(("sending", "receiving"), key=lambda name: parts.get(name, 0.0))
        if parts.get(way, 0.0) > compute + handling:
            yield f"  its link, {way} for {_seconds(parts[way])}"
        else:
            busy = f"computing for {_seconds(compute)}, handling data for {_seconds(handling)}"
            yield f"  its processor, {busy}"
    slowest = max(plan.owners, key=lambda owner: devices[owner.device].epoch_seconds).device
    parts = devices[slowest].epoch_parts
    exchange = parts.get("exchange", 0.0)
    if exchange > parts.get("compute", 0.0):
        yield f"an epoch waits for the exchange of gradients, {_seconds(exchange)}"
    elif parts:
        yield f"an epoch waits for {slowest}: its training, {_seconds(parts['compute'])}"
    if (saving := parts.get("saving", 0.0)) > WORTH_SAYING * epoch:
        yield f"and for the state that is sent to be saved, {_seconds(saving)}"


def _certainty(result: PlanResult) -> str:
    """Says how far the predicted times may be off, and what makes them surer."""
    within = f"predicted times hold within about {result.uncertainty:.0%}"
    if any(source_of(profile) in ("brief", "estimated") for profile in result.profiles):
        return f"{within}: devices measured themselves briefly; --measure makes it surer"
    return within


def _three_times(of: Prediction | Simulation) -> tuple[float, float, float]:
    return of.fill_seconds, of.epoch_seconds, of.total_seconds


def _alternatives(predicted: Prediction, alternatives: tuple[Alternative, ...]) -> Table:
    columns = ("fill", "an epoch", "total", "against this plan")
    table = table_of("the same work placed otherwise", "", *columns)
    for each in alternatives:
        other = each.plan.predicted if each.plan else None
        if other is None:
            table.add_row(each.name, "-", "-", "-", "does not fit")
            continue
        ratio = other.total_seconds / predicted.total_seconds if predicted.total_seconds else 1.0
        table.add_row(each.name, *map(_seconds, _three_times(other)), f"{ratio:.2f} x as long")
    table.add_row("this plan", *map(_seconds, _three_times(predicted)), "")
    return table


def proof(predicted: Prediction) -> str:
    """Says what is known of plans that are better."""
    total, bound = predicted.total_seconds, predicted.bound_seconds
    if not bound:
        return "how much better another plan could be is not known"
    if total <= bound * (1 + PROVEN):
        return "proven: of the plans that were looked for, none is faster"
    return (
        f"proven: no plan that was looked for is more than {100 * (1 - bound / total):.1f} % faster"
    )


def _simulated(predicted: Prediction, simulated: Simulation) -> Table:
    table = table_of("played, event by event", "", "predicted", "simulated", "difference")
    times = zip(_three_times(predicted), _three_times(simulated), strict=True)
    for name, (before, after) in zip(("fill", "an epoch", "total"), times, strict=True):
        off = f"{100 * (after / before - 1):+.1f} %" if before else "-"
        table.add_row(name, _seconds(before), _seconds(after), off)
    return table
