"""The one interface through which claims drive devices, real or fake."""

from __future__ import annotations

from typing import Protocol

from edge_runtime.contract.codec import decode_tagged, encode
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Awaiting, Heartbeat, Message, Notice, Progress
from edge_runtime.contract.messages.tag import Tag

TELEMETRY = (Heartbeat, Progress, Notice, Awaiting)


class Driver(Protocol):
    """The coordinator's end of sessions with some devices, whose caches outlive a session."""

    def start(self, session: str, *names: DeviceId) -> None:
        """Begins a session: each of the devices has said ``Hello`` and was welcomed."""

    def send(self, name: DeviceId, message: Message, tag: Tag) -> None:
        """Sends a device a message of the coordinator."""

    def send_as_peer(self, sender: DeviceId, to: DeviceId, message: Message, tag: Tag) -> None:
        """Sends a device a message in the name of another."""

    def receive(self, name: DeviceId) -> tuple[Tag, Message]:
        """The next message of a device to the coordinator, without telemetry.

        Raises:
            AssertionError: none comes.
        """

    def has_ended(self, name: DeviceId) -> bool:
        """True if the device's session ends (within a bound)."""

    def stop(self) -> None:
        """Ends the session of all devices; nothing of them goes on."""

    def part_size(self, parameters: int) -> int:
        """Values of a gradient's part that the first of two trainers takes in."""

    def abandon(self) -> None:
        """Ends the session of all devices as if the coordinator were killed."""


def over_the_wire(message: Message, tag: Tag) -> tuple[Message, Tag]:
    """Encodes and decodes a message."""
    tag, message = decode_tagged(encode(message, tag))
    return message, tag
