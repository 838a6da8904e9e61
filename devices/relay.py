"""Emulates a slow link in user space: a TCP relay with a bandwidth and a latency.

Kernel traffic shaping is not available everywhere, so a device's connections pass
through a relay instead. It copies bytes and knows no protocol: encrypted streams pass
opaque.

Each direction of a link is a :class:`Shaper`, shared by all of the link's connections: a
chunk takes ``size / rate`` on the wire, one chunk after the other, and arrives a latency
later. A chunk is read only when the wire is about to be free, so a relay holds little
more than what is on its way (rate x latency), and TCP's own flow control holds up the
sender.

A relay's CPU time depends on the chunks a second, hardly on their size, so chunks are as
large as a few milliseconds allow and stay in the kernel until they are due.
:data:`devices.specification.HOST_SHARE` says what was measured.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import math
import socket
import threading
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

Address = tuple[str, int]
_Arrivals = asyncio.Queue[tuple[float, bytes]]

_LOOKAHEAD_SECONDS = 0.004
"""Reading pauses once the wire is taken for this long."""

_RESUME_SECONDS = 0.0015
"""Reading goes on this much before the wire is free, since timers are late by 1 ms or so.
Below the lookahead, so that bytes gather meanwhile: a sender that writes small pieces would
otherwise be read piece by piece, and each piece costs as much as a whole chunk."""

_CHUNK_SECONDS = 0.004
_MIN_CHUNK_BYTES = 1_500
_MAX_CHUNK_BYTES = 262_144
_SOCKET_BUFFER_BYTES = 131_072
"""Kernel buffers hide the sender's bytes from the wire; the kernel grants twice this."""

_CLOSE_SECONDS = 5.0


class Shaper:
    """Computes when bytes that are sent over a link arrive; reads no clock."""

    def __init__(self, bytes_per_second: float, latency_seconds: float) -> None:
        self.bytes_per_second = bytes_per_second
        self.latency_seconds = latency_seconds
        self.free_at = -math.inf

    def send(self, now: float, size_bytes: int) -> float:
        """Puts ``size_bytes`` on the wire at ``now`` or when it is free; returns the arrival."""
        self.free_at = max(now, self.free_at) + size_bytes / self.bytes_per_second
        return self.free_at + self.latency_seconds

    @property
    def chunk_bytes(self) -> int:
        """A chunk that takes a few milliseconds."""
        wanted = int(self.bytes_per_second * _CHUNK_SECONDS)
        return min(max(wanted, _MIN_CHUNK_BYTES), _MAX_CHUNK_BYTES)

    @property
    def chunks_in_flight(self) -> int:
        """As many chunks as are on their way at full rate, and a few more."""
        in_flight_bytes = self.bytes_per_second * (self.latency_seconds + _LOOKAHEAD_SECONDS)
        return math.ceil(in_flight_bytes / self.chunk_bytes) + 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes that a link has carried, from and to its device."""

    sent_bytes: int
    received_bytes: int


class Link:
    """One device's link, with a thread of its own; a context manager.

    The rate holds for each direction, over all relayed connections together; the latency is
    one way. A dilated emulation passes rate / dilation and latency x dilation.
    """

    def __init__(self, *, rate_bits_per_second: float, latency_seconds: float) -> None:
        """Starts the thread; nothing is relayed yet."""
        if not rate_bits_per_second > 0 or not latency_seconds >= 0:
            raise ValueError("the rate must be positive and the latency not negative")
        self.rate_bits_per_second = rate_bits_per_second
        self.latency_seconds = latency_seconds
        self._up = Shaper(rate_bits_per_second / 8, latency_seconds)
        self._down = Shaper(rate_bits_per_second / 8, latency_seconds)
        self._carried = {"up": 0, "down": 0}
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: dict[Address, socket.socket] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._carries = asyncio.Event()
        self._carries.set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link", daemon=True)
        self._thread.start()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def traffic(self) -> Traffic:
        """Bytes carried so far."""
        return Traffic(sent_bytes=self._carried["up"], received_bytes=self._carried["down"])

    def relay(
        self, target: Address, *, listen: Address = ("127.0.0.1", 0), to_device: bool = False
    ) -> Address:
        """Relays connections made to ``listen`` (port 0: any free one) on to ``target``.

        Args:
            target: where connections go.
            listen: where they come.
            to_device: the device is at ``target``; otherwise it is the one that connects.

        Returns:
            The address that it listens at.

        Raises:
            OSError: ``listen`` is in use or not an address of this machine.
        """
        return self._call(self._serve(target, listen, to_device))

    def stop(self, listening: Address) -> None:
        """Listens at an address of :meth:`relay` no more; what is connected stays."""
        self._call(self._leave(listening))

    def break_connections(self) -> None:
        """Closes all connections; new ones are relayed as before."""
        self._call(_cancel(tuple(self._connections)))

    def cut(self) -> None:
        """Carries nothing until :meth:`mend`, as a network does that is out of reach."""
        self._loop.call_soon_threadsafe(self._carries.clear)

    def mend(self) -> None:
        """Carries again, first what was held up."""
        self._loop.call_soon_threadsafe(self._carries.set)

    def close(self) -> None:
        """Closes all connections and ends the thread."""
        if self._loop.is_closed():
            return
        self._call(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_SECONDS)
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _serve(self, target: Address, listen: Address, to_device: bool) -> Address:
        listener = socket.create_server(listen)
        listener.setblocking(False)
        # Accepted connections inherit it.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
        host, port = listener.getsockname()[:2]
        self._listeners[host, port] = listener
        # Not sock_accept(): one that is cancelled loses what it has accepted.
        self._loop.add_reader(listener, self._accept, listener, target, to_device)
        return host, port

    async def _leave(self, listening: Address) -> None:
        listener = self._listeners.pop(listening)
        self._loop.remove_reader(listener)
        listener.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _accept(self, listener: socket.socket, target: Address, to_device: bool) -> None:
        try:
            near, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # who dialled has gone
            return
        connection = self._start(self._join(target, to_device, near))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)
        # One that is cancelled before it begins never gets to close it.
        connection.add_done_callback(partial(_closed, near))

    async def _join(self, target: Address, to_device: bool, near: socket.socket) -> None:
        family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        with near, socket.socket(family, socket.SOCK_STREAM) as far:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
            for end in (near, far):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            onward, back = ("down", "up") if to_device else ("up", "down")
            try:
                await self._carries.wait()
                await self._loop.sock_connect(far, target)
                await _all_or_none(self._pump(onward, near, far), self._pump(back, far, near))
            except OSError as error:
                _logger.debug("relayed connection to %s ended: %s", target, error)

    async def _pump(self, direction: str, source: socket.socket, sink: socket.socket) -> None:
        """Carries one direction of one connection until its end, and passes the end on."""
        shaper = self._up if direction == "up" else self._down
        arrivals = _Arrivals(shaper.chunks_in_flight)
        await _all_or_none(
            self._read(direction, shaper, source, arrivals), self._deliver(arrivals, sink)
        )

    async def _read(
        self, direction: str, shaper: Shaper, source: socket.socket, arrivals: _Arrivals
    ) -> None:
        while True:
            data = await self._loop.sock_recv(source, shaper.chunk_bytes)
            arrival = shaper.send(self._loop.time(), len(data))
            await arrivals.put((arrival, data))
            if not data:
                return
            self._carried[direction] += len(data)
            if shaper.free_at - self._loop.time() > _LOOKAHEAD_SECONDS:
                await self._sleep_until(shaper.free_at - _RESUME_SECONDS)

    async def _deliver(self, arrivals: _Arrivals, sink: socket.socket) -> None:
        while True:
            arrival, data = await arrivals.get()
            await self._sleep_until(arrival)
            await self._carries.wait()
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            await self._loop.sock_sendall(sink, data)

    async def _sleep_until(self, when: float) -> None:
        delay = when - self._loop.time()
        if delay > 0:
            await asyncio.sleep(delay)

    async def _shut(self) -> None:
        for listening in tuple(self._listeners):
            await self._leave(listening)
        await _cancel(tuple(self._tasks))


def _closed(accepted: socket.socket, _: asyncio.Task[None]) -> None:
    accepted.close()


async def _all_or_none(*works: Coroutine[Any, Any, None]) -> None:
    """Runs ``works`` together; when one fails the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _cancel(tasks)


async def _cancel(tasks: Sequence[asyncio.Future[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
