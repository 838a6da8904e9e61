"""From links measured pair by pair to one up rate, down rate and latency a device. Pure."""

import dataclasses
import math
from collections.abc import Mapping

from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import LinkProfile


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinkMeasurement:
    """The measured link from one device to another.

    Attributes:
        bits_per_second: that arrive.
        latency_seconds: one way.
    """

    bits_per_second: float
    latency_seconds: float

    def __post_init__(self) -> None:
        if not 0 < self.bits_per_second < math.inf:
            raise ValueError("bits_per_second must be positive")
        if not 0 <= self.latency_seconds < math.inf:
            raise ValueError("latency_seconds must not be negative")


def reduce_links(
    measured: Mapping[tuple[DeviceId, DeviceId], LinkMeasurement],
) -> dict[DeviceId, LinkProfile]:
    """Each device's link, such that pairs come as near as can be to what was measured.

    A pair (i, j) is then taken to carry min(up_i, down_j) with latency_i + latency_j. The
    best that a device sends to anybody is its up rate, the best that it receives its down
    rate: exact where links are the devices' own, and too high where a way between two of them
    is narrower than both. Latencies are the least squares' solution, none below 0.

    Args:
        measured: of (sender, receiver), every pair both ways.

    Raises:
        ValueError: a pair is missing.
    """
    devices = tuple(dict.fromkeys(device for pair in measured for device in pair))
    for pair in ((a, b) for a in devices for b in devices if a != b):
        if pair not in measured:
            raise ValueError(f"the link from {pair[0]} to {pair[1]} is missing")
    latencies = _latencies(devices, measured)
    return {
        device: LinkProfile(
            up_bits_per_second=max(
                link.bits_per_second for (sender, _), link in measured.items() if sender == device
            ),
            down_bits_per_second=max(
                link.bits_per_second
                for (_, receiver), link in measured.items()
                if receiver == device
            ),
            latency_seconds=latencies[device],
        )
        for device in devices
    }


def _latencies(
    devices: tuple[DeviceId, ...], measured: Mapping[tuple[DeviceId, DeviceId], LinkMeasurement]
) -> dict[DeviceId, float]:
    """Least squares over sums of two.

    With R_i the mean of both ways from i, summed over the N - 1 others:
    R_i = (N - 2) l_i + sum(l), and sum(R) = 2 (N - 1) sum(l).
    """
    rows = {
        device: sum(link.latency_seconds for pair, link in measured.items() if device in pair) / 2
        for device in devices
    }
    count = len(devices)
    if count == 2:
        return {device: row / 2 for device, row in rows.items()}
    total = sum(rows.values()) / (2 * (count - 1))
    return {device: max(0.0, (row - total) / (count - 2)) for device, row in rows.items()}
