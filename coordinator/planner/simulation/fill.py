"""Plays the fill: micro-batches through stages to the owners of their samples. Pure.

Same terms as :mod:`.fill`, spent where and when they fall: a device's worker computes a
micro-batch, passes the boundary on, and encodes its states; messages are handled by the
processor and carried by links one after the other; the next micro-batch is dealt when one
is stored everywhere and the window has room for it, as the session does it.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

from coordinator.planner.cost.fill import (
    SERVED_MESSAGES,
    STORED_MESSAGES,
    encoding_seconds,
    stage_seconds_per_micro_batch,
    state_bytes,
)
from coordinator.planner.dispatch import Router, window
from coordinator.planner.problem.problem import Problem
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.profile import DeviceProfile

from .event_queue import Network, Station, Timeline


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """The work of a stage on one of its devices, by sample."""

    seconds_per_sample: float
    seconds_per_run: float
    encoding_seconds: float
    boundary_bytes: float
    state_bytes: float


class FillPlay:
    """One fill on a timeline; see :meth:`begin`."""

    def __init__(
        self,
        problem: Problem,
        plan: Plan,
        stations: Mapping[DeviceId, Station],
        timeline: Timeline,
        network: Network,
    ) -> None:
        self._problem, self._plan, self._stations = problem, plan, stations
        self._timeline, self._network = timeline, network
        self._router = Router(plan)
        self._works = {
            member.device: _work(problem, problem.profile(member.device), stage.first, stage.last)
            for stage in plan.stages
            for member in stage.devices
        }
        self._handling = {device: problem.profile(device).handling for device in plan.devices}
        owner_of = {shard: owner.device for owner in plan.owners for shard in owner.shards}
        self._owner_of = [owner_of[shard] for shard in range(plan.num_shards)]
        # An owner's messages of a micro-batch are counted once, however many stages send them.
        works = [self._works[stage.devices[0].device] for stage in plan.stages]
        self._stored_messages = STORED_MESSAGES / sum(1 for work in works if work.state_bytes)
        self._producers = sum(1 for work in works if work.state_bytes)
        self._samples: list[int] = []
        self._next = 0
        self._missing: dict[int, int] = {}

    def begin(self, samples: list[int]) -> None:
        """Puts the first micro-batches on their way; ``samples`` are those of each."""
        self._samples = samples
        for _ in range(window(self._plan)):
            self._lease()

    def _lease(self) -> None:
        if self._next == len(self._samples):
            return
        number, self._next = self._next, self._next + 1
        owners = self._owners(number)
        self._missing[number] = self._producers * len(owners)
        self._arrive(number, 0, self._router.route(), owners, 0.0)

    def _owners(self, number: int) -> Mapping[DeviceId, int]:
        """Samples of a micro-batch by owner: the order of the fill goes round the shards."""
        first = number * self._plan.micro_batch_size
        samples = range(first, first + self._samples[number])
        return collections.Counter(self._owner_of[i % self._plan.num_shards] for i in samples)

    def _arrive(
        self,
        number: int,
        stage: int,
        route: tuple[DeviceId, ...],
        owners: Mapping[DeviceId, int],
        size: float,
    ) -> None:
        """A micro-batch is at its stage's door, with ``size`` bytes."""
        device = route[stage]
        handling = self._handling[device]
        others = sum(1 for owner in owners if owner != device)
        messages = SERVED_MESSAGES + (others if self._works[device].state_bytes else 0)
        seconds = messages * handling.seconds_per_message + size * handling.seconds_per_byte
        handled = self._network.handle(self._stations[device], seconds, str(number))
        self._timeline.at(handled, partial(self._compute, number, stage, route, owners))

    def _compute(
        self, number: int, stage: int, route: tuple[DeviceId, ...], owners: Mapping[DeviceId, int]
    ) -> None:
        device, samples, timeline = route[stage], self._samples[number], self._timeline
        work, station, label = self._works[device], self._stations[device], str(number)
        seconds = work.seconds_per_run + samples * work.seconds_per_sample
        start, computed = station.worker.take(timeline.now, seconds)
        _, encoded = station.worker.take(computed, samples * work.encoding_seconds)
        self._network.note(station, "compute", start, encoded, label)
        if stage + 1 < len(route):
            size = samples * work.boundary_bytes
            arrived = partial(self._arrive, number, stage + 1, route, owners, size)
            passed = partial(self._send, device, route[stage + 1], size, label, arrived)
            timeline.at(computed, passed)
        if work.state_bytes:
            timeline.at(encoded, partial(self._deliver, number, device, owners))

    def _deliver(self, number: int, device: DeviceId, owners: Mapping[DeviceId, int]) -> None:
        """States to their owners, one message each; the device's own stay."""
        for owner, samples in owners.items():
            size = samples * self._works[device].state_bytes
            store = partial(self._store, number, owner, size, came=owner != device)
            if owner == device:
                store()
            else:
                self._send(device, owner, size, str(number), store)

    def _send(
        self,
        sender: DeviceId,
        receiver: DeviceId,
        size: float,
        label: str,
        arrived: Callable[[], None],
    ) -> None:
        """Encrypts now, then sends."""
        here, there = self._stations[sender], self._stations[receiver]
        seconds = size * self._handling[sender].seconds_per_byte
        encrypted = self._network.handle(here, seconds, label)
        self._timeline.at(
            encrypted, partial(self._network.carry, here, there, size, label, arrived)
        )

    def _store(self, number: int, owner: DeviceId, size: float, *, came: bool) -> None:
        handling = self._handling[owner]
        seconds = self._stored_messages * handling.seconds_per_message
        seconds += size * handling.seconds_per_byte if came else 0.0
        seconds += size * handling.seconds_per_stored_byte if self._problem.caches else 0.0
        stored = self._network.handle(self._stations[owner], seconds, str(number))
        self._timeline.at(stored, partial(self._stored, number))

    def _stored(self, number: int) -> None:
        self._missing[number] -= 1
        if not self._missing[number]:
            del self._missing[number]
            self._lease()


def _work(problem: Problem, profile: DeviceProfile, first: int, last: int) -> _Work:
    run = float(stage_seconds_per_micro_batch(problem, profile, first, last, 0))
    whole = float(stage_seconds_per_micro_batch(problem, profile, first, last, 1))
    encoding = float(encoding_seconds(problem, profile, first, last).slope)
    samples = problem.fill_samples
    return _Work(
        seconds_per_sample=whole - run,
        seconds_per_run=run,
        encoding_seconds=encoding / samples / min(1.0, profile.cores),
        boundary_bytes=float(problem.carried_bytes[last]),
        state_bytes=float(state_bytes(problem, first, last)) / samples,
    )
