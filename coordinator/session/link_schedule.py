"""Schedules link measurements: every pair of devices, both ways, in rounds. Pure.

No device takes part in two measurements of a round, so that they share no link of the
devices' own. Rounds are those of a tournament (the circle method): N - 1 for an even
number of devices, N for an odd one, each played once in either direction.
"""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence

from coordinator.planner.problem.links import LinkMeasurement, reduce_links
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import LinkMeasured, ProbeLink
from edge_runtime.contract.profile import DeviceProfile

logger = logging.getLogger(__name__)

Pair = tuple[DeviceId, DeviceId]

ALL_SECONDS = 8.0
"""For all rounds together; a round trip or a slow first train makes them somewhat longer."""

LONGEST_SECONDS = 0.6
SHORTEST_SECONDS = 0.02


class Linking:
    """Measures what is not known yet.

    Attributes:
        measured: by (sender, receiver).
    """

    def __init__(self, devices: Sequence[DeviceId]) -> None:
        self.measured: dict[Pair, LinkMeasurement] = {}
        self._rounds = list(rounds(devices))
        fair_seconds = ALL_SECONDS / max(1, len(self._rounds))
        self._seconds = min(max(fair_seconds, SHORTEST_SECONDS), LONGEST_SECONDS)
        self._asked: dict[DeviceId, DeviceId] = {}

    def reuse(self, known: Mapping[Pair, LinkMeasurement]) -> None:
        """Has pairs that are known not measured again."""
        self.measured |= known
        left = ([pair for pair in each if pair not in self.measured] for each in self._rounds)
        self._rounds = [pairs for pairs in left if pairs]

    def next_round(self) -> dict[DeviceId, ProbeLink]:
        """Names whom to ask for what; empty when everything is measured."""
        self._asked = dict(self._rounds.pop(0)) if self._rounds else {}
        return {
            sender: ProbeLink(peer=receiver, seconds=self._seconds)
            for sender, receiver in self._asked.items()
        }

    def fits(self, device: DeviceId, message: LinkMeasured) -> bool:
        """True if the device was asked for that link in this round."""
        return self._asked.get(device) == message.peer

    def keep(self, device: DeviceId, message: LinkMeasured) -> None:
        """Keeps what a device has measured."""
        link = LinkMeasurement(
            bits_per_second=message.bits_per_second, latency_seconds=message.latency_seconds
        )
        self.measured[device, message.peer] = link
        rate, late = link.bits_per_second / 1e6, link.latency_seconds * 1e3
        logger.info("link from %s to %s: %.1f Mbit/s, %.2f ms", device, message.peer, rate, late)

    def linked(self, profiles: Mapping[DeviceId, DeviceProfile]) -> dict[DeviceId, DeviceProfile]:
        """Adds their links to profiles; none where a device is alone."""
        links = reduce_links(self.measured)
        return {
            device: dataclasses.replace(profile, link=links.get(device))
            for device, profile in profiles.items()
        }


def rounds(devices: Sequence[DeviceId]) -> Iterator[list[Pair]]:
    """Rounds of disjoint (sender, receiver): together every pair of devices, both ways."""
    circle: list[DeviceId | None] = [*devices]
    if len(circle) % 2:
        circle.append(None)
    for _ in range(len(circle) - 1):
        half = len(circle) // 2
        opposite = zip(circle[:half], reversed(circle[half:]), strict=True)
        pairs = [(a, b) for a, b in opposite if a is not None and b is not None]
        if pairs:
            yield pairs
            yield [(b, a) for a, b in pairs]
        circle = [circle[0], circle[-1], *circle[1:-1]]
