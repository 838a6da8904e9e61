"""Goals of the fill: owners hold the samples of a data set, and know them. Pure."""

import dataclasses
from collections.abc import Mapping
from functools import partial

import numpy as np

from coordinator.protocol.actions import SendStage
from coordinator.protocol.record import FillRecord
from coordinator.samples.samples import SampleTable, plan_work
from coordinator.session.questions import Ask, Todo
from coordinator.session.state import State
from coordinator.workload.fill import Fill
from coordinator.workload.work_items import int32_lengths
from edge_runtime.contract import messages as m
from edge_runtime.contract.checks import Array
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan


def fill_first(which: m.SampleSet, state: State) -> Todo | None:
    """The same as :func:`fill` before training; amid it, what it needs next comes first."""
    return None if state.training_begun else fill(which, state)


def fill(which: m.SampleSet, state: State) -> Todo | None:
    """Has samples moved and computed that owners lack, as far as their disks have room."""
    table = state.job.tables.get(which)
    if table is None or which in state.filled or state.plan is None:
        return None
    if state.fill is None or state.fill.which != which:
        lacking = state.catalogue.lacking(state.plan, which, state.holdings.held())
        for device, lacks in lacking.items():
            lacks &= not state.members.here[device].without_room
        begin_fill(state, which, lacking, np.arange(len(table)))
    if (todo := run_fill(state)) is not None:
        return todo
    state.filled.add(which)
    return None


def run_fill(state: State) -> Todo | None:
    """Goes on with the fill under way."""
    current = state.fill
    if current is None:
        return None
    if current.work.computed and (asks := stages(state)):
        return Todo("deploying", asks)
    full = {name for name, member in state.members.here.items() if member.without_room}
    for item, send in current.start(frozenset() if current.for_now else full):
        state.do(dataclasses.replace(send, term=state.term))
        state.holdings.expect(item.number, item.stored_by, computed=item.computed)
    state.record.stored, state.record.to_store = current.stored, current.total
    if not current.done:
        return Todo("filling")
    state.holdings.settle(current.items)
    pause_fill(state)
    return None


def begin_fill(
    state: State,
    which: m.SampleSet,
    lacking: Mapping[DeviceId, Array],
    among: Array,
    *,
    for_now: bool = False,
) -> None:
    """Begins a fill with what owners lack, (K,) bool, of the lines ``among`` which they are."""
    if state.plan is None or state.dealer is None:
        raise RuntimeError("a fill needs a plan")
    held = state.holdings.held()
    work = plan_work(state.catalogue, which, lacking=lacking, held=held, among=among)
    again = int(state.computed[state.catalogue.distinct[which][work.lines]].sum())
    if again and state.broken is not None:
        state.note("computing_again", samples=again)
        state.broken.computed_again += again
    state.fill = Fill(
        *(state.job, state.catalogue, which, work),
        plan=state.plan,
        dealer=state.dealer,
        first_number=state.item_number,
        for_now=for_now,
    )
    state.item_number += len(state.fill.items)
    state.fill_began, state.computed_before = state.now, state.computed.copy()
    if which not in state.record.fills:
        reused = work.distinct - work.computed
        state.record.fills[which] = FillRecord(
            began=state.now, samples=work.distinct, reused=reused, computed=0, tokens=0
        )
        if which == "train":
            state.note("fill_started", samples=work.distinct, to_compute=work.computed)


def pause_fill(state: State) -> None:
    """Books what the fill under way has done so far, as it ends or its plan does."""
    current = state.fill
    if current is None:
        return
    record, lines = state.record.fills[current.which], current.work.lines
    distinct = state.catalogue.distinct[current.which][lines]
    done = lines[(state.computed & ~state.computed_before)[distinct]]
    record.computed += len(done)
    record.tokens += int(state.job.tables[current.which].samples.lengths[done].sum())
    record.seconds += state.now - state.fill_began
    state.fill = None


def stages(state: State) -> dict[DeviceId, Ask]:
    """Has devices load the stage that they have in the plan, where they have not."""
    here, asks = state.members.here, {}
    for stage in state.plan.stages if state.plan else ():
        blocks = (stage.first, stage.last)
        for member in stage.devices:
            if here[member.device].stage != blocks:
                send = partial(SendStage, device=member.device, first=stage.first, last=stage.last)
                ask = Ask(kind=m.LoadStage, make=send, key=blocks, changes_stage=True)
                asks[member.device] = ask
    return asks


def own_first(which: m.SampleSet, state: State) -> Todo | None:
    """The same as :func:`own` before training."""
    return None if state.training_begun else own(which, state)


def own(which: m.SampleSet, state: State) -> Todo | None:
    """Tells every owner its lines. Trainers without any still take part in training."""
    table = state.job.tables.get(which)
    if table is None or state.plan is None:
        return None
    asks = {}
    for owner in state.plan.owners:
        if state.members.here[owner.device].owned.get(which) == owner.shards:
            continue
        lines = table.owned_by(state.plan, owner.device)
        if len(lines) or which == "train":
            make = partial(_own_samples, state, which, table, lines)
            key = (which, owner.shards)
            asks[owner.device] = Ask(kind=m.OwnSamples, make=make, key=key)
    if asks:
        return Todo("commit_cache", asks)
    if which == "train" and not state.fill_told:
        state.fill_told = True
        done = state.record.fills[which]
        fields = {"computed": done.computed, "reused": done.reused, "seconds": done.seconds}
        state.note("fill_finished", **fields)
    return None


def _own_samples(
    state: State, which: m.SampleSet, table: SampleTable, lines: Array
) -> m.OwnSamples:
    samples = table.samples
    return m.OwnSamples(
        which=which,
        total=len(table),
        indices=lines.astype(np.int32),
        keys=samples.keys[lines],
        ranks=table.ranks[lines],
        lengths={stream: each[lines] for stream, each in int32_lengths(samples).items()},
        second_starts=samples.second_starts[lines].astype(np.int32),
        targets=_targets(state, table, lines),
        tokens=_tokens(state, table, lines),
    )


def _targets(state: State, table: SampleTable, lines: Array) -> Array:
    targets, config = table.targets_of(lines), state.job.config
    return config.standardized(targets) if config.task == "regression" else targets


def _tokens(state: State, table: SampleTable, lines: Array) -> Array | None:
    job = state.job
    if not job.copies:
        return None
    return table.samples.tokens_of(job.manifest.output_stream).take(lines).values


def shards_of(plan: Plan | None, device: DeviceId) -> tuple[int, ...]:
    """Shards that the device owns in the plan, if there is one."""
    return plan.shards_of(device) if plan is not None else ()
