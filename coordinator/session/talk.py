"""What is said to devices, and what becomes of what they say. Pure."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from coordinator.protocol.actions import Send
from coordinator.protocol.events import Received
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import DeviceFailedError, UnresumableError
from edge_runtime.contract.ids import DeviceId

from . import departures, facts
from .goals import generating
from .questions import Ask
from .state import State
from .value_checks import step_of

logger = logging.getLogger(__name__)

REJOIN_SECONDS = 5.0
"""Least time between two requests to join again."""

_COUNTED_AS: dict[str, m.Phase] = {
    "profiling": "profile",
    "filling": "fill",
    "setting up": "eval",
    "evaluating": "eval",
    "training": "train",
}


def ask(state: State, device: DeviceId, request: Ask) -> None:
    """Sends a request, unless the device has it already."""
    actions = state.questions.ask(device, request, state.term, state.now)
    if actions and request.changes_stage:
        # Its answer may come too late to count, and the stage be another all the same.
        state.members.here[device].stage = None
    state.do(*actions)


def count_for(state: State, phase: str) -> None:
    """Has devices count their usage for the phase that begins."""
    counted = _COUNTED_AS.get(phase)
    if state.fill is not None and state.fill.which == "eval":
        counted = "eval"
    if counted is None:
        return
    for device, member in state.members.here.items():
        if member.counts != counted:
            member.counts = counted
            begin = partial(m.BeginPhase, phase=counted)
            ask(state, device, Ask(kind=m.BeginPhase, make=begin, key=counted, of_plan=False))


def listen(state: State, event: Received) -> bool:
    """Takes a message in; True if that may matter to some goal."""
    device, message = event.device, event.message
    if device not in state.members.here:
        _call_back(state, device)
        return False
    late = 0 < event.term < state.term
    if late and not isinstance(message, m.Stored | m.Notice | m.Heartbeat | m.Failed):
        logger.info("%s: %s of an earlier term", device, type(message).__name__)
        return False
    handler = _TOLD.get(type(message), _answered)
    try:
        return handler(state, device, message, event) and not late
    except (DeviceFailedError, UnresumableError) as error:
        # An honest device would have said that it failed; with nobody else, its word is final.
        if isinstance(message, m.Failed) or state.alone:
            raise
        said = error.said if isinstance(error, DeviceFailedError) else str(error)
        return departures.blame(state, device, said.removeprefix(f"{device}: "))


def _heartbeat(state: State, device: DeviceId, message: m.Heartbeat, _: Received) -> bool:
    state.record.observe(device, message)
    return False


def _notice(state: State, device: DeviceId, message: m.Notice, _: Received) -> bool:
    if state.record.devices[device].take_notice(message.text):
        state.note("notice", device=device, text=message.text)
    return False


def _stored(state: State, device: DeviceId, message: m.Stored, _: Received) -> bool:
    if facts.stored(state, device, message):
        return True
    logger.warning("%s stored what nobody waits for", device)
    return False


def _progress(state: State, device: DeviceId, message: m.Progress, _: Received) -> bool:
    if step_of(state.job, device, message.sums) > state.target:
        raise DeviceFailedError(f"{device}: is further than it was asked to train")
    facts.progress(state, message.sums)
    state.progressed(device)
    return False


def _awaiting(state: State, device: DeviceId, message: m.Awaiting, _: Received) -> bool:
    state.awaited[device] = frozenset(message.peers)
    return False


def _rejected(state: State, device: DeviceId, message: m.Rejected, _: Received) -> bool:
    return departures.accuse(state, message.peer, device, message.reason)


def _peer_lost(state: State, device: DeviceId, message: m.PeerLost, _: Received) -> bool:
    return departures.separate(state, device, message.peer, message.reason)


def _relief(state: State, device: DeviceId, message: m.Relief, _: Received) -> bool:
    return departures.relieve(state, device, message.reason)


def _failed(state: State, device: DeviceId, failed: m.Failed, event: Received) -> bool:
    """A failure counts if it is of this term, or of a request of none that is open.

    What all devices would meet they say at once: the second one is late only because the first
    has begun a term.
    """
    of_no_plan = not event.term and (
        not event.reply or state.questions.is_open(device, event.reply)
    )
    hopeless = not failed.resumable and bool(state.hopeless - {device})
    if event.term == state.term or of_no_plan or hopeless:
        return departures.fail(state, device, failed)
    logger.info("%s failed in an earlier term: %s", device, failed.reason)
    return False


def _call_back(state: State, device: DeviceId) -> None:
    """Has a device that was given up, and speaks again, join again."""
    if device not in state.job.devices or device in state.members.quarantined:
        return
    if state.now - state.called_back.get(device, -REJOIN_SECONDS) >= REJOIN_SECONDS:
        state.called_back[device] = state.now
        state.do(Send(device=device, message=m.Rejoin(), term=state.term))


def _served(state: State, device: DeviceId, message: m.BatchServed, _: Received) -> bool:
    state.record.observe(device, message)
    if state.generation is not None:
        state.progressed(device)
        state.generation.served(device, message)
    fill = state.fill
    if fill is None or state.dealer is None or (item := fill.items.get(message.number)) is None:
        return False
    if fill.served(message):  # or else it is no progress, and must not hide that nobody makes any
        state.progressed(device)
    state.do(*state.dealer.served(device, message, item))
    return False


def _samples_sent(state: State, device: DeviceId, message: m.SamplesSent, _: Received) -> bool:
    state.progressed(device)
    if state.fill is not None:
        state.fill.sent(device, message.number)
    return False


def _next_tokens(state: State, device: DeviceId, message: m.NextTokens, _: Received) -> bool:
    if state.generation is None:
        logger.warning("%s sent tokens that nobody asked for", device)
        return False
    facts.went_on(state)
    state.progressed(device)
    generating.send(state, state.generation.chosen(device, message, state.now))
    if not state.generation.done:
        return False
    record = state.generation.record
    state.note("generation_finished", tokens=record.written, seconds=record.seconds)
    return True


def _answered(state: State, device: DeviceId, message: m.Message, event: Received) -> bool:
    question = state.questions.due(device, message, event.reply)
    if question is None:
        # Such as the answer to a request that another one has taken the place of.
        logger.info("%s sent %s out of turn", device, type(message).__name__)
        return False
    state.questions.close(device, question)
    state.settled = False
    if question.ask.kind is m.SetUpTraining:
        state.set_up_seconds = max(state.set_up_seconds, state.now - question.since)
    facts.answer(state, device, question.ask, message)
    return True


_TOLD: dict[type[m.Message], Callable[[State, DeviceId, Any, Received], bool]] = {
    m.Heartbeat: _heartbeat,
    m.Notice: _notice,
    m.Stored: _stored,
    m.Failed: _failed,
    m.BatchServed: _served,
    m.SamplesSent: _samples_sent,
    m.Progress: _progress,
    m.Awaiting: _awaiting,
    m.Rejected: _rejected,
    m.PeerLost: _peer_lost,
    m.Relief: _relief,
    m.NextTokens: _next_tokens,
}
"""What devices say without being asked; everything else is an answer."""
