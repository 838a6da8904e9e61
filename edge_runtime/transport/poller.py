"""Waits on several sockets at once, and wakes the waiting thread from another."""

import contextlib
import socket
from typing import Any, Generic, Protocol, TypeVar

import zmq

from .events import poll_milliseconds


class Wakeup:
    """Lets any thread (or a signal handler) wake the one that polls :meth:`fileno`.

    Signals do not add up: many before a :meth:`clear` wake once. A socket pair rather
    than an eventfd or a pipe, since it can be polled on every platform.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def signal(self) -> None:
        """Wakes the waiting thread; never blocks; harmless after :meth:`close`."""
        # BlockingIOError: so many signals are pending that another adds nothing.
        with contextlib.suppress(OSError):
            self._writer.send(b"\0")

    def clear(self) -> None:
        """Takes back all signals so far; call it before looking for the work they announce."""
        with contextlib.suppress(OSError):
            while self._reader.recv(4096):
                pass

    def fileno(self) -> int:
        """Descriptor that is readable while a signal is pending."""
        return self._reader.fileno()

    def close(self) -> None:
        """Frees both descriptors."""
        self._reader.close()
        self._writer.close()


class Pollable(Protocol):
    """An end of the transport."""

    def poll_handles(self) -> tuple[Any, ...]:
        """Its sockets."""
        ...

    def poll_timeout(self) -> float | None:
        """Seconds until it needs a call even when nothing arrives; None: never."""
        ...


P = TypeVar("P", bound=Pollable)


class SocketPoller(Generic[P]):
    """Waits until one of several routers and dealers needs attention, or a wake-up comes.

    Belongs to the thread that owns the sockets; others call ``wakeup.signal()``.

    Args:
        wakeup: signalled by other threads; cleared here before :meth:`wait` returns.
    """

    def __init__(self, wakeup: Wakeup) -> None:
        self._wakeup = wakeup
        self._poller = zmq.Poller()
        self._poller.register(wakeup.fileno(), zmq.POLLIN)
        self._ends: dict[Any, P] = {}

    def register(self, end: P) -> None:
        """Waits on ``end`` too, from now on."""
        for handle in end.poll_handles():
            self._poller.register(handle, zmq.POLLIN)
            self._ends[handle] = end

    def unregister(self, end: P) -> None:
        """Waits no longer on ``end``; call it before closing it."""
        for handle in end.poll_handles():
            self._poller.unregister(handle)
            del self._ends[handle]

    def wait(self, timeout: float | None) -> list[P]:
        """Waits for messages, changes of a connection, or a wake-up; returns the ends to serve.

        Call ``recv`` on each. There is none after a wake-up, or when ``timeout`` seconds are
        over; a timeout of None waits for ever.
        """
        timeouts = {id(end): (end, end.poll_timeout()) for end in self._ends.values()}
        waits = [wait for _, wait in timeouts.values() if wait is not None]
        if timeout is not None:
            waits.append(timeout)
        handles = self._poller.poll(poll_milliseconds(min(waits, default=None)))
        ready = {key: end for key, (end, _) in timeouts.items() if end.poll_timeout() == 0}
        for handle, _ in handles:
            end = self._ends.get(handle)
            if end is None:
                self._wakeup.clear()
            else:
                ready[id(end)] = end
        return list(ready.values())
