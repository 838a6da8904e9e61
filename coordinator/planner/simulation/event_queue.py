"""Events in the order of their time, and resources that serve one thing after the other. Pure."""

import dataclasses
import heapq
import itertools
from collections.abc import Callable
from typing import Literal, TypeAlias

from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import DeviceProfile

Lane: TypeAlias = Literal["compute", "handle", "send", "receive", "train", "exchange"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The use of a device's lane from ``start`` to ``end``, in seconds from the start."""

    device: DeviceId
    lane: Lane
    start: float
    end: float
    label: str


class Timeline:
    """Runs what is due, in the order of time; equal times in the order of asking."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Has ``action`` run at ``time``, now at the soonest."""
        heapq.heappush(self._due, (max(time, self.now), next(self._numbers), action))

    def run(self) -> float:
        """Runs until nothing is due any more; returns the time of the last action."""
        while self._due:
            self.now, _, action = heapq.heappop(self._due)
            action()
        return self.now


class Resource:
    """Serves one thing at a time, first come, first served.

    Since a timeline asks in the order of time, when something begins is known at once.
    """

    __slots__ = ("busy_seconds", "free_at")

    def __init__(self) -> None:
        self.free_at = 0.0
        self.busy_seconds = 0.0

    def take(self, now: float, seconds: float) -> tuple[float, float]:
        """Reserves the next ``seconds`` that are free; returns their start and end."""
        start = max(now, self.free_at)
        self.free_at = start + seconds
        self.busy_seconds += seconds
        return start, self.free_at


class Station:
    """A device's resources: worker, processor time besides it, and both ways of its link.

    Where the worker's threads leave no core idle, what the processor does besides is done
    by the worker's cores and holds the worker up.
    """

    def __init__(self, profile: DeviceProfile) -> None:
        link = profile.link
        self.device = profile.device
        self.worker, self.up, self.down = Resource(), Resource(), Resource()
        idle_cores = profile.cores - min(profile.threads, profile.cores)
        self.handler = Resource() if idle_cores > 0 else self.worker
        # One message is handled by one thread; held up, all of its cores work for it.
        self.handling_cores = min(1.0, idle_cores) if idle_cores > 0 else profile.cores
        self.up_rate = link.up_bits_per_second / 8 if link else float("inf")
        self.down_rate = link.down_bits_per_second / 8 if link else float("inf")
        self.latency_seconds = link.latency_seconds if link else 0.0


class Network:
    """Carries messages between stations and writes down what every lane did."""

    def __init__(self, timeline: Timeline, *, wanted: Callable[[str], bool]) -> None:
        """Writes down what has a ``wanted`` label."""
        self._timeline, self._wanted = timeline, wanted
        self._noted: list[Interval] = []

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """Everything that was written down, by start."""
        return tuple(sorted(self._noted, key=lambda each: each.start))

    def handle(self, station: Station, seconds: float, label: str) -> float:
        """Processor time of one core for messages; returns when it is over."""
        if not seconds:
            return self._timeline.now
        start, end = station.handler.take(self._timeline.now, seconds / station.handling_cores)
        self.note(station, "handle", start, end, label)
        return end

    def carry(
        self,
        sender: Station,
        receiver: Station,
        size: float,
        label: str,
        arrived: Callable[[], None],
    ) -> None:
        """Carries ``size`` bytes; ``arrived`` runs when the last of them is there.

        A message leaves while it still comes in: both links are busy at once, and the last
        byte is there a latency after it was sent, or when the receiver's link has carried all.
        """
        timeline = self._timeline
        start, end = sender.up.take(timeline.now, size / sender.up_rate)
        self.note(sender, "send", start, end, label)
        latency = sender.latency_seconds + receiver.latency_seconds
        seconds = size / receiver.down_rate
        soonest = max(start, end - seconds) + latency
        if not seconds:
            timeline.at(soonest, arrived)
            return

        def enter() -> None:
            begin, last = receiver.down.take(timeline.now, seconds)
            self.note(receiver, "receive", begin, last, label)
            timeline.at(last, arrived)

        timeline.at(soonest, enter)

    def note(self, station: Station, lane: Lane, start: float, end: float, label: str) -> None:
        """Writes down what a lane did, if it took time."""
        if end > start and self._wanted(label):
            interval = Interval(device=station.device, lane=lane, start=start, end=end, label=label)
            self._noted.append(interval)
