"""How jobs and handlers hand messages over for sending, from any thread."""

from typing import Protocol

from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Message


class Outbox(Protocol):
    """Accepts messages; the I/O thread sends them."""

    def to_coordinator(self, message: Message) -> None:
        """Queues a message to the coordinator."""

    def to_peer(self, peer: DeviceId, message: Message) -> None:
        """Queues a message to another device."""

    def wait_for_room(self) -> None:
        """Blocks while too many bytes wait for peers."""
