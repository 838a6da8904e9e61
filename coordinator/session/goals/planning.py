"""Goals of the plan: it is made, caches say what they hold, shards get owners. Pure."""

import logging
from functools import partial

import numpy as np

from coordinator.samples.shard_assignment import assign_shards
from coordinator.session.members import Member
from coordinator.session.questions import Ask, Todo
from coordinator.session.state import FIRST_SECONDS, Break, State
from coordinator.workload.fill import Dealer
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import InfeasibleError, StoppedError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import DeviceProfile

from .filling import pause_fill

logger = logging.getLogger(__name__)

WORTH = 0.9
"""A better plan is taken if what is left takes at most this part of its time."""


def plan(state: State) -> Todo | None:
    """Makes the plan, or waits for devices that make one possible.

    Raises:
        InfeasibleError: there is none, and none was before.
    """
    if state.plan is not None:
        return None
    members = state.members.planned_with()
    try:
        found = _best(state, members)
    except InfeasibleError as error:
        if state.broken is None:
            raise
        return _wait(state, str(error))
    adopt(state, found)
    return None


def _best(state: State, members: dict[DeviceId, Member]) -> Plan:
    """The plan without those who ask for relief, if there is one."""
    if not members:
        raise InfeasibleError("no device is left")
    working = {device: member for device, member in members.items() if not member.relief}
    if working and len(working) < len(members):
        try:
            return _make(state, working)
        except InfeasibleError as error:
            logger.warning("those who ask for relief must go on: %s", error)
    return _make(state, members)


def _make(state: State, members: dict[DeviceId, Member]) -> Plan:
    known = state.profiles = profiles_now(state, members)
    made = state.job.make_plan(list(state.profiles.values()))
    if absent := set(made.devices) - known.keys():
        raise InfeasibleError(f"the plan needs {', '.join(sorted(absent))}")
    return made


def profiles_now(state: State, members: dict[DeviceId, Member]) -> dict[DeviceId, DeviceProfile]:
    """Completes the devices' measurements by their links and by what this run has found."""
    measured = {device: members[device].profile for device in state.ordered(members)}
    return state.linking.linked(
        {
            device: state.experience.learn(profile)
            for device, profile in measured.items()
            if profile is not None
        }
    )


def adopt(state: State, found: Plan) -> None:
    """Begins with a plan; what each device has to do for it follows from what is lacking."""
    state.plan, state.assigned = found, False
    state.record.plan = found
    state.waiting, state.waits_for = None, ""
    state.filled.clear()
    for device, profile in state.profiles.items():
        state.record.devices[device].profile = profile
        state.experience.assume(profile)
    state.dealer = Dealer(state.job, found, state.profiles, state.experience.served)


def _wait(state: State, why: str) -> Todo:
    """Waits, and says so once for every reason.

    Raises:
        StoppedError: nobody is to be waited for.
    """
    if state.waiting is None:
        state.waiting = state.now
    if state.waits_for != why:
        state.waits_for = why
        absent = sorted(set(state.job.devices) - state.members.here.keys())
        state.note("waiting", reason=why, devices=absent)
    if state.patience_seconds == 0:
        raise StoppedError(state.explain_wait())
    return Todo("waiting")


def open_caches(state: State) -> Todo | None:
    """Asks every device that may own samples which of all distinct samples it has cached."""
    if state.assigned:
        return None
    if not state.job.only_plan and state.job.continuation is None:
        asks = _caches(state)
        if asks:
            return Todo("open_caches", asks)
        held = {
            device: holds
            for device, holds in state.holdings.held().items()
            if device in state.members.here
        }
        if held and state.plan is not None:
            state.plan = assign_shards(state.catalogue, state.plan, held)
            state.record.plan = state.plan
    state.assigned = True
    state.note("plan_made", term=state.term)
    return None


def _caches(state: State) -> dict[DeviceId, Ask]:
    return {
        device: Ask(kind=m.OpenCache, make=partial(cache_request, state), of_plan=False)
        for device, member in state.members.planned_with().items()
        if member.profile is not None and member.profile.trainer and not member.cache_open
    }


def cache_request(state: State) -> m.OpenCache:
    """Asks for everything that the session's samples may have cached."""
    job = state.job
    streams = {stream: job.manifest.layers_of(stream) for stream in job.manifest.streams}
    return m.OpenCache(
        backbone_digest=job.manifest.backbone_digest,
        dtype=job.cache_dtype,
        hidden_size=job.manifest.hidden_size,
        quota_bytes=job.cache_quota_bytes,
        encrypted=job.encrypt_cache,
        layers={
            stream: tuple(layer for layer in job.config.layers if layer in members)
            for stream, members in streams.items()
        },
        keys=state.catalogue.keys,
        trains=state.trains,
    )


def end_plan(state: State, reason: str, device: str = "") -> None:
    """Ends the plan: a new term begins, and everything that was asked for in the old one is void.

    What is cached and learnt stays.
    """
    if state.broken is None:
        state.broken = Break(reason=reason, device=device, since=state.now)
    pause_fill(state)
    state.term += 1
    state.part_began = None
    state.target, state.portion = state.saved.step, None
    state.portion_seconds = FIRST_SECONDS
    state.awaited.clear()
    state.suspicions.clear()
    state.plan, state.fill, state.dealer, state.generation = None, None, None, None
    state.assigned = False
    state.questions.end_term()
    for member in state.members.here.values():
        member.end_term()
    for name in state.ordered(state.members.here):
        state.tell(name, m.BeginTerm())
    state.note("term_began", term=state.term, reason=reason, device=device)


def consider(state: State) -> None:
    """Takes a better plan where devices have joined since, if it pays.

    What is compared is the time for what is left, moves of samples not counted in; where all
    that is left is training, see :mod:`.between_epochs`.
    """
    old = state.plan
    left = state.job.options.epochs - state.epoch + 1
    if not left or old is None or state.job.only_plan or state.job.continuation is not None:
        return
    new = [
        device
        for device, member in state.members.planned_with().items()
        if device not in state.profiles and not member.relief
    ]
    if not new:
        return
    before = state.profiles
    try:
        found = _best(state, state.members.planned_with())
    except InfeasibleError:
        state.profiles = before
        return
    pays = (
        old.predicted is None
        or found.predicted is None
        or _seconds(state, found, left) <= WORTH * _seconds(state, old, left)
    )
    if not pays:
        # Measured and found not to help now: not asked again until somebody else joins.
        state.profiles = {**before, **{device: state.profiles[device] for device in new}}
        return
    end_plan(state, f"{', '.join(new)} joined", new[0])
    adopt(state, found)


def _seconds(state: State, plan: Plan, epochs_left: int) -> float:
    """Predicted seconds for what is left."""
    if plan.predicted is None:
        return 0.0
    held = list(state.holdings.held().values())
    missing = 1.0 - float(np.logical_or.reduce(held).mean()) if held else 1.0
    return missing * plan.predicted.fill_seconds + epochs_left * plan.predicted.epoch_seconds
