"""Decides when a device counts as lost or absent. Pure: the time is given.

A device sends heartbeats (``Job.heartbeat_seconds``), so one that says nothing for
:data:`SILENCE_SECONDS` sleeps or has lost its network. The processes of local devices are
watched besides, see :mod:`.local_devices`.
"""

from collections.abc import Iterator, Sequence, Set

from coordinator.protocol.events import Lost
from edge_runtime.contract.errors import InfeasibleError
from edge_runtime.contract.ids import DeviceId

SILENCE_SECONDS = 30.0
GATHER_SECONDS = 120.0
"""For all devices to join."""


class Liveness:
    """Keeps when each device was last heard."""

    def __init__(self, devices: Sequence[DeviceId], now: float) -> None:
        """Waits for ``devices`` from the time ``now`` on."""
        self._devices, self._gather_until = devices, now + GATHER_SECONDS
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

    def check_joined(self, joined: Set[DeviceId], now: float) -> None:
        """Raises InfeasibleError if a device has not joined in time."""
        absent = set(self._devices) - joined
        if absent and now > self._gather_until:
            raise InfeasibleError(
                f"{', '.join(sorted(absent))} did not join within {GATHER_SECONDS:.0f} seconds; "
                "run `pacplus-device start` there, or leave it out with --devices"
            )
