"""Decides when a device counts as lost. Pure: the time is given.

A device sends heartbeats (``Job.heartbeat_seconds``), so one that says nothing for
:data:`SILENCE_SECONDS` sleeps, or has lost its network, or its power. A process that dies closes
its connection: a device is lost as well when that stays closed for :data:`GRACE_SECONDS`. The
processes of local devices are watched besides, see :mod:`.local_devices`.
"""

from collections.abc import Collection, Iterator

from coordinator.protocol.events import Lost
from edge_runtime.contract.ids import DeviceId

SILENCE_SECONDS = 8.0
"""Several heartbeats: one that is wrongly given up joins again and loses little."""
ALONE_SECONDS = 30.0
"""The same of the only device there is: nobody could go on without it, so there is no hurry."""
GRACE_SECONDS = 2.0
"""Longer than it takes a living device to connect again."""


class Liveness:
    """Keeps when each device was last heard, and whose connections have ended."""

    def __init__(self) -> None:
        self._heard: dict[DeviceId, float] = {}
        self._broken: dict[DeviceId, float] = {}

    def hear(self, device: DeviceId, now: float) -> None:
        """Takes down that a device has sent something."""
        self._heard[device] = now

    def disconnected(self, device: DeviceId, now: float) -> None:
        """Takes down that a connection of a device has ended; it may have another."""
        if device in self._heard:
            self._broken.setdefault(device, now)

    def lost(self, connected: Collection[DeviceId], now: float) -> Iterator[Lost]:
        """Names each device that has been silent or disconnected for too long, once."""
        for device, since in list(self._broken.items()):
            if device in connected:
                del self._broken[device]
            elif now - since > GRACE_SECONDS:
                yield self._give_up(device, "its connection ended")
        patience_seconds = SILENCE_SECONDS if len(self._heard) > 1 else ALONE_SECONDS
        for device, heard in list(self._heard.items()):
            if now - heard > patience_seconds:
                yield self._give_up(device, f"silent for {patience_seconds:.0f} seconds")

    def _give_up(self, device: DeviceId, reason: str) -> Lost:
        self._heard.pop(device, None)
        self._broken.pop(device, None)
        return Lost(device=device, reason=reason)
