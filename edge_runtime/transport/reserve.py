"""Keeps file descriptors free, however many strangers connect and hold their connections.

A connection costs a descriptor from its first packet on, long before a key is asked for, and
ZeroMQ has no limit for them: 1,000 connections of somebody without any key would leave a process
under the usual limit unable to open a file. Authenticated or not, a connection that has not shown
its key after ``SocketLimits.handshake_seconds`` is closed; so it suffices to let no more in for a
while. On Linux a listening socket can be told to drop what asks for a connection, by a packet
filter that needs no privilege (``SO_ATTACH_FILTER``); whoever asks tries again by itself a second
later. Established connections do not notice.

The descriptors themselves are the measure: the lowest free one is the number of those in use, but
for gaps, which strangers fill first. ZeroMQ may accept faster than this thread is woken, so some
descriptors are taken beforehand, and given back once the sockets are shut: whatever happens, they
are there a moment later. Elsewhere than on Linux only the limit is raised.
"""

import contextlib
import ctypes
import logging
import os
import select
import socket
import struct
import sys
import threading
import time

logger = logging.getLogger(__name__)

MOST_FOR_STRANGERS = 1024
MOST_SPARE = 128
"""More than connections wait to be accepted, by what a run opens at a time."""

WANTED_LIMIT = 4096
"""Soft limit of descriptors that a process asks for, if its hard limit is not lower."""

CHECK_SECONDS = 0.2
"""Between looks at the descriptors while nobody is let in."""

ACCEPT_SECONDS = 0.002
"""ZeroMQ's time to accept a connection before this thread looks again."""

LOG_SECONDS = 60.0

# Of <linux/filter.h> and <asm-generic/socket.h>; Python's socket module does not name them.
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_RETURN_NOTHING = struct.pack("HBBI", 0x06, 0, 0, 0)


def raise_descriptor_limit() -> int | None:
    """Raises this process's soft limit towards its hard one; returns it, if there is one."""
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_LIMIT if hard == resource.RLIM_INFINITY else min(WANTED_LIMIT, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            logger.debug("the limit of open files stays at %d", soft)
        else:
            soft = wanted
    return None if soft == resource.RLIM_INFINITY else soft


class DescriptorReserve:
    """Watches listening sockets from a thread of its own; one a context.

    Strangers may take a quarter of the descriptors that are free when the first socket listens.
    """

    def __init__(self) -> None:
        limit = raise_descriptor_limit()
        self._limit = limit if sys.platform in ("linux", "android") else None
        self._lock = threading.Lock()
        self._listeners: dict[int, socket.socket] = {}
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._thread: threading.Thread | None = None
        self._most = 0
        self._spares: list[int] = []
        self._is_shut = self._closed = False
        self._log_at, self._unlogged = -LOG_SECONDS, 0

    def watch(self, descriptor: int) -> None:
        """Watches the listening socket of that descriptor until :meth:`release`."""
        if self._limit is None:
            return
        with self._lock:
            # A copy: ZeroMQ's own may be closed, and its number given away, at any moment.
            self._listeners[descriptor] = socket.socket(fileno=os.dup(descriptor))
            if self._thread is None:
                used = self._lowest_free()
                self._most = used + min((self._limit - used) // 4, MOST_FOR_STRANGERS)
                self._take_spares()
                self._thread = threading.Thread(target=self._run, name="pacplus-reserve")
                self._thread.daemon = True
                self._thread.start()
        self._wake()

    def release(self, descriptor: int) -> None:
        """Watches a listening socket no longer; call it before the socket is closed."""
        with self._lock:
            listener = self._listeners.pop(descriptor, None)
            if listener is not None:
                listener.close()  # it would keep the port
        self._wake()

    def close(self) -> None:
        """Ends the thread."""
        with self._lock:
            self._closed = True
            for listener in self._listeners.values():
                listener.close()
            self._listeners.clear()
        self._wake()
        if self._thread is not None:
            self._thread.join()
        self._give_spares()
        self._reader.close()
        self._writer.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # enough are pending, or it is closed
            self._writer.send(b"\0")

    def _run(self) -> None:
        while not self._closed:
            try:
                self._wait()
                self._decide()
            except OSError as error:  # no such filter here, e.g. in a sandbox
                logger.debug("held connections of strangers are not bounded: %s", error)
                return

    def _wait(self) -> None:
        """Waits for somebody who connects, or for a while if nobody may."""
        poller = select.poll()
        poller.register(self._reader, select.POLLIN)
        with self._lock:
            for listener in () if self._is_shut else self._listeners.values():
                poller.register(listener, select.POLLIN)
        for descriptor, _ in poller.poll(1000 * CHECK_SECONDS if self._is_shut else None):
            if descriptor == self._reader.fileno():
                self._reader.recv(4096)
            elif 2 * self._lowest_free() < self._most:
                time.sleep(ACCEPT_SECONDS)

    def _decide(self) -> None:
        used = self._lowest_free()
        if not self._is_shut and used >= self._most:
            self._shut()
            self._give_spares()
            self._log(used)
        elif self._is_shut and used < self._most * 3 // 4:
            self._take_spares()
            self._open()

    def _shut(self) -> None:
        code = ctypes.create_string_buffer(_RETURN_NOTHING)
        program = struct.pack("HL", 1, ctypes.addressof(code))
        with self._lock:
            for listener in self._listeners.values():
                listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        self._is_shut = True

    def _open(self) -> None:
        with self._lock:
            for listener in self._listeners.values():
                listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        self._is_shut = False

    def _take_spares(self) -> None:
        """Takes descriptors from the top, so that the lowest free one still tells how many are."""
        import fcntl

        assert self._limit is not None
        for place in range(self._limit - min(self._limit // 3, MOST_SPARE), self._limit):
            with contextlib.suppress(OSError):
                self._spares.append(fcntl.fcntl(self._reader, fcntl.F_DUPFD_CLOEXEC, place))

    def _give_spares(self) -> None:
        for spare in self._spares:
            os.close(spare)
        self._spares.clear()

    def _log(self, used: int) -> None:
        """Warns once a minute at most: a stranger must not fill the disk."""
        self._unlogged += 1
        if (now := time.monotonic()) - self._log_at >= LOG_SECONDS:
            logger.warning(
                "%d of %d descriptors are in use, most of them by connections that do not show a "
                "key; nobody new is let in until some are closed (%d times so far)",
                used,
                self._limit,
                self._unlogged,
            )
            self._log_at = now

    def _lowest_free(self) -> int:
        try:
            descriptor = os.dup(self._reader.fileno())
        except OSError:
            return self._limit or 0
        os.close(descriptor)
        return descriptor
