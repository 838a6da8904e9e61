"""Keeps what devices say as facts: answers to questions, and what they tell by themselves. Pure."""

import collections
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from coordinator.protocol.actions import SaveCheckpoint
from coordinator.protocol.record import Recovery
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import (
    DeviceFailedError,
    InfeasibleError,
)
from edge_runtime.contract.ids import DeviceId

from . import departures, seen
from .goals.between_epochs import reconsider
from .goals.epoch_ends import awaits_evaluation
from .goals.filling import shards_of
from .goals.planning import end_plan
from .goals.portions import to_hold
from .goals.training import begin_epoch
from .goals.tuning import keep_settings
from .members import Replica
from .questions import Ask
from .state import SavedState, State
from .value_checks import (
    check_duration,
    check_link,
    check_profile,
    check_state,
    check_token_counts,
    not_finite,
    step_of,
)

logger = logging.getLogger(__name__)


def answer(state: State, device: DeviceId, asked: Ask, message: m.Message) -> None:
    """Keeps an answer to a question that is open.

    Raises:
        DeviceFailedError: it says what cannot be.
        UnresumableError: it holds what is not finite.
        InfeasibleError: the device's cache is too small for its samples.
    """
    _KEEP[type(message)](state, device, asked, message)
    state.record.observe(device, message)


def _keep_profile(state: State, device: DeviceId, asked: Ask, message: m.ProfileDone) -> None:
    roles = state.record.devices[device].roles
    check_profile(device, message.profile, state.job.manifest, roles)
    state.members.here[device].profile = message.profile
    if asked.key and state.budgets is not None:
        state.budgets.pop(device, None)


def _keep_peers(state: State, device: DeviceId, asked: Ask, message: m.PeersReady) -> None:
    """Keeps whom a device knows; pairs that cannot reach each other are forwarded."""
    told = {peer.device: peer for peer in asked.key} if isinstance(asked.key, frozenset) else {}
    state.members.here[device].peers = frozenset(told.values())
    for peer in message.unreached:
        if peer not in told or peer not in state.members.here:
            continue
        if told[peer].relayed:
            raise DeviceFailedError(
                f"{device} cannot reach {peer} at {told[peer].address}, not even "
                "when what they send is forwarded; check the firewall, or --listen there"
            )
        state.relayed.add(frozenset((device, peer)))
        state.linking.forget_pair(device, peer)
        state.note("relayed", devices=sorted((device, peer)), reason="cannot be reached")


def _keep_link(state: State, device: DeviceId, _: Ask, message: m.LinkMeasured) -> None:
    check_link(device, message)
    if message.peer in state.members.here:
        state.linking.keep(device, message)


def _keep_usage(state: State, device: DeviceId, asked: Ask, _: m.Usage) -> None:
    state.members.here[device].collected |= asked.key == "final"
    state.record.devices[device].compared = state.experience.compare(device)


def _keep_stage(state: State, device: DeviceId, asked: Ask, message: m.StageReady) -> None:
    blocks = state.members.here[device].stage = (message.first, message.last)
    if blocks != asked.key:
        raise DeviceFailedError(f"{device}: loaded other blocks than asked")


def _keep_cache(state: State, device: DeviceId, _: Ask, message: m.CacheStatus) -> None:
    if message.held.shape != (len(state.catalogue.keys),):
        raise DeviceFailedError(f"{device}: answered for other samples than asked")
    state.holdings.opened(device, message.held)
    member = state.members.here[device]
    member.cache_open, member.memory_bytes = True, message.memory_bytes


def _keep_samples(state: State, device: DeviceId, _: Ask, message: m.SamplesReady) -> None:
    which, missing = message.which, message.missing
    if not missing.size:
        state.members.here[device].owned[which] = shards_of(state.plan, device)
        return
    lines = state.catalogue.distinct[which]
    if missing.dtype.kind not in "iu" or missing.min() < 0 or missing.max() >= len(lines):
        raise DeviceFailedError(f"{device}: lacks samples that do not exist")
    table = state.job.tables[which]
    if state.plan is None or not np.isin(missing, table.owned_by(state.plan, device)).all():
        raise DeviceFailedError(f"{device}: lacks samples that are not its own")
    missing = missing[state.holdings.held()[device][lines[missing]]]
    if not missing.size:  # it never had the others: they are lost, or there is no room for them
        state.members.here[device].owned[which] = shards_of(state.plan, device)
        return
    state.holdings.lacks(device, lines[missing])
    state.filled.discard(which)
    state.note("samples_missing", device=device, samples=int(missing.size))
    why = f"{device}: {missing.size} samples did not stay in its cache"
    if state.members.strike(device):
        if len(state.members.here) == 1:
            raise InfeasibleError(why)
        departures.quarantine(state, device, why)
    elif not state.members.here.keys() >= set(state.plan.devices):
        # Whoever computed before may be gone since: nobody needed it any more.
        end_plan(state, why, device)


def _keep_held(state: State, device: DeviceId, asked: Ask, message: m.SamplesHeld) -> None:
    portion = state.portion
    if portion is None or asked.key != portion.number:
        return
    held = to_hold(state, device, portion)
    if message.readable.shape != held.shape:
        raise DeviceFailedError(f"{device}: answered for other samples than asked")
    state.holdings.holds_for_now(device, held[message.readable])
    state.members.here[device].holding = portion.number


def _keep_adapter(state: State, device: DeviceId, _: Ask, message: m.TrainingReady) -> None:
    member = state.members.here[device]
    if message.step > state.job.total_steps:
        raise DeviceFailedError(f"{device}: has more updates behind it than there are")
    member.replica = Replica(step=message.step, sums=message.sums)


def _keep_taken(state: State, device: DeviceId, _: Ask, message: m.StateTaken) -> None:
    if message.step != state.saved.step:
        raise DeviceFailedError(f"{device}: took another state than it was sent")
    state.members.here[device].replica = Replica(step=message.step, sums=state.saved.sums)


def _keep_group(state: State, device: DeviceId, _: Ask, __: m.GroupFormed) -> None:
    state.members.here[device].in_group = True


def _keep_token_counts(state: State, device: DeviceId, _: Ask, message: m.TokenCounts) -> None:
    check_token_counts(device, message.counts, state.job.config.num_outputs)
    state.members.here[device].token_counts = message.counts
    state.last_progress = state.now


def _keep_generation(state: State, device: DeviceId, _: Ask, __: m.GenerationReady) -> None:
    state.members.here[device].generates = True


def _keep_part(state: State, device: DeviceId, _: Ask, message: m.EpochDone) -> None:
    sums = message.sums
    step = step_of(state.job, device, sums)
    check_duration(device, message.seconds)
    if step != state.target:
        raise DeviceFailedError(f"{device}: trained up to another step than it was asked to")
    state.progressed(device)
    progress(state, sums)
    replica = state.members.here[device].replica
    if replica is not None:
        seen.trained(state, device, step - replica.step, message)
    state.members.here[device].replica = Replica(step=step, sums=sums)
    _end_part(state)


def _end_part(state: State) -> None:
    """Checks that all trainers agree, and takes their pace down, once all are at the target."""
    replicas = {device: state.members.here[device].replica for device in state.owners}
    told = {device: each.sums for device, each in replicas.items() if each is not None}
    if len(told) < len(replicas) or any(
        each is None or each.step < state.target for each in replicas.values()
    ):
        return
    votes = collections.Counter(told.values())
    if len(votes) > 1:
        believed = votes.most_common(1)[0][0]  # of two, nobody can tell
        wrong = next(device for device, sums in told.items() if sums != believed)
        departures.blame(state, wrong, "has come to other sums than its group")
        return
    if state.part_began is not None:
        began, first = state.part_began
        if state.target > first:
            state.step_seconds = (state.now - began) / (state.target - first)
        state.part_began = None
    seen.exchanged(state)


def _save(state: State, device: DeviceId, asked: Ask, message: m.TrainerState) -> None:
    """Keeps the state of all trainers; the steps up to it are applied for good."""
    before, steps = state.saved, state.job.steps_per_epoch
    if message.step != asked.key or message.step <= before.step:
        raise DeviceFailedError(f"{device}: sent the state of another step than it was asked for")
    if step_of(state.job, device, message.sums) != message.step:
        raise DeviceFailedError(f"{device}: sent a state with the sums of another step")
    data = message.data.tobytes()
    check_state(device, data, before.data)
    state.saved = SavedState(data=data, step=message.step, sums=message.sums)
    state.outputs = None  # they were another adapter's
    state.record.state = state.saved.data
    epoch = (message.step - 1) // steps + 1
    first = (epoch - 1) * steps
    begin_epoch(state, epoch)
    # More than one epoch, where devices are further than the checkpoint that was gone on from.
    for each in range(before.step // steps + 1, epoch + 1):
        begins = (each - 1) * steps
        state.note(
            "steps_applied",
            epoch=each,
            first=max(0, before.step - begins),
            last=min(steps, message.step - begins),
            samples=message.sums.samples if each == epoch else len(state.job.tables["train"]),
            term=state.term,
        )
    ended = message.step == first + steps
    if ended:
        _end_epoch(state, message.sums)
    state.do(
        SaveCheckpoint(
            epoch=message.step // steps,
            state=state.saved.data,
            step=message.step,
            sums=message.sums,
        )
    )
    state.note("checkpoint", epoch=message.step // steps, step=message.step)
    if ended and not awaits_evaluation(state):
        reconsider(state)


def _end_epoch(state: State, sums: m.EpochSums) -> None:
    epoch = state.record.epochs[-1]
    epoch.sums, epoch.seconds = sums, state.now - epoch.began
    fields = {"epoch": epoch.epoch, "train_loss": epoch.train_loss, "seconds": epoch.seconds}
    if (seconds := seen.predict_rest(state)) is not None:
        fields["remaining_seconds"] = seconds
    state.note("epoch_finished", **fields)


def _keep_outputs(state: State, device: DeviceId, asked: Ask, message: m.Outputs) -> None:
    indices, outputs = message.indices, state.outputs
    lines = np.frombuffer(asked.key, np.int64) if isinstance(asked.key, bytes) else np.zeros(0)
    right = indices.dtype.kind in "iu" and np.array_equal(np.sort(indices), lines)
    if outputs is None or not right or message.outputs.shape[1] != outputs.shape[1]:
        raise DeviceFailedError(f"{device}: sent outputs for other samples than its own")
    if not np.isfinite(message.outputs).all():
        raise not_finite(device, "adapter's output")
    outputs[indices] = message.outputs
    went_on(state)


def stored(state: State, device: DeviceId, message: m.Stored) -> bool:
    """Keeps what an owner has stored, of whatever term; False if nobody asked it to."""
    fill = state.fill
    held_now = fill is not None and fill.for_now and message.number in fill.items
    whole = state.holdings.stored(device, message, held_now=held_now)
    if whole is None:
        return False
    state.computed[whole] = True
    state.progressed(device)
    _keep_room(state, device, message)
    if fill is not None and fill.take(device, message) and not state.training_begun:
        went_on(state)
    return True


def _keep_room(state: State, device: DeviceId, message: m.Stored) -> None:
    """Takes down where an owner has stored something of the fill under way."""
    member, fill = state.members.here.get(device), state.fill
    if member is None or fill is None or message.number not in fill.items:
        return
    kept = message.kept
    if kept is None or (kept == m.ON_DISK).any():
        member.owned.pop(fill.which, None)  # it is to be made durable
    if kept is None or (kept == m.ON_DISK).all():
        return
    portion = state.portion
    if portion is not None and member.holding == portion.number and (kept == m.NOT_KEPT).any():
        raise DeviceFailedError(f"{device}: has no room in memory, other than it said")
    if not member.without_room:
        member.without_room = True
        state.note("cache_full", device=device)


def progress(state: State, sums: m.EpochSums) -> None:
    """Keeps the sums of the epoch in work; all trainers have the same, some of them earlier."""
    epochs = state.record.epochs
    if epochs and sums.epoch == epochs[-1].epoch and sums.steps > epochs[-1].sums.steps:
        epochs[-1].sums = sums
        went_on(state)


def went_on(state: State) -> None:
    """Takes down that work goes on after the end of a plan."""
    broken, state.broken = state.broken, None
    if broken is None:
        return
    recovery = Recovery(
        term=state.term,
        reason=broken.reason,
        device=broken.device,
        seconds=state.now - broken.since,
        computed_again=broken.computed_again,
    )
    state.record.recoveries.append(recovery)
    state.note(
        "went_on",
        term=state.term,
        seconds=round(recovery.seconds, 3),
        computed_again=recovery.computed_again,
    )


_KEEP: dict[type[m.Message], Callable[[State, DeviceId, Ask, Any], None]] = {
    m.ProfileDone: _keep_profile,
    m.PeersReady: _keep_peers,
    m.LinkMeasured: _keep_link,
    m.CacheStatus: _keep_cache,
    m.StageReady: _keep_stage,
    m.SamplesReady: _keep_samples,
    m.SamplesHeld: _keep_held,
    m.TrainingReady: _keep_adapter,
    m.StateTaken: _keep_taken,
    m.TokenCounts: _keep_token_counts,
    m.GroupFormed: _keep_group,
    m.GenerationReady: _keep_generation,
    m.EpochDone: _keep_part,
    m.SettingsTrained: keep_settings,
    m.TrainerState: _save,
    m.Outputs: _keep_outputs,
    m.Usage: _keep_usage,
}
"""What becomes of an answer."""
