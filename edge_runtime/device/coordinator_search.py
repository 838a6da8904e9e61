"""Finds the paired coordinator again when its address has changed: by its key.

Pairing tells a device every address and the names of the coordinator's machine. All of them
are dialled at once, and the one behind which the coordinator's key answers is taken; who else
listens there proves nothing and is told nothing.
"""

import contextlib
import dataclasses
import ipaddress
import socket
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from edge_runtime.transport import (
    Address,
    KeyPair,
    KnownCoordinator,
    SecureContext,
    SecureDealer,
    SocketLimits,
    SocketPoller,
    Wakeup,
)
from edge_runtime.transport.context import DEFAULT_LIMITS
from edge_runtime.transport.events import Deadline
from edge_runtime.transport.peers import MAX_ADDRESSES

SEARCH_SECONDS = 8.0


def find_coordinator(
    context: SecureContext,
    keypair: KeyPair,
    known: KnownCoordinator,
    patience_seconds: float = SEARCH_SECONDS,
    limits: SocketLimits = DEFAULT_LIMITS,
) -> KnownCoordinator:
    """Returns what is known, with the address first at which the coordinator answers.

    Unchanged where it does not answer in time, or where there is but one address to try.
    """
    addresses = [address for text in (known.address, *known.others) for address in _places(text)]
    if len(addresses) < 2:
        return known
    dial = partial(SecureDealer, context, keypair, server_key=known.public_key, limits=limits)
    found = _first_connected(dial, dict.fromkeys(addresses), patience_seconds)
    if found is None or str(found) == known.address:
        return known
    others = [text for text in (known.address, *known.others) if text != str(found)]
    return dataclasses.replace(known, address=str(found), others=tuple(others[:MAX_ADDRESSES]))


def _places(text: str) -> Iterator[Address]:
    """The addresses of a name, all of both protocols; ZeroMQ would try one of them."""
    address = Address.parse(text)
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(address.host)
        yield address
        return
    with contextlib.suppress(OSError):
        for found in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM):
            yield Address(host=str(found[4][0]), port=address.port)


def _first_connected(
    dial: Callable[..., SecureDealer], addresses: Iterable[Address], patience_seconds: float
) -> Address | None:
    deadline = Deadline(patience_seconds)
    with contextlib.ExitStack() as stack:
        wakeup = stack.enter_context(contextlib.closing(Wakeup()))
        poller: SocketPoller[SecureDealer] = SocketPoller(wakeup)
        dealers = []
        for address in addresses:
            dealer = stack.enter_context(contextlib.closing(dial(address=address)))
            dealers.append(dealer)
            poller.register(dealer)
        while not deadline.is_over:
            poller.wait(max(0.0, deadline.remaining() or 0.0))
            for dealer in dealers:
                if dealer.state == "connected":
                    return dealer.address
    return None
