import os
import threading
import time
from pathlib import Path

import pytest
import zmq

from edge_runtime.contract.errors import UserError
from edge_runtime.transport import Address, KeyPair, SecureContext, SecureDealer, SecureRouter
from edge_runtime.transport.context import SocketLimits
from tests.edge_runtime.transport.conftest import PHONE, WAIT


def operating_system_threads() -> set[str]:
    return {entry.name for entry in Path("/proc/self/task").iterdir()}


def gone(threads: set[str]) -> bool:
    """A thread that was joined may stay listed until the kernel has taken it away."""
    until = time.monotonic() + WAIT
    while (there := threads & operating_system_threads()) and time.monotonic() < until:
        os.sched_yield()
    return not there


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
def test_closing_leaves_no_thread_behind() -> None:
    python_before, all_before = set(threading.enumerate()), operating_system_threads()
    server, client = KeyPair.generate(), KeyPair.generate()
    with SecureContext() as context:
        router = SecureRouter(context, server, domain="control")
        router.allow(PHONE, client.public)
        address = router.bind(Address.parse("127.0.0.1:0"))
        dealer = SecureDealer(context, client, address=address, server_key=server.public)
        assert dealer.wait_connected(WAIT)
        assert dealer.send([bytes(1 << 20)])
        assert router.recv(WAIT) is not None
        own = operating_system_threads() - all_before
        assert own
        dealer.close()
        router.close()
    assert set(threading.enumerate()) <= python_before
    assert gone(own)


def test_a_context_closes_in_spite_of_open_sockets_and_unsent_messages() -> None:
    context = SecureContext()
    router = SecureRouter(context, KeyPair.generate(), domain="control")
    router.bind(Address.parse("127.0.0.1:0"))
    dealer = SecureDealer(
        context,
        KeyPair.generate(),
        address=Address(host="127.0.0.1", port=9),
        server_key=KeyPair.generate().public,
    )
    context.close()
    context.close()
    dealer.close()
    router.close()


def test_nothing_starts_without_encryption(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "has", lambda _: False)
    with pytest.raises(UserError, match="cannot encrypt"):
        SecureContext()


def test_limits_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_frame_bytes"):
        SocketLimits(max_frame_bytes=0)
