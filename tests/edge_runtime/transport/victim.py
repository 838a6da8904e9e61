"""A process that listens, with few descriptors: what strangers attack in test_reserve.py.

Prints its port, then for every line of its input whether it can still open files, and its own
connections. ``friend`` on a line waits until the paired device gets through.
"""

import contextlib
import dataclasses
import logging
import os
import resource
import sys
import tempfile
from pathlib import Path

from edge_runtime.contract.ids import DeviceId
from edge_runtime.messaging.session_link import SessionLink
from edge_runtime.transport import (
    Address,
    AllowList,
    KeyPair,
    PairedDevices,
    PairingServer,
    SecureContext,
    SecureDealer,
    SecureRouter,
    SocketLimits,
    context,
    pairing,
)

ANYWHERE = Address(host="127.0.0.1", port=0)
SHORT = SocketLimits(handshake_seconds=1.0)
FILES = 48


def main(kind: str, limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    context.DEFAULT_LIMITS = SHORT
    SecureRouter.__init__.__kwdefaults__["limits"] = SHORT
    pairing._LIMITS = dataclasses.replace(pairing._LIMITS, handshake_seconds=1.0)
    keys, friend = KeyPair.generate(), KeyPair.generate()
    with SecureContext() as here, SecureContext() as there, contextlib.ExitStack() as stack:
        own = SecureRouter(here, keys, domain="own")
        stack.callback(own.close)
        own.allow(DeviceId("me"), friend.public)
        own.allow(DeviceId("link"), keys.public)
        home = own.bind(ANYWHERE)
        address = home
        if kind == "pairing":
            server = PairingServer(
                here,
                keys,
                listen=ANYWHERE,
                devices=PairedDevices(Path(tempfile.mkdtemp()) / "devices.json"),
                allow_list=AllowList(),
                control_address=home,
            )
            stack.callback(server.close)
            address = server.address
        elif kind == "data":
            link = SessionLink(
                here, keys, coordinator=home, coordinator_key=keys.public, listen=ANYWHERE
            )
            stack.callback(link.close)
            address = link.data_address
        print(address.port, flush=True)
        for line in sys.stdin:
            if line.strip() == "friend":
                greet(there, friend, keys, own, home)
            print(can_work(there, friend, keys, home), flush=True)


def can_work(there: SecureContext, friend: KeyPair, keys: KeyPair, home: Address) -> str:
    """Opens files and sockets as a run does."""
    try:
        files = [os.open(os.devnull, os.O_RDONLY) for _ in range(FILES)]
        dealer = SecureDealer(there, friend, address=home, server_key=keys.public)
    except Exception as error:
        return f"failed: {error}"
    dealer.close()
    for file in files:
        os.close(file)
    return "works"


def greet(
    there: SecureContext, friend: KeyPair, keys: KeyPair, own: SecureRouter, home: Address
) -> None:
    dealer = SecureDealer(there, friend, address=home, server_key=keys.public)
    assert dealer.wait_connected(20)
    assert dealer.send([b"hello"])
    assert own.recv(20) is not None
    dealer.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
