"""Decides which bytes between devices the coordinator forwards. Pure.

Two devices that cannot reach each other are told so in ``Peers``; only between such pairs
anything is forwarded. The bytes are those of an encrypted connection whose keys the
coordinator does not have. A stream has a window for each direction, and what is forwarded
but not yet taken is all that the coordinator may have to keep: a device that sends more, or
opens more streams than it needs, has them closed.
"""

import dataclasses
import logging
from collections.abc import Iterator
from typing import TypeAlias

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Peers, Tunnel, TunnelDirection

logger = logging.getLogger(__name__)

MOST_STREAMS = 8
"""That one device may have opened to another one; more than one only while links are mended."""

_Key: TypeAlias = tuple[DeviceId, DeviceId, int]
"""The device that opened the stream, the other one, and the number."""

_Sent: TypeAlias = Iterator[tuple[DeviceId, Tunnel]]


class Forwarding:
    """Keeps the pairs and their streams."""

    def __init__(self) -> None:
        self._relayed: dict[DeviceId, frozenset[DeviceId]] = {}
        self._streams: dict[_Key, dict[DeviceId, TunnelDirection]] = {}

    def told(self, device: DeviceId, peers: Peers) -> None:
        """Notes which peers a device is told to reach through the coordinator."""
        self._relayed[device] = frozenset(peer.device for peer in peers.peers if peer.relayed)
        for key in [key for key in self._streams if device in key[:2]]:
            if not self._may(key[0], key[1]):
                del self._streams[key]

    def take(self, sender: DeviceId, message: Tunnel) -> list[tuple[DeviceId, Tunnel]]:
        """Returns the messages to send on, and to whom."""
        other = message.peer
        opener, opened = (sender, other) if message.by_sender else (other, sender)
        key = (opener, opened, message.stream)
        try:
            stream = self._stream(key, sender, message)
            if message.event == "data":
                stream[sender].send(message)
            elif message.event == "taken":
                stream[other].take(message)
        except RemoteError as error:
            self._streams.pop(key, None)
            if message.event == "closed":
                return []
            logger.info("a forwarded connection of %s to %s is closed: %s", sender, other, error)
            return list(_closed(sender, message))
        if message.event == "closed":
            del self._streams[key]
        return [(other, dataclasses.replace(message, peer=sender))]

    def _may(self, one: DeviceId, other: DeviceId) -> bool:
        """Tells whether both were told to reach each other this way."""
        nobody = frozenset[DeviceId]()
        theirs, ours = self._relayed.get(one, nobody), self._relayed.get(other, nobody)
        return other in theirs and one in ours

    def _stream(
        self, key: _Key, sender: DeviceId, message: Tunnel
    ) -> dict[DeviceId, TunnelDirection]:
        """The stream that a message belongs to, or that it opens.

        Raises:
            RemoteError: there is none, and it may not be opened.
        """
        if (stream := self._streams.get(key)) is not None:
            return stream
        if message.event != "data" or not message.by_sender or message.total:
            raise RemoteError("it is not open")
        if not self._may(sender, message.peer):
            raise RemoteError("they are not told to connect this way")
        if sum(1 for other in self._streams if other[:2] == key[:2]) >= MOST_STREAMS:
            raise RemoteError("too many are open")
        stream = self._streams[key] = {sender: TunnelDirection(), message.peer: TunnelDirection()}
        return stream


def _closed(sender: DeviceId, message: Tunnel) -> _Sent:
    """Tells both ends that a stream is closed."""
    closed = Tunnel(
        peer=message.peer, stream=message.stream, by_sender=not message.by_sender, event="closed"
    )
    yield sender, closed
    yield message.peer, dataclasses.replace(closed, peer=sender, by_sender=message.by_sender)
