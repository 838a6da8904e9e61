"""What the passing of time means: waits that end, and devices that make no progress. Pure.

A device that says nothing is found by the server; here are those that speak but do not get on.
"""

import math

from coordinator.protocol.events import Lost
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import InfeasibleError, StoppedError
from edge_runtime.contract.ids import DeviceId

from . import departures
from .goals import measuring
from .state import State

PATIENCE_SECONDS: dict[type[m.Message], float] = {
    m.ProfileRequest: 300.0,
    m.Peers: 90.0,
    m.ProbeLink: 60.0,
    m.OpenCache: 300.0,
    m.LoadStage: 900.0,
    m.OwnSamples: 300.0,
    m.HoldSamples: 60.0,
    m.SetUpTraining: 600.0,
    m.SetUpGeneration: 600.0,
    m.TakeState: 120.0,
    m.CountTokens: 720.0,
    m.FormGroup: 30.0,
    m.SendState: 120.0,
    m.Evaluate: 1800.0,
    m.BeginPhase: 60.0,
}
"""Within which a request is answered; files that it needs have to come, too."""

_TRAINING = (m.TrainEpoch, m.TrainSettings)

PROGRESS_SECONDS = 20.0
"""Least time without any progress before somebody is thought to hang."""
PROGRESS_FACTOR = 20.0
"""The same, in terms of what a micro-batch or a step has taken so far."""
LEARNT_SECONDS = 20.0
"""Most that is learnt from what one has taken: one that hung must not hide the next that hangs."""


def tick(state: State) -> bool:
    """Looks at the time; True if that changed anything."""
    changes = _gather(state) or _wait(state)
    return changes or departures.hear_witnesses(state) or _hang(state)


def _gather(state: State) -> bool:
    """Goes on without those who have not joined in time.

    Raises:
        InfeasibleError: nobody has.
    """
    if state.gathered or state.now - state.began <= measuring.GATHER_SECONDS:
        return False
    absent = sorted(set(state.job.devices) - state.members.here.keys())
    if not state.members.here:
        raise InfeasibleError(
            f"{', '.join(absent)} did not join within {measuring.GATHER_SECONDS:.0f} seconds; "
            "start `pacplus-device start` there, or leave it out of --devices"
        )
    state.note("devices_absent", devices=absent)
    measuring.begin(state)
    return True


def _wait(state: State) -> bool:
    """Ends a wait for devices that has taken too long.

    Raises:
        StoppedError: it has.
    """
    limit = state.patience_seconds
    if state.waiting is not None and limit is not None and state.now - state.waiting > limit:
        raise StoppedError(state.explain_wait())
    return False


def _hang(state: State) -> bool:
    """Gives up devices that make no progress."""
    for device, reason in _hanging(state):
        state.note("device_hangs", device=device, reason=reason)
        if state.members.strike(device) and len(state.members.here) > 1:
            departures.quarantine(state, device, reason)
        else:
            departures.lose(state, Lost(device=device, reason=reason))
        return True
    return False


def _hanging(state: State) -> list[tuple[DeviceId, str]]:
    found = [
        (device, f"has not answered {question.ask.kind.__name__} for {seconds:.0f} s")
        for device, question in state.questions
        if (seconds := state.now - question.since)
        > PATIENCE_SECONDS.get(question.ask.kind, math.inf)
    ]
    usual = max(min(state.longest_seconds, LEARNT_SECONDS), _predicted_seconds(state))
    patience = max(PROGRESS_SECONDS, PROGRESS_FACTOR * usual)
    if found or state.now - state.last_progress <= patience:
        return found
    why = f"makes no progress for {state.now - state.last_progress:.0f} s"
    return [(device, why) for device in _culprits(state)][:1]


def _culprits(state: State) -> list[DeviceId]:
    """Whom the others wait for."""
    if state.fill is not None and (late := state.fill.late()) is not None:
        return [late]
    if state.generation is not None and (late := state.generation.late()) is not None:
        return [late]
    trains = {device for device, question in state.questions if question.ask.kind in _TRAINING}
    awaited = {peer for device in trains for peer in state.awaited.get(device, ())}
    silent = {device for device in trains if not state.awaited.get(device)}
    # With everybody waiting for others, a message has been lost: any of them begins anew.
    return sorted(awaited & silent) or sorted(silent) or sorted(awaited & trains) or sorted(trains)


def _predicted_seconds(state: State) -> float:
    """Seconds from a micro-batch, or a step, to the next, as the plan predicts them."""
    predicted = state.plan.predicted if state.plan is not None else None
    if state.plan is None or predicted is None:
        return 0.0
    batches = len(state.catalogue.keys) / state.plan.micro_batch_size
    steps = state.job.steps_per_epoch
    each = predicted.fill_seconds / max(1.0, batches)
    return max(each, predicted.epoch_seconds / steps if steps else 0.0)
