"""Devices that go, fail, lie, cannot reach each other, or want to rest. Pure.

None of that ends a session as long as others can do the work: what is said here changes who takes
part, and ends the plan, if that needs whom it lost. What would happen again to everybody ends it::

    lost                          it left; it may come back
    lost, out of memory           the same; before there was a plan InfeasibleError
    fails, resumable              it is asked anew; the third time it is quarantined
    fails, not resumable          as if it had sent what is wrong; when a second device says so
                                  too UnresumableError: the reason says what to change
    fails, internal               quarantined; DeviceFailedError, if nobody else is left
    sends what is wrong           asked anew; the second time it is quarantined
    accused by another            the same, but each accuser counts once; who accuses again fails;
                                  in training the others have a moment to say so too
    asks for relief               it stays, but its work goes to others where they can do it
    cannot reach another          what they send each other is forwarded, until both have joined
                                  anew, or one of them at another address
"""

from coordinator.protocol.events import Lost
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import (
    DeviceFailedError,
    InfeasibleError,
    StoppedError,
    UnresumableError,
)
from edge_runtime.contract.ids import DeviceId

from .goals.planning import end_plan
from .state import Break, State, Suspicion

WITNESS_SECONDS = 0.5
"""For other trainers to look at what one of them found wrong."""


def lose(state: State, event: Lost) -> bool:
    """A device is gone.

    Raises:
        InfeasibleError: it ran out of memory before there was a plan.
    """
    device, reason = event.device, event.reason
    if device not in state.members.here:
        return False
    if event.out_of_memory:
        reason += "; give it more memory, or leave it out"
        if state.record.plan is None:
            raise InfeasibleError(f"{device}: {reason}")
    state.members.leave(device, reason, ended=event.ended)
    _gone(state, device, "device_lost", reason, f"{device} was lost: {reason}")
    return True


def fail(state: State, device: DeviceId, failed: m.Failed) -> bool:
    """A device could not do what it was asked.

    Raises:
        UnresumableError: it would happen again.
        DeviceFailedError: a bug, and nobody else is here.
    """
    reason, alone = failed.reason, state.alone
    said = f"{device}: {reason}"
    if failed.internal:
        if alone:
            raise DeviceFailedError(said)
        quarantine(state, device, reason)
        return True
    if not failed.resumable:
        return _despair(state, device, reason)
    if state.members.strike(device):
        if alone:
            raise StoppedError(said)
        quarantine(state, device, reason)
        return True
    state.note("device_failed", device=device, reason=reason)
    _start_anew(state, device, said)
    return True


def _despair(state: State, device: DeviceId, reason: str) -> bool:
    """A device says that it would fail again: a wrong number is anybody's, or its own alone.

    Raises:
        UnresumableError: another device has said so too, or there is none.
    """
    state.hopeless.add(device)
    if len(state.hopeless) > 1 or state.alone:
        raise UnresumableError(f"{device}: {reason}")
    return blame(state, device, reason)


def accuse(state: State, device: DeviceId, accuser: DeviceId, reason: str) -> bool:
    """A device sent what is wrong, by the word of another.

    Who accuses the same one again, and nobody else does, is as likely to be the one that is
    broken: that counts as its own failure. With two devices alone the accuser is believed, since
    one of them has to go: a broken device sends garbage, it does not make up what others sent, and
    one that lies on purpose could spoil the adapter by its own gradients anyway.
    """
    if device not in state.members.here:
        return False
    said = f"{accuser} says: {reason}"
    if (suspicion := state.suspicions.get(device)) is not None and suspicion.accuser == accuser:
        return False
    again = state.members.has_accused(device, accuser)
    if not again and suspicion is None and _has_witnesses(state, device):
        if not state.members.accuse(device, accuser):
            state.suspicions[device] = Suspicion(accuser=accuser, reason=said, since=state.now)
            state.note("device_blamed", device=device, reason=said)
            return False
        return _count(state, device, said, too_many=True)
    if again and len(state.members.here) > 2:
        return fail(state, accuser, m.Failed(reason=f"alone says of {device} again: {reason}"))
    return _count(state, device, said, state.members.accuse(device, accuser) or again)


def _has_witnesses(state: State, device: DeviceId) -> bool:
    """True if others than the accuser get of what a device sends in a step.

    They need a moment to look at it: were a term begun at once, they would drop what is of the
    one before, and the first to see it would be the only one to say so, time and again.
    """
    return state.training_begun and device in state.owners and len(state.owners) > 2


def hear_witnesses(state: State) -> bool:
    """Ends the wait for others to say what one has said of a device; True if anything changed."""
    for device, suspicion in list(state.suspicions.items()):
        if state.now - suspicion.since >= WITNESS_SECONDS:
            del state.suspicions[device]
            if device in state.members.here:
                _start_anew(state, device, f"{device}: {suspicion.reason}")
                return True
    return False


def blame(state: State, device: DeviceId, reason: str) -> bool:
    """A device sent what is wrong, as this side sees it."""
    if device not in state.members.here:
        return False
    return _count(state, device, reason, state.members.blame(device))


def _count(state: State, device: DeviceId, reason: str, too_many: bool) -> bool:
    state.note("device_blamed", device=device, reason=reason)
    if too_many:
        quarantine(state, device, reason)
    else:
        _start_anew(state, device, f"{device}: {reason}")
    return True


def quarantine(state: State, device: DeviceId, reason: str) -> None:
    """Goes on without a device, for good."""
    state.tell(device, m.Shutdown())
    state.members.quarantine(device, reason)
    _gone(state, device, "device_quarantined", reason, f"{device} was left out: {reason}")


def separate(state: State, device: DeviceId, peer: DeviceId, reason: str) -> bool:
    """Two devices cannot reach each other: what they send is forwarded from now on.

    That ends the plan only if what is left needs both: one that has nothing to do any more may
    have gone to sleep, and what is trained without it goes on.
    """
    if peer not in state.members.here:
        return False
    pair = frozenset((device, peer))
    needed = state.plan is None or (_matters(state, device) and _matters(state, peer))
    if pair in state.relayed:
        if not needed:
            return False
        return fail(state, device, m.Failed(reason=f"cannot reach {peer}: {reason}"))
    state.relayed.add(pair)
    state.linking.forget_pair(device, peer)
    state.note("relayed", devices=sorted(pair), reason=reason)
    if needed:
        end_plan(state, f"{device} cannot reach {peer}: {reason}")
    return True


def relieve(state: State, device: DeviceId, reason: str) -> bool:
    """A device asks for its work to be taken away, or can work again."""
    member = state.members.here[device]
    if bool(member.relief) == bool(reason):
        return False
    member.relief = reason
    state.note("relief", device=device, reason=reason)
    # With nobody who could take its work, the end of a plan would only cost what is under way.
    others_work = any(not each.relief for each in state.members.here.values())
    if reason and others_work and _matters(state, device):
        end_plan(state, f"{device} asks for relief: {reason}", device)
    return True


def _start_anew(state: State, device: DeviceId, why: str) -> None:
    """Asks a device anew for all that it may have lost."""
    state.members.here[device].fail()
    state.questions.forget(device)
    state.holdings.lost(device)
    state.settled = False
    if _matters(state, device):
        end_plan(state, why, device)


def _gone(state: State, device: DeviceId, event: str, reason: str, why: str) -> None:
    state.note(event, device=device, reason=reason)
    state.questions.forget(device)
    state.questions.forget_probes(device)
    state.settled = False
    matters = _matters(state, device)
    state.holdings.lost(device)
    if matters:
        end_plan(state, why, device)
    elif state.plan is None and state.broken is None:
        state.broken = Break(reason=why, device=device, since=state.now)


def _matters(state: State, device: DeviceId) -> bool:
    """True if the plan in work needs the device for what is left."""
    plan, fill = state.plan, state.fill
    if plan is None or state.collecting:
        return False
    if fill is not None and any(move.source == device for move in fill.work.moves):
        return True
    if device not in plan.devices:
        return False
    if state.job.continuation is not None or device in state.owners or not state.assigned:
        return True
    # Once every owner holds its samples on its disk, the stages are not needed any more.
    if not state.training_begun and not state.filled >= state.job.tables.keys():
        return True
    held = state.holdings.held()
    return any(
        lacks.any()
        for which in state.job.tables
        for lacks in state.catalogue.lacking(plan, which, held).values()
    )
