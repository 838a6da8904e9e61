"""Tells a device that was started again from a second device with the same key. Pure.

A copied home gives two devices one key, and so one name. Each process draws an instance id and
says it in ``Hello``. When another instance says hello under a name, the connection of the first
one decides: if it ends, the device was started again; if it still speaks, both are alive.
"""

import dataclasses
from collections.abc import Callable, Iterator

from coordinator.protocol.events import Cloned
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Hello

SETTLE_SECONDS = 1.0
"""What the first one had sent before may still arrive for so long."""
DECIDE_SECONDS = 20.0
"""Longer than the silence between two heartbeats; a device whose power failed says nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Doubt:
    connection: bytes
    since: float
    newcomer: Hello
    newcomers: bytes


class Instances:
    """Keeps the instance of every device, and the connections that are in doubt."""

    def __init__(self) -> None:
        self._known: dict[DeviceId, tuple[str, bytes]] = {}
        self._doubts: dict[DeviceId, _Doubt] = {}

    def greeted(self, device: DeviceId, hello: Hello, connection: bytes, now: float) -> bool:
        """Takes a hello down; False if it is another instance's, which is in doubt for now."""
        before, first = self._known.setdefault(device, (hello.instance, connection))
        if before == hello.instance:
            self._known[device] = (hello.instance, connection)
            return True
        since = self._doubts[device].since if device in self._doubts else now
        self._doubts[device] = _Doubt(first, since, hello, connection)
        return False

    def is_doubtful(self, device: DeviceId) -> bool:
        """Tells whether it is not known yet which process speaks for the device."""
        return device in self._doubts

    def heard(self, device: DeviceId, connection: bytes, now: float) -> Cloned | None:
        """Takes down that a message came; says if the first instance speaks beside another."""
        doubt = self._doubts.get(device)
        if doubt is None or doubt.connection != connection or now - doubt.since < SETTLE_SECONDS:
            return None
        return Cloned(device=device)

    def restarted(
        self, is_connected: Callable[[bytes], bool], now: float
    ) -> Iterator[tuple[DeviceId, Hello]]:
        """Gives the devices whose first instance is gone, once, with the hello of the other."""
        for device, doubt in list(self._doubts.items()):
            if not is_connected(doubt.connection) or now - doubt.since > DECIDE_SECONDS:
                del self._doubts[device]
                self._known[device] = (doubt.newcomer.instance, doubt.newcomers)
                yield device, doubt.newcomer
