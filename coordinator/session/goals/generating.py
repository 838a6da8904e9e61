"""Goals of generation: stages and adapters are ready, and prompts are continued. Pure."""

import dataclasses
from collections.abc import Iterable

from coordinator.protocol.actions import Send
from coordinator.session.questions import Ask, Todo
from coordinator.session.state import State
from coordinator.workload.generation import Generation
from edge_runtime.contract import messages as m

from .filling import stages


def load(state: State) -> Todo | None:
    """Has devices load their stages."""
    asks = stages(state)
    return Todo("deploying", asks) if asks else None


def generate(state: State) -> Todo | None:
    """Has prompts continued, from where an earlier plan left off."""
    plan, record = state.plan, state.record
    if plan is None:
        return None
    if state.generation is None:
        state.generation = Generation(state.job, plan, state.now, record.generation)
        record.generation = state.generation.record
    if state.generation.done:
        return None
    asks = {
        device: Ask(kind=m.SetUpGeneration, make=state.generation.set_up)
        for device in plan.devices
        if not state.members.here[device].generates
    }
    if asks:
        return Todo("setting up", asks)
    send(state, state.generation.start())
    return Todo("generating")


def send(state: State, sends: Iterable[Send]) -> None:
    """Sends micro-batches of this term."""
    state.do(*(dataclasses.replace(each, term=state.term) for each in sends))
