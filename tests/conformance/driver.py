"""The one interface through which claims drive devices, real or fake."""

from __future__ import annotations

from typing import Protocol

from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Heartbeat, Message, Notice, Progress

TELEMETRY = (Heartbeat, Progress, Notice)


class Driver(Protocol):
    """The coordinator's end of sessions with some devices, whose caches outlive a session."""

    def start(self, *names: DeviceId) -> None:
        """Begins a session: each of the devices has said ``Hello`` and was welcomed."""

    def send(self, name: DeviceId, message: Message) -> None:
        """Sends a device a message of the coordinator."""

    def send_as_peer(self, sender: DeviceId, to: DeviceId, message: Message) -> None:
        """Sends a device a message in the name of another."""

    def receive(self, name: DeviceId) -> Message:
        """The next message of a device to the coordinator, without telemetry.

        Raises:
            AssertionError: none comes.
        """

    def has_ended(self, name: DeviceId) -> bool:
        """True if the device's session ends (within a bound)."""

    def stop(self) -> None:
        """Ends the session of all devices; nothing of them goes on."""
