"""Decides when a broken connection to a peer counts as lost. Pure: the time is given."""

from collections.abc import Mapping

from edge_runtime.contract.ids import DeviceId

RECONNECT_SECONDS = 6.0
"""A blip of a wireless network is over by then, and a run should not stand still for longer."""


class BrokenLinks:
    """Keeps since when each peer that was reached before has not been."""

    def __init__(self, reconnect_seconds: float) -> None:
        self._reconnect_seconds = reconnect_seconds
        self._until: dict[DeviceId, float | None] = {}

    def lost(self, reached: Mapping[DeviceId, bool], now: float) -> list[DeviceId]:
        """Names those that could not be reached again in time, once for each break."""
        lost = []
        for peer, is_reached in reached.items():
            if is_reached:
                self._until[peer] = None
            elif peer in self._until:
                until = self._until[peer]
                if until is None:
                    self._until[peer] = now + self._reconnect_seconds
                elif now >= until:
                    del self._until[peer]  # until it is reached again
                    lost.append(peer)
        return lost

    def forget(self, peer: DeviceId) -> None:
        """Forgets a peer that is none any more."""
        self._until.pop(peer, None)
