"""However many strangers hold connections, a process can open its files and its own sockets."""

from __future__ import annotations

import errno
import resource
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from edge_runtime.transport.reserve import raise_descriptor_limit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="packet filters are of Linux")

STRANGERS = 1500
LIMIT = 1024
ROUNDS = 20
BATCH = 8
"""Fewer than a socket lets wait, so that none is dropped before ZeroMQ has accepted it."""


@contextmanager
def victim(kind: str, limit: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.edge_runtime.transport.victim", kind, str(limit)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[str], line: str = "") -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


@contextmanager
def strangers(process: subprocess.Popen[str], port: int) -> Iterator[list[socket.socket]]:
    """Connections that say nothing; those that are not let in go on trying.

    In small batches until the process says that it lets nobody in, then all at once.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held: list[socket.socket] = []
    try:
        while len(held) < min(STRANGERS, hard - 300):
            for _ in range(BATCH):
                held.append(stranger := socket.socket())
                stranger.setblocking(False)
                assert stranger.connect_ex(("127.0.0.1", port)) in (0, errno.EINPROGRESS)
            if not select.select([process.stderr], [], [], 0)[0]:
                wait_connected(held[-1])
        yield held
    finally:
        for stranger in held:
            stranger.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def wait_connected(stranger: socket.socket) -> None:
    """Waits until it is let in, for a moment at most: it may not be."""
    poller = select.poll()
    poller.register(stranger, select.POLLOUT)
    poller.poll(100)


def connected(held: list[socket.socket]) -> int:
    poller = select.poll()
    for stranger in held:
        poller.register(stranger, select.POLLOUT)
    return sum(1 for _, event in poller.poll(0) if event == select.POLLOUT)


@pytest.mark.parametrize("kind", ["control", "data", "pairing"])
def test_a_process_that_strangers_besiege_goes_on(kind: str) -> None:
    with victim(kind, LIMIT) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert ask(process) == "works"
        with strangers(process, port) as held:
            assert {ask(process) for _ in range(ROUNDS)} == {"works"}
            assert 0 < connected(held) < LIMIT
            assert ask(process, "friend") == "works"
        assert process.stderr is not None
        with suppress(BrokenPipeError):
            process.kill()
        lines = process.stderr.read().splitlines()
        assert 1 <= len(lines) <= 6, lines
        assert "show a key" in lines[0]


def test_the_soft_limit_is_raised_towards_the_hard_one() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300));"
        "from edge_runtime.transport.reserve import raise_descriptor_limit as f; print(f())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "300"
    assert raise_descriptor_limit() is None or resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 100
