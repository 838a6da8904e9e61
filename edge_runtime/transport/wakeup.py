"""Waking a thread that waits on sockets."""

import contextlib
import socket


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
