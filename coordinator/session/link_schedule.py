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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinkEffort:
    """What measuring links may cost.

    Attributes:
        all_seconds: for all rounds together; a round trip or a slow first train makes them
            somewhat longer.
        longest_seconds: for a round.
    """

    all_seconds: float
    longest_seconds: float


THOROUGH = LinkEffort(all_seconds=8.0, longest_seconds=0.6)
BRIEF = LinkEffort(all_seconds=1.5, longest_seconds=0.15)
SHORTEST_SECONDS = 0.02


class Linking:
    """Measures what is not known yet.

    Attributes:
        measured: by (sender, receiver).
    """

    def __init__(self, effort: LinkEffort = THOROUGH) -> None:
        self._effort = effort
        self._given: dict[Pair, LinkMeasurement] = {}
        self.measured: dict[Pair, LinkMeasurement] = {}

    def reuse(self, known: Mapping[Pair, LinkMeasurement]) -> None:
        """Has pairs that are known not measured again."""
        self.measured = {**known, **self.measured}

    def give(self, links: Mapping[Pair, LinkMeasurement]) -> None:
        """Has links not measured that are known for certain, as long as they are direct."""
        self._given = dict(links)

    def forget(self, device: DeviceId) -> None:
        """Has the links of a device measured again, unless they are given."""
        self.measured = {pair: each for pair, each in self.measured.items() if device not in pair}

    def forget_pair(self, one: DeviceId, other: DeviceId) -> None:
        """Has the links between two devices measured again."""
        for links in (self.measured, self._given):
            links.pop((one, other), None)
            links.pop((other, one), None)

    def next_round(self, devices: Sequence[DeviceId]) -> dict[DeviceId, ProbeLink]:
        """Names who is to measure the link to whom; empty when everything is measured.

        The same round is named until all of it is measured.
        """
        every = list(rounds(devices))
        fair_seconds = self._effort.all_seconds / max(1, len(every))
        seconds = min(max(fair_seconds, SHORTEST_SECONDS), self._effort.longest_seconds)
        for pairs in every:
            left = [pair for pair in pairs if not self._knows(pair)]
            if left:
                return {sender: ProbeLink(peer=peer, seconds=seconds) for sender, peer in left}
        return {}

    def _knows(self, pair: Pair) -> bool:
        return pair in self._given or pair in self.measured

    def keep(self, device: DeviceId, message: LinkMeasured) -> None:
        """Keeps what a device has measured."""
        link = LinkMeasurement(
            bits_per_second=message.bits_per_second, latency_seconds=message.latency_seconds
        )
        self.measured[device, message.peer] = link
        rate, late = link.bits_per_second / 1e6, link.latency_seconds * 1e3
        logger.info("link from %s to %s: %.1f Mbit/s, %.2f ms", device, message.peer, rate, late)

    def linked(self, profiles: Mapping[DeviceId, DeviceProfile]) -> dict[DeviceId, DeviceProfile]:
        """Adds their links to the profiles of devices; none where a device is alone."""
        known = {**self.measured, **self._given}
        among = {pair: link for pair, link in known.items() if {*pair} <= profiles.keys()}
        links = reduce_links(among)
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
