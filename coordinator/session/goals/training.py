"""Goals of training: adapters made and equal, steps applied, states saved, outputs known. Pure.

An epoch is trained in parts of about :data:`PART_SECONDS`; after each the coordinator gets the
state, so that no more than that is lost when it ends, or when all trainers do.
"""

import math
from functools import partial

import numpy as np

from coordinator.planner.cost.epoch import PART_SECONDS
from coordinator.protocol.record import EpochRecord
from coordinator.samples.samples import SampleTable
from coordinator.session.members import Replica
from coordinator.session.questions import Ask, Todo
from coordinator.session.state import State
from edge_runtime.contract import messages as m
from edge_runtime.contract.checks import Array
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan

from .portions import choose_lines, choose_steps, provide


def set_up(state: State) -> Todo | None:
    """Has every owner make the adapter, or keep the one that it has."""
    here = state.members.here
    ask = Ask(
        kind=m.SetUpTraining,
        make=partial(adapter_request, state),
        key=state.lineage,
        changes_stage=state.job.total_steps > 0,  # the caches then stand for the backbone
    )
    asks = {device: ask for device in state.owners if here[device].replica is None}
    return Todo("setting up", asks) if asks else None


def adapter_request(state: State) -> m.SetUpTraining:
    """Has an owner make the adapter from the newest state that is saved."""
    job, saved = state.job, state.saved
    manifest, chosen = job.manifest, state.setting or job
    head = manifest.head.path if manifest.head and job.config.generative else ""
    pruned = job.config.initialization == "pruned" and not saved.data
    initial = manifest.adapter_init if pruned else ""
    return m.SetUpTraining(
        config=chosen.config,
        options=chosen.options,
        total_steps=job.total_steps,
        state=np.frombuffer(saved.data, np.uint8),
        run=state.lineage,
        sums=saved.sums,
        adapter_graph=job.adapter_file,
        head=manifest.file(head) if head else None,
        adapter_init=manifest.file(initial) if initial else None,
    )


def synchronize(state: State) -> Todo | None:
    """Has every trainer take over the newest state that any of them has, or that is saved.

    Once they are a group they stay equal, but for who is the first to say what is done.
    """
    here = state.members.here
    if not state.job.total_steps or all(here[device].in_group for device in state.owners):
        return None
    replicas = {device: _replica(state, device) for device in state.owners}
    newest = max(state.saved.step, *(replica.step for replica in replicas.values()))
    behind = [device for device, replica in replicas.items() if replica.step < newest]
    if state.saved.step < newest:  # even if all have it: this group may break while it forms
        donor = next(device for device, replica in replicas.items() if replica.step == newest)
        return Todo("setting up", {donor: _send_state(newest)})
    if not behind:
        return None
    saved = state.saved
    take = partial(
        m.TakeState, data=np.frombuffer(saved.data, np.uint8), step=saved.step, sums=saved.sums
    )
    ask = Ask(kind=m.TakeState, make=take, key=saved.step)
    return Todo("setting up", dict.fromkeys(behind, ask))


def _send_state(step: int) -> Ask:
    return Ask(kind=m.SendState, make=m.SendState, key=step)


def _replica(state: State, device: DeviceId) -> Replica:
    replica = state.members.here[device].replica
    if replica is None:
        raise RuntimeError(f"{device} has no adapter yet")
    return replica


def next_part(state: State) -> Todo | None:
    """Chooses the steps up to the next target, and has their samples readable."""
    if not state.trains:
        return None
    steps = state.job.steps_per_epoch
    while True:
        portion = state.portion
        if portion is None or state.target <= state.saved.step:
            wanted = min(_part(state), steps - state.saved.step % steps)
            state.target = state.saved.step + choose_steps(state, wanted)
            portion = state.portion
        if portion is None:
            return None  # the plan has ended
        if (todo := provide(state, portion)) is not None or state.portion is not None:
            return todo


def count_tokens(state: State) -> Todo | None:
    """Has every trainer count how likely tokens are in its lines, before the first update.

    After it, the sum over all of them is in the state of each.
    """
    job, here = state.job, state.members.here
    samples = job.config.generative and job.options.loss == "candidates"
    if not samples or not state.trains or state.saved.step or state.token_counts is not None:
        return None
    parts = {device: here[device].token_counts for device in state.owners}
    if lacking := [device for device, part in parts.items() if part is None]:
        ask = Ask(kind=m.CountTokens, make=m.CountTokens)
        begin_epoch(state, epoch=1)
        return Todo("training", dict.fromkeys(lacking, ask))
    known = [part for part in parts.values() if part is not None]
    state.token_counts = np.sum(np.stack(known), axis=0)
    return None


def train(state: State) -> Todo | None:
    """Has the group form, and apply the steps up to the next target."""
    if not state.trains:
        return None
    steps = state.job.steps_per_epoch
    epoch, first = state.saved.step // steps + 1, (state.saved.step // steps) * steps
    begin_epoch(state, epoch)
    state.training_begun = True
    replicas = {device: _replica(state, device) for device in state.owners}
    late = [device for device, replica in replicas.items() if replica.step < state.target]
    if not late:
        return None
    here = state.members.here
    counts = None if state.saved.step else state.token_counts
    form = partial(m.FormGroup, trainers=state.owners, run=group_name(state), token_counts=counts)
    asks = {
        device: Ask(kind=m.FormGroup, make=form)
        for device in state.owners
        if not here[device].in_group
    }
    if not asks:
        if state.lineage != group_name(state):
            state.lineage = group_name(state)
            state.note("group_formed", run=state.lineage, trainers=list(state.owners))
        if state.part_began is None:
            state.part_began = state.now, state.saved.step
        for device in late:
            step = replicas[device].step - first
            left = state.target - replicas[device].step
            make = partial(m.TrainEpoch, epoch=epoch, first_step=step, num_steps=left)
            asks[device] = Ask(kind=m.TrainEpoch, make=make, key=(epoch, step, left))
    return Todo("training", asks)


def group_name(state: State) -> str:
    """Names the group of this term, and thereby the replicas that it trains."""
    return f"{state.job.session}/{state.term}"


def begin_epoch(state: State, epoch: int) -> None:
    """Begins the record of an epoch, if it is not in work already."""
    epochs = state.record.epochs
    if not epochs or epochs[-1].epoch != epoch:
        begun, sums = state.saved.sums, m.EpochSums(epoch=epoch)
        resumed = begun.samples if begun.epoch == epoch else 0
        epochs.append(
            EpochRecord(epoch=epoch, began=state.now, sums=sums, resumed=resumed, term=state.term)
        )
        state.part_began = None


def _part(state: State) -> int:
    """Steps of the next part, by the pace of the last one or the plan's."""
    seconds = state.step_seconds
    if seconds is None:
        predicted = state.plan.predicted if state.plan else None
        seconds = predicted.epoch_seconds / state.job.steps_per_epoch if predicted else None
    if not seconds:
        return state.job.steps_per_epoch
    return max(1, round(PART_SECONDS / seconds))


def save(state: State) -> Todo | None:
    """Has the trainer with the fastest link send the state once all have reached the target."""
    if state.saved.step >= state.target:
        return None

    def sends(device: DeviceId) -> float:
        profile = state.profiles.get(device)
        link = profile.link if profile is not None else None
        return math.inf if link is None else link.up_bits_per_second

    return Todo("training", {max(state.owners, key=sends): _send_state(state.target)})


def evaluate(state: State) -> Todo | None:
    """Has every owner of evaluation samples compute the outputs that are not known yet.

    Those first whose states are there, then in portions those that disks have no room for.
    """
    table, plan = state.job.tables.get("eval"), state.plan
    if table is None or plan is None:
        return None
    unknown = np.asarray(np.isnan(state.expected_outputs()).any(axis=1))
    while unknown.any():
        if state.fill is None and (asks := _evaluations(state, table, plan, unknown)):
            return Todo("evaluating", asks)
        portion = state.portion
        if portion is None or portion.which != "eval" or not unknown[portion.lines].any():
            choose_lines(state, np.flatnonzero(unknown))
            portion = state.portion
        if portion is None:
            return None  # the plan has ended
        if (todo := provide(state, portion)) is not None:
            return todo
    state.portion = None
    return None


def _evaluations(
    state: State, table: SampleTable, plan: Plan, unknown: Array
) -> dict[DeviceId, Ask]:
    readable, distinct = state.holdings.readable(), state.catalogue.distinct["eval"]
    asks = {}
    for device in state.owners:
        owned = table.owned_by(plan, device)
        lines = owned[unknown[owned] & readable[device][distinct[owned]]]
        if len(lines):
            indices = lines.astype(np.int32) if len(lines) < len(owned) else None
            make = partial(m.Evaluate, indices=indices)
            asks[device] = Ask(kind=m.Evaluate, make=make, key=lines.tobytes())
    return asks


def evaluate_before(state: State) -> Todo | None:
    """Computes outputs before training, if they are wanted."""
    job, record = state.job, state.record
    begun = state.saved.step > job.steps_done
    if not job.evaluate_before or record.outputs_before is not None or begun:
        return None
    if (todo := evaluate(state)) is not None or state.plan is None:
        return todo
    record.outputs_before, state.outputs = state.outputs, None
    return None


def evaluate_after(state: State) -> Todo | None:
    """Computes outputs after training, where they are not computed after each epoch."""
    record, job = state.record, state.job
    if not job.options.epochs or job.evaluates_epochs or record.outputs_after is not None:
        return None
    if (todo := evaluate(state)) is not None or state.plan is None:
        return todo
    record.outputs_after, state.outputs = state.outputs, None
    return None
