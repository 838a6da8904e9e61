"""Remembers which devices cannot reach each other, and when that may have changed. Pure."""

from edge_runtime.contract.ids import DeviceId

Pair = frozenset[DeviceId]


class RelayedPairs:
    """Pairs whose messages are forwarded.

    The direct way is tried again when both have joined anew, or one of them at another address:
    not with each of a device's returns, since each failure costs all of them a term.
    """

    def __init__(self) -> None:
        self._came_back: dict[Pair, set[DeviceId]] = {}
        self._hosts: dict[DeviceId, str] = {}

    def __contains__(self, pair: Pair) -> bool:
        return pair in self._came_back

    def add(self, pair: Pair) -> None:
        """Has a pair's messages forwarded."""
        self._came_back[pair] = set()

    def joined(self, device: DeviceId, address: str) -> list[Pair]:
        """Takes down that a device joins; forgets and returns the pairs to be tried again."""
        host = address.rpartition(":")[0]
        moved = self._hosts.get(device, host) != host
        self._hosts[device] = host
        again = []
        for pair, came_back in self._came_back.items():
            if device in pair:
                came_back.add(device)
                if moved or came_back == pair:
                    again.append(pair)
        for pair in again:
            del self._came_back[pair]
        return again
