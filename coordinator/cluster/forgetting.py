"""Decides what a device that joins is told to forget, and when it has. Pure."""

from collections.abc import Mapping, Sequence

from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Forget, Forgotten


class Forgetting:
    """Requests that devices have not confirmed; those of a device are answered in their order.

    Attributes:
        freed_bytes: by the devices that have answered.
        refused: why a device could not do all of it.
    """

    def __init__(self, wanted: Mapping[DeviceId, Sequence[Forget]]) -> None:
        self._wanted = {device: list(requests) for device, requests in wanted.items() if requests}
        self._asked: dict[DeviceId, list[Forget]] = {}
        self.freed_bytes: dict[DeviceId, int] = {}
        self.refused: dict[DeviceId, str] = {}

    @property
    def unanswered(self) -> frozenset[DeviceId]:
        """Devices that have not joined or not answered yet."""
        return frozenset(
            device
            for device, requests in self._wanted.items()
            if requests and device not in self.refused
        )

    def joined(self, device: DeviceId) -> tuple[Forget, ...]:
        """Requests for a device that has joined, again if it joins again before it answers."""
        self._asked[device] = list(self._wanted.get(device, ()))
        return tuple(self._asked[device])

    def answered(self, device: DeviceId, answer: Forgotten) -> Forget | None:
        """Takes an answer down; returns the request that is done with.

        None if the device could not do it, or nobody had asked.
        """
        if not self._asked.get(device):
            return None
        request = self._asked[device].pop(0)
        self.freed_bytes[device] = self.freed_bytes.get(device, 0) + answer.bytes
        if answer.refused:
            self.refused[device] = answer.refused
            return None
        self._wanted[device].remove(request)
        return request
