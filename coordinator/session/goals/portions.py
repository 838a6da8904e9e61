"""Goals of training and evaluating in portions: their samples are readable at their owners. Pure.

While every owner has room for its samples, there is one portion, and nothing to be done. What a
disk has no room for is computed again by the same pipeline and held in memory for one portion;
after a loss in training, what is lost is computed again portion by portion, so that steps are
soon applied again.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from coordinator.session.questions import Ask, Todo
from coordinator.session.state import State
from coordinator.workload.portions import (
    Limits,
    Portion,
    count_affordable,
    state_bytes,
    steps_of_epoch,
)
from edge_runtime.contract import messages as m
from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.ids import DeviceId

from .filling import begin_fill, run_fill
from .planning import end_plan

LONGEST_SECONDS = 3600.0
"""By then everything that was lost is computed; disks that stay full have a portion for each part
of each epoch, and doubling must end."""


def choose_steps(state: State, wanted: int) -> int:
    """Chooses how many of the next ``wanted`` steps are a portion, and makes it the one in work.

    0 if not even one fits a device, for which the plan has ended.

    Raises:
        InfeasibleError: there is no other device.
    """
    done = state.saved.step % state.job.steps_per_epoch
    if state.steps is None or state.steps[0] != state.epoch:
        state.steps = state.epoch, steps_of_epoch(state.job, state.epoch)
    steps = state.steps[1][done : done + wanted]
    if count := _affordable(state, "train", steps):
        _begin(state, "train", np.concatenate(steps[:count]))
    return count


def choose_lines(state: State, lines: Array) -> int:
    """Chooses how many of evaluation ``lines`` are a portion, like :func:`choose_steps`."""
    if count := _affordable(state, "eval", np.split(lines, len(lines))):
        _begin(state, "eval", lines[:count])
    return count


def _begin(state: State, which: m.SampleSet, lines: Array) -> None:
    state.portions += 1
    full = frozenset(name for name, each in state.members.here.items() if each.without_room)
    state.portion = Portion(state.portions, which, lines, full)


def _affordable(state: State, which: m.SampleSet, units: Sequence[Array]) -> int:
    lacking = _lacking_on_disk(state, which)
    if not any(lacks.any() for lacks in lacking.values()):
        return len(units)
    here, distinct = state.members.here, state.catalogue.distinct[which]
    limits = Limits(
        memory_bytes={
            device: here[device].memory_bytes for device in lacking if here[device].without_room
        },
        samples=_samples_in(state, state.portion_seconds),
    )
    sizes = state_bytes(state.job, state.catalogue)
    count, unfit = count_affordable([distinct[each] for each in units], lacking, sizes, limits)
    state.portion_seconds = min(2 * state.portion_seconds, LONGEST_SECONDS)
    if unfit is not None:
        _do_without(state, unfit)
    return count


def _lacking_on_disk(state: State, which: m.SampleSet) -> dict[DeviceId, Array]:
    if state.plan is None:
        return {}
    return state.catalogue.lacking(state.plan, which, state.holdings.held())


def _samples_in(state: State, seconds: float) -> int | None:
    """Samples that the plan predicts to be computed in a time; None if it predicts nothing."""
    predicted = state.plan.predicted if state.plan is not None else None
    if predicted is None or not predicted.fill_seconds:
        return None
    return int(seconds * len(state.catalogue.keys) / predicted.fill_seconds)


def _do_without(state: State, device: DeviceId) -> None:
    """Takes work away from a device that cannot hold the samples of a single step."""
    member = state.members.here[device]
    reason = (
        "neither its disk nor its memory has room for its samples of one step "
        f"({member.memory_bytes / 1e6:.0f} MB of memory); free some there, raise --cache-quota, "
        "or use a smaller --cache-dtype or --batch-size"
    )
    if member.relief or all(each.relief for each in state.members.here.values() if each != member):
        raise InfeasibleError(f"{device}: {reason}")
    member.relief = reason
    state.note("relief", device=device, reason=reason)
    end_plan(state, f"{device}: {reason}", device)


def provide(state: State, portion: Portion) -> Todo | None:
    """Has the samples of the portion in work readable at their owners.

    Where a disk turns out to be full, there is no portion in work any more: another is to be
    chosen, by the memory of that device.
    """
    if state.fill is not None and (todo := run_fill(state)) is not None:
        return todo
    asks = {
        device: Ask(
            kind=m.HoldSamples,
            make=partial(m.HoldSamples, keys=state.catalogue.keys[lacks]),
            key=portion.number,
        )
        for device, lacks in _lacking(state, portion, state.holdings.held()).items()
        if device in portion.held_by
        and lacks.any()
        and state.members.here[device].holding != portion.number
    }
    if asks:
        return Todo("filling", asks)
    lacking = _lacking(state, portion, state.holdings.readable())
    owners = [device for device, lacks in lacking.items() if lacks.any()]
    if not owners:
        return None
    if any(state.members.here[device].without_room for device in {*owners} - portion.held_by):
        state.portion = None
        return None
    begin_fill(state, portion.which, lacking, portion.lines, for_now=True)
    return run_fill(state) or provide(state, portion)


def to_hold(state: State, device: DeviceId, portion: Portion) -> Array:
    """Distinct samples that a device holds for now, as it was asked to for a portion."""
    return np.flatnonzero(_lacking(state, portion, state.holdings.held())[device])


def _lacking(
    state: State, portion: Portion, held: Mapping[DeviceId, Array]
) -> dict[DeviceId, Array]:
    """(K,) bool for every owner: samples of the portion that are not among what it holds."""
    if state.plan is None:
        return {}
    of_portion = np.zeros(len(state.catalogue.keys), bool)
    of_portion[state.catalogue.distinct[portion.which][portion.lines]] = True
    lacking = state.catalogue.lacking(state.plan, portion.which, held)
    return {device: lacks & of_portion for device, lacks in lacking.items()}
