"""Routes from devices to their connections; pure bookkeeping, no sockets."""

import collections
import dataclasses

from edge_runtime.contract.ids import DeviceId

_MOST_ENDED = 256


@dataclasses.dataclass(frozen=True, slots=True)
class _Connection:
    device: DeviceId
    descriptor: int


class Routes:
    """Routing ids of authenticated connections, and the latest one of every device.

    A device may have two connections for a while: after it changed its address, the old
    one looks alive until its heartbeat fails. The latest that has spoken for the first
    time is the one to send to.
    """

    def __init__(self) -> None:
        self._ended: collections.deque[tuple[bytes, _Connection]] = collections.deque(
            maxlen=_MOST_ENDED
        )
        self._connections: dict[bytes, _Connection] = {}
        self._current: dict[DeviceId, bytes] = {}

    def arrived(self, device: DeviceId, routing_id: bytes, descriptor: int) -> None:
        """Notes a message of ``device`` that came by ``routing_id``."""
        connection = _Connection(device, descriptor)
        known = self._connections.get(routing_id)
        if known == connection:
            self._current.setdefault(device, routing_id)
            return
        if (routing_id, connection) in self._ended:
            return  # it had been read by ZeroMQ before the connection ended
        if known is not None:
            self._drop(routing_id)  # ZeroMQ gave the id to another connection
        self._connections[routing_id] = connection
        self._current[device] = routing_id

    def disconnected(self, descriptor: int) -> list[tuple[DeviceId, bytes]]:
        """Forgets a connection; returns whose it was and its routing id, if it was known."""
        ended = [item for item in self._connections.items() if item[1].descriptor == descriptor]
        for routing_id, connection in ended:
            self._ended.append((routing_id, connection))
            self._drop(routing_id)
        return [(connection.device, routing_id) for routing_id, connection in ended]

    def forget(self, device: DeviceId) -> None:
        """Forgets all connections of ``device``."""
        kept = {rid: known for rid, known in self._connections.items() if known.device != device}
        self._connections = kept
        self._current.pop(device, None)

    def to(self, device: DeviceId) -> bytes | None:
        """Routing id to send to."""
        return self._current.get(device)

    def holds(self, routing_id: bytes) -> bool:
        """Tells whether a connection of that routing id is known."""
        return routing_id in self._connections

    def devices(self) -> frozenset[DeviceId]:
        """Devices that have a connection."""
        return frozenset(self._current)

    def _drop(self, routing_id: bytes) -> None:
        device = self._connections.pop(routing_id).device
        if self._current.get(device) == routing_id:
            del self._current[device]
            for other, connection in self._connections.items():
                if connection.device == device:
                    self._current[device] = other
