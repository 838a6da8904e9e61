"""Decides when a device counts as lost. Pure: the time is given.

A device sends heartbeats (``Job.heartbeat_seconds``), so one that says nothing for
:data:`SILENCE_SECONDS` sleeps, or has lost its network, or its power. The processes of local
devices are watched besides, see :mod:`.local_devices`.
"""

from collections.abc import Iterator

from coordinator.protocol.events import Lost
from edge_runtime.contract.ids import DeviceId

SILENCE_SECONDS = 8.0
"""Several heartbeats: one that is wrongly given up joins again and loses little."""


class Liveness:
    """Keeps when each device was last heard."""

    def __init__(self) -> None:
        self._heard: dict[DeviceId, float] = {}

    def hear(self, device: DeviceId, now: float) -> None:
        """Takes down that a device has sent something."""
        self._heard[device] = now

    def lost(self, now: float) -> Iterator[Lost]:
        """Names each device that has been silent for too long, once."""
        for device, heard in list(self._heard.items()):
            if now - heard > SILENCE_SECONDS:
                del self._heard[device]
                yield Lost(device=device, reason=f"silent for {SILENCE_SECONDS:.0f} seconds")
