"""Leases work items: which may start, and which owner has yet to store what.

A micro-batch is *leased* when it is sent out and done when every owner has stored every
layer. A window bounds the leases, and thereby the activations in flight on all devices.
Pure: no sockets, no clock.
"""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set

from coordinator.protocol.actions import Send
from edge_runtime.contract.checks import Array
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Stream
from edge_runtime.contract.messages import Stored


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WorkItem:
    """Something to send that ends with states stored at the owners.

    Attributes:
        number: names it; ``Stored`` repeats it.
        send: makes the message when the item is leased: what the devices are then like
            decides who gets it.
        samples: distinct samples that it is about.
        stored_by: owner -> which distinct samples it will store.
        computed: the backbone computes them; or they are moved from another device's cache.
        longest: of a micro-batch, tokens of the longest sample in each sequence.
    """

    number: int
    send: Callable[[], Send]
    samples: int
    stored_by: Mapping[DeviceId, Array]
    computed: bool
    longest: Mapping[Stream, int] = dataclasses.field(default_factory=dict)


class LeaseBook:
    """Starts items while the window has room and ticks off what is stored."""

    def __init__(self, items: Iterable[WorkItem], *, layers: Sequence[int], window: int) -> None:
        """Each owner has to store every one of ``layers`` for an item to be done."""
        self._waiting = collections.deque(items)
        self._layers, self._window = frozenset(layers), window
        # Leased items by number, and for each owner the layers that it has not stored yet.
        self._leased: dict[int, tuple[WorkItem, dict[DeviceId, set[int]]]] = {}
        self.total = sum(item.samples for item in self._waiting)
        self.stored = 0

    @property
    def done(self) -> bool:
        """True when nothing waits and nothing is leased."""
        return not self._waiting and not self._leased

    def start(self, without_room: Set[DeviceId] = frozenset()) -> list[WorkItem]:
        """Items to send now; those that only devices ``without_room`` would store are dropped."""
        started = []
        while self._waiting and len(self._leased) < self._window:
            item = self._waiting.popleft()
            if item.stored_by.keys() <= without_room:
                self.total -= item.samples
                continue
            missing = {owner: set(self._layers) for owner in item.stored_by}
            self._leased[item.number] = item, missing
            started.append(item)
        return started

    @property
    def leased(self) -> int:
        """Samples that are being worked on."""
        return sum(item.samples for item, _ in self._leased.values())

    def unstored(self) -> Iterator[tuple[WorkItem, tuple[DeviceId, ...]]]:
        """Leased items, each with the owners that have yet to store something of it."""
        return ((item, tuple(missing)) for item, missing in self._leased.values())

    def record(self, device: DeviceId, stored: Stored) -> bool:
        """Ticks off; False if nobody waits for it (late, twice, or made up)."""
        if stored.number not in self._leased:
            return False
        item, missing = self._leased[stored.number]
        expected = device in missing and missing[device].issuperset(stored.layers)
        if not expected or stored.samples != len(item.stored_by[device]):
            return False
        missing[device].difference_update(stored.layers)
        if not missing[device]:
            del missing[device]
        if not missing:
            self.stored += item.samples
            del self._leased[stored.number]
        return True
