"""The matrix of links in a file of devices: every pair once or both ways round.

A rate is ``"100M"`` or bits per second; a table gives the latency too::

    [links.laptop]
    nano = "100M"
    phone = { bits_per_second = 40_000_000, latency_seconds = 0.004 }
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.planner.problem.links import LinkMeasurement, reduce_links
from devices.specification import parse_rate
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import LinkProfile
from edge_runtime.contract.structure import from_plain

from .described_device import GivenDevice


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairLink:
    """One entry of the matrix of links that is a table."""

    bits_per_second: float
    latency_seconds: float = 0.0


def read_links(
    where: str, devices: Sequence[GivenDevice], matrix: Any
) -> dict[DeviceId, LinkProfile]:
    """Each device's link, such that the pairs are served as the matrix says.

    Args:
        where: the file, for errors.
        devices: of the file.
        matrix: its table of links.

    Raises:
        BadInputError: a pair is missing, or a value is wrong; the message names it.
    """
    if not isinstance(matrix, Mapping):
        raise BadInputError(f'{where}: links: expected a table, e.g. [links.a] with b = "100M"')
    known = {device.device: device for device in devices}
    pairs: dict[tuple[DeviceId, DeviceId], LinkMeasurement] = {}
    for first, row in matrix.items():
        if not isinstance(row, Mapping):
            raise BadInputError(f"{where}: links.{first}: expected a table of other devices")
        for second, value in row.items():
            here = f"{where}: links.{first}.{second}"
            ends = _ends(here, known, first, second)
            pairs[DeviceId(first), DeviceId(second)] = _measurement(here, ends, value)
    for one, other in itertools.combinations(known, 2):
        found = pairs.get((one, other)) or pairs.get((other, one))
        if found is None:
            raise BadInputError(
                f"{where}: links.{one}.{other}: is missing; the matrix must have every pair"
            )
        # A pair that is given once is alike both ways.
        pairs.setdefault((one, other), found)
        pairs.setdefault((other, one), found)
    if len(known) < 2:
        return {device.device: device.link for device in devices}
    return reduce_links(pairs)


def _ends(
    where: str, known: Mapping[DeviceId, GivenDevice], first: str, second: str
) -> tuple[GivenDevice, GivenDevice]:
    for end in (first, second):
        if end not in known:
            raise BadInputError(f"{where}: there is no device {end[:80]!r}")
    if first == second:
        raise BadInputError(f"{where}: a device has no link to itself")
    return known[DeviceId(first)], known[DeviceId(second)]


def _measurement(where: str, ends: tuple[GivenDevice, GivenDevice], value: Any) -> LinkMeasurement:
    if isinstance(value, Mapping):
        link = from_plain(PairLink, value, where)
    else:
        rate = parse_rate(value) if isinstance(value, str) else value
        if not isinstance(rate, int | float) or isinstance(rate, bool):
            raise BadInputError(f'{where}: {str(value)[:80]!r} is no rate; write e.g. "100M"')
        latency = sum(end.link.latency_seconds for end in ends)
        link = PairLink(bits_per_second=rate, latency_seconds=latency)
    if not 0 < link.bits_per_second < math.inf:
        raise BadInputError(
            f"{where}.bits_per_second: must be positive, not {link.bits_per_second}"
        )
    if not 0 <= link.latency_seconds < math.inf:
        raise BadInputError(
            f"{where}.latency_seconds: must not be negative, not {link.latency_seconds}"
        )
    return LinkMeasurement(
        bits_per_second=link.bits_per_second, latency_seconds=link.latency_seconds
    )
