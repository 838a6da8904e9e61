"""Decides when a device counts as lost. Pure: the time is given.

A device sends heartbeats (``Job.heartbeat_seconds``), so one that says nothing for
:data:`SILENCE_SECONDS` sleeps, or has lost its network, or its power. One whose process ended is
known by its connection, which ends at once; a device that only lost the connection makes
another one within :data:`RETURN_SECONDS`. The processes of local devices are watched besides,
see :mod:`.local_devices`.
"""

from collections.abc import Iterator, Set

from coordinator.protocol.events import Lost
from edge_runtime.contract.ids import DeviceId

SILENCE_SECONDS = 8.0
"""Several heartbeats: one that is wrongly given up joins again and loses little."""

RETURN_SECONDS = 1.5
"""A few attempts to connect again."""


class Liveness:
    """Keeps when each device was last heard, and since when it has no connection."""

    def __init__(self) -> None:
        self._heard: dict[DeviceId, float] = {}
        self._cut_off: dict[DeviceId, float] = {}

    def hear(self, device: DeviceId, now: float) -> None:
        """Takes down that a device has sent something."""
        self._heard[device] = now

    def disconnected(self, device: DeviceId, now: float) -> None:
        """Takes down that a connection of a device has ended."""
        self._cut_off.setdefault(device, now)

    def lost(self, now: float, connected: Set[DeviceId]) -> Iterator[Lost]:
        """Names each device that has been silent or without a connection for too long, once."""
        for device, since in list(self._cut_off.items()):
            if device in connected:
                del self._cut_off[device]
            elif now - since > RETURN_SECONDS:
                del self._cut_off[device]
                self._heard.pop(device, None)
                yield Lost(device=device, reason="its connection ended")
        for device, heard in list(self._heard.items()):
            if now - heard > SILENCE_SECONDS:
                del self._heard[device]
                yield Lost(device=device, reason=f"silent for {SILENCE_SECONDS:.0f} seconds")
