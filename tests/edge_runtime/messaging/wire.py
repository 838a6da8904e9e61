"""Two ends of a link in memory; connections may break and lose what is on the way."""

from __future__ import annotations

import collections

from edge_runtime.contract.codec import Frame
from edge_runtime.contract.ids import DeviceId
from edge_runtime.messaging.flow_control import PeerLinks, size_bytes
from edge_runtime.messaging.link_header import LinkHeader

PEER = DeviceId("peer")


class Pair:
    """``near`` sends to ``far`` over ``wire``; what ``far`` says of it comes ``back``."""

    def __init__(self) -> None:
        self.wire: collections.deque[list[Frame]] = collections.deque()
        self.back: collections.deque[list[Frame]] = collections.deque()
        self.arrived: list[int] = []
        self.contents: list[list[Frame]] = []
        self.is_open = True
        self.near = PeerLinks(self._onward, lambda *_: False)
        self.far = PeerLinks(lambda *_: False, self._backward)
        for end in (self.near, self.far):
            end.set_peers([PEER])

    def _onward(self, peer: DeviceId, frames: list[Frame]) -> bool:
        if self.is_open:
            self.wire.append(frames)
        return self.is_open

    def _backward(self, peer: DeviceId, frames: list[Frame]) -> bool:
        self.back.append(frames)
        return True

    def connect(self) -> None:
        """Makes a connection, which takes the place of a former one."""
        self.near.connected(PEER)
        self.settle()

    def restart_far(self) -> None:
        """Another process is there now, with nothing that the former one knew."""
        self.far = PeerLinks(lambda *_: False, self._backward)
        self.far.set_peers([PEER])
        self.arrived.clear()
        self.contents.clear()

    def lose(self, onward: int, backward: int) -> None:
        """Loses the last messages on the way, as a connection does that breaks."""
        for queue, count in ((self.wire, onward), (self.back, backward)):
            for _ in range(min(count, len(queue))):
                queue.pop()

    def bring_onward(self) -> None:
        """Brings the next message to ``far``."""
        header, *frames = self.wire.popleft()
        size = size_bytes(frames)
        if self.far.arrived(PEER, LinkHeader.unpack(header), size):
            self.arrived.append(size)
            self.contents.append(frames)
        self.far.pump()

    def bring_back(self) -> None:
        """Brings the next answer to ``near``."""
        self.near.arrived(PEER, LinkHeader.unpack(self.back.popleft()[0]), 0)

    def deliver(self) -> None:
        """Brings what is on the way."""
        while self.wire or self.back:
            while self.wire:
                self.bring_onward()
            while self.back:
                self.bring_back()

    def settle(self) -> None:
        """Goes on until nothing more is sent."""
        self.near.pump()
        while self.wire or self.back:
            self.deliver()
            self.near.pump()
