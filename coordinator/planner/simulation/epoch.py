"""Plays steps of an adapter epoch: gradients, reduce-scatter, all-gather. Pure.

Same terms as :mod:`.epochs`. Nobody waits for anybody but for the messages that it needs, so
a fast trainer may be a round ahead.
"""

import collections
from collections.abc import Mapping
from functools import partial

from coordinator.planner.cost.epoch import (
    ROUNDS,
    all_reduce_handling_seconds,
    all_reduced_bytes,
    shards_epoch_seconds,
)
from coordinator.planner.problem.calibrate import exchange_factor
from coordinator.planner.problem.problem import Problem
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.order import steps_per_epoch
from edge_runtime.contract.plan import Plan

from .event_queue import Network, Station, Timeline


class EpochPlay:
    """Some steps on a timeline; see :meth:`begin`.

    Attributes:
        ends: when the last trainer had finished each step.
    """

    def __init__(
        self,
        problem: Problem,
        plan: Plan,
        stations: Mapping[DeviceId, Station],
        timeline: Timeline,
        network: Network,
    ) -> None:
        self._stations, self._timeline, self._network = stations, timeline, network
        trainers = [owner.device for owner in plan.owners]
        steps = steps_per_epoch(problem.num_samples, problem.batch_size)
        self._train_seconds = {
            owner.device: shards_epoch_seconds(
                problem, problem.profile(owner.device), len(owner.shards)
            )
            / max(1, steps)
            for owner in plan.owners
        }
        count = len(trainers)
        # As with the prediction, all that an exchange takes is times what runs have found.
        found = max(exchange_factor(problem.profile(device)) for device in trainers)
        self._handling_seconds = {
            device: found
            * all_reduce_handling_seconds(problem, problem.profile(device), count)
            / ROUNDS
            for device in trainers
            if count > 1
        }
        # Each message of a round is one trainer's part of the gradient.
        self._message_bytes = (
            found * all_reduced_bytes(problem, count) / ROUNDS / (count - 1) if count > 1 else 0.0
        )
        self._steps = 0
        self._came: collections.Counter[tuple[DeviceId, int, int]] = collections.Counter()
        self._ready: dict[DeviceId, tuple[int, int]] = {}
        self.ends: list[float] = []

    def begin(self, steps: int) -> None:
        """Starts every trainer on the first of so many steps."""
        self._steps = steps
        self.ends = [0.0] * steps
        for device in self._train_seconds:
            self._train(device, 0)

    def _train(self, device: DeviceId, step: int) -> None:
        if step == self._steps:
            return
        station = self._stations[device]
        start, end = station.worker.take(self._timeline.now, self._train_seconds[device])
        self._network.note(station, "train", start, end, f"step {step + 1}")
        self._timeline.at(end, partial(self._all_reduce, device, step, 0))

    def _all_reduce(self, device: DeviceId, step: int, which: int) -> None:
        """Sends this round's messages, then waits for those of the others."""
        if which == ROUNDS or not self._handling_seconds:
            self.ends[step] = max(self.ends[step], self._timeline.now)
            self._train(device, step + 1)
            return
        station, label = self._stations[device], f"step {step + 1}"
        start, end = station.worker.take(self._timeline.now, self._handling_seconds[device])
        self._network.note(station, "exchange", start, end, label)
        self._timeline.at(end, partial(self._send, device, step, which))

    def _send(self, device: DeviceId, step: int, which: int) -> None:
        self._ready[device] = (step, which)
        trainers = list(self._train_seconds)
        me = trainers.index(device)
        # Everybody begins with the next one, so that no link has all the messages at once.
        for other in (*trainers[me + 1 :], *trainers[:me]):
            self._network.carry(
                self._stations[device],
                self._stations[other],
                self._message_bytes,
                f"step {step + 1}",
                partial(self._arrived, other, step, which),
            )
        self._go_on(device, step, which)

    def _arrived(self, device: DeviceId, step: int, which: int) -> None:
        self._came[device, step, which] += 1
        self._go_on(device, step, which)

    def _go_on(self, device: DeviceId, step: int, which: int) -> None:
        """The next round, once this one's messages are sent and all of the others' are there."""
        sent = self._ready.get(device) == (step, which)
        if sent and self._came[device, step, which] == len(self._train_seconds) - 1:
            del self._ready[device]
            self._all_reduce(device, step, which + 1)
