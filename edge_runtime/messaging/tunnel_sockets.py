"""Lets connections to a peer travel through the coordinator, by loopback sockets.

For every peer that is reached this way there is a listening socket on loopback, which the
link to the peer dials as if the peer were there. What the peer opens is passed on to this
device's own data socket. A thread of its own moves the bytes; it knows no keys.
"""

import collections
import dataclasses
import itertools
import logging
import queue
import selectors
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias

import numpy as np

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Tunnel, TunnelDirection
from edge_runtime.transport import Address, Wakeup

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
CHUNK_BYTES = 64 << 10
MOST_STREAMS = 8
"""Of one peer: what it opens anew while old ones are not closed yet."""

_CONNECT_SECONDS = 2.0

_Key: TypeAlias = tuple[DeviceId, int, bool]
"""Peer, number, and whether this device opened the stream."""


@dataclasses.dataclass(slots=True)
class _Stream:
    key: _Key
    socket: socket.socket
    onward: TunnelDirection = dataclasses.field(default_factory=TunnelDirection)
    back: TunnelDirection = dataclasses.field(default_factory=TunnelDirection)
    unwritten: collections.deque[memoryview] = dataclasses.field(default_factory=collections.deque)


class TunnelSockets:
    """Streams to and from the peers that are reached through the coordinator."""

    def __init__(self, send: Callable[[Tunnel], None], own: Address) -> None:
        """``send`` hands a message to the coordinator; ``own`` is this device's data socket."""
        self._send = send
        self._own = (LOOPBACK if own.is_wildcard else own.host, own.port)
        self._listeners: dict[DeviceId, socket.socket] = {}
        self._streams: dict[_Key, _Stream] = {}
        self._numbers = itertools.count(1)
        self._selector = selectors.DefaultSelector()
        self._wakeup = Wakeup()
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tunnel", daemon=True)
        self._thread.start()

    # ---- any thread

    def way_to(self, peer: DeviceId) -> Address:
        """Opens the way to ``peer`` and returns the address to dial."""
        listener = socket.create_server((LOOPBACK, 0))
        listener.setblocking(False)
        self._do(lambda: self._listen(peer, listener))
        return Address(host=LOOPBACK, port=listener.getsockname()[1])

    def keep(self, peers: Iterable[DeviceId]) -> None:
        """Closes the ways to and from all but these peers."""
        kept = frozenset(peers)
        self._do(lambda: self._keep(kept))

    def put(self, message: Tunnel) -> None:
        """Takes in what the coordinator forwards."""
        self._do(lambda: self._take_in(message))

    def reset(self) -> None:
        """Closes all streams: the connection to the coordinator is new, bytes may be lost."""
        self._do(self._close_all)

    def close(self) -> None:
        """Closes everything and ends the thread."""
        self._work.put(None)
        self._wakeup.signal()
        self._thread.join()
        self._wakeup.close()

    def _do(self, work: Callable[[], None]) -> None:
        self._work.put(work)
        self._wakeup.signal()

    # ---- the tunnel's thread

    def _run(self) -> None:
        while True:
            self._wakeup.clear()
            while not self._work.empty():
                work = self._work.get_nowait()
                if work is None:
                    self._keep(frozenset())
                    self._selector.close()
                    return
                work()
            for key, events in self._selector.select():
                if isinstance(key.data, _Stream):
                    self._serve(key.data, events)
                elif key.data is not None:
                    self._accept(key.data)

    def _listen(self, peer: DeviceId, listener: socket.socket) -> None:
        self._stop_listening(peer)
        self._listeners[peer] = listener
        self._selector.register(listener, selectors.EVENT_READ, peer)

    def _stop_listening(self, peer: DeviceId) -> None:
        if (listener := self._listeners.pop(peer, None)) is not None:
            self._selector.unregister(listener)
            listener.close()

    def _keep(self, kept: frozenset[DeviceId]) -> None:
        for peer in self._listeners.keys() - kept:
            self._stop_listening(peer)
        for key in [key for key in self._streams if key[0] not in kept]:
            self._end(self._streams[key])

    def _close_all(self) -> None:
        for stream in list(self._streams.values()):
            self._end(stream)

    def _accept(self, peer: DeviceId) -> None:
        try:
            accepted, _ = self._listeners[peer].accept()
        except OSError:
            return  # it was gone before it was accepted
        stream = self._add((peer, next(self._numbers), True), accepted)
        if stream is not None:
            self._tell(stream, _message(stream.key, "data"))

    def _add(self, key: _Key, end: socket.socket) -> _Stream | None:
        if sum(1 for other in self._streams if other[0] == key[0]) >= MOST_STREAMS:
            logger.info("too many forwarded connections of %s", key[0])
            end.close()
            return None
        end.setblocking(False)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = self._streams[key] = _Stream(key, end)
        self._selector.register(end, selectors.EVENT_READ, stream)
        return stream

    def _take_in(self, message: Tunnel) -> None:
        key = (message.peer, message.stream, not message.by_sender)
        stream = self._streams.get(key) or self._opened(key, message)
        if stream is None:
            return
        try:
            if message.event == "data":
                stream.back.send(message)
                stream.unwritten.append(message.data.data)
            elif message.event == "taken":
                stream.onward.take(message)
        except RemoteError as error:
            logger.info("%s: %s", message.peer, error)
            self._end(stream)
            return
        if message.event == "closed":
            self._end(stream, tell=False)
        else:
            self._write(stream)

    def _opened(self, key: _Key, message: Tunnel) -> _Stream | None:
        """The stream that a message opens, if it may."""
        opens = message.event == "data" and message.by_sender and not message.total
        if opens and message.peer in self._listeners:
            try:
                return self._add(key, socket.create_connection(self._own, _CONNECT_SECONDS))
            except OSError as error:
                logger.info("the own data socket does not answer: %s", error)
        if message.event != "closed":
            self._send(_message(key, "closed"))
        return None

    def _serve(self, stream: _Stream, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._write(stream)
        if events & selectors.EVENT_READ and stream.key in self._streams:
            self._read(stream)

    def _read(self, stream: _Stream) -> None:
        try:
            data = stream.socket.recv(min(CHUNK_BYTES, stream.onward.room_bytes))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(stream)
            return
        message = _message(stream.key, "data", stream.onward.sent_bytes, data)
        stream.onward.send(message)
        self._tell(stream, message)

    def _write(self, stream: _Stream) -> None:
        written = 0
        try:
            while stream.unwritten:
                count = stream.socket.send(stream.unwritten[0])
                written += count
                stream.unwritten[0] = stream.unwritten[0][count:]
                if not stream.unwritten[0]:
                    stream.unwritten.popleft()
        except BlockingIOError:
            pass
        except OSError:
            self._end(stream)
            return
        if written:
            stream.back.taken_bytes += written
            self._tell(stream, _message(stream.key, "taken", stream.back.taken_bytes))
        self._watch(stream)

    def _tell(self, stream: _Stream, message: Tunnel) -> None:
        self._send(message)
        self._watch(stream)

    def _watch(self, stream: _Stream) -> None:
        reads = selectors.EVENT_READ if stream.onward.room_bytes > 0 else 0
        writes = selectors.EVENT_WRITE if stream.unwritten else 0
        registered = stream.socket in self._selector.get_map()
        if registered and not reads | writes:
            self._selector.unregister(stream.socket)
        elif registered:
            self._selector.modify(stream.socket, reads | writes, stream)
        elif reads | writes:
            self._selector.register(stream.socket, reads | writes, stream)

    def _end(self, stream: _Stream, *, tell: bool = True) -> None:
        del self._streams[stream.key]
        if stream.socket in self._selector.get_map():
            self._selector.unregister(stream.socket)
        stream.socket.close()
        if tell:
            self._send(_message(stream.key, "closed"))


def _message(
    key: _Key, event: Literal["data", "taken", "closed"], total: int = 0, data: bytes = b""
) -> Tunnel:
    peer, number, opened_here = key
    return Tunnel(
        peer=peer,
        stream=number,
        by_sender=opened_here,
        event=event,
        total=total,
        data=np.frombuffer(data, np.uint8),
    )
