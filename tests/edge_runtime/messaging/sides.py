"""Devices' links over loopback, turned by the test's own thread."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Protocol

import numpy as np

from devices.relay import Link
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import GradientPart, Message, Peer
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.messaging.session_link import SessionLink
from edge_runtime.transport import Address, KeyPair, SecureContext, SecureRouter

BOARD, PHONE = DeviceId("board"), DeviceId("phone")
TURN_SECONDS = 0.02
RECONNECT_SECONDS = 0.3
MOST_TURNS = 500
LOCAL = Address(host="127.0.0.1", port=0)


WAY = {"rate_bits_per_second": 10e9, "latency_seconds": 0.0}


@dataclasses.dataclass
class Side:
    """One device's link, and what it has received."""

    name: DeviceId
    keypair: KeyPair
    link: SessionLink
    received: list[tuple[Message, int]] = dataclasses.field(default_factory=list)
    tags: list[Tag] = dataclasses.field(default_factory=list)

    @property
    def peer(self) -> Peer:
        address = self.link.data_address.endpoint
        return Peer(device=self.name, public_key=self.keypair.public, address=address)

    def behind(self, relay: Link) -> Peer:
        """This device as it is reached over ``relay``."""
        way = relay.relay((self.link.data_address.host, self.link.data_address.port))
        address = Address(host=way[0], port=way[1])
        return dataclasses.replace(self.peer, address=address.endpoint)

    def steps(self) -> list[int]:
        return [message.step for message, _ in self.received if isinstance(message, GradientPart)]

    def turn(self) -> None:
        self.link.wait(TURN_SECONDS)
        assert list(self.link.from_coordinator()) == []
        for _, tag, message, size in self.link.from_peers():
            self.tags.append(tag)
            self.received.append((message, size))


def side(
    stack: ExitStack,
    name: DeviceId,
    keys: KeyPair,
    address: Address,
    coordinator: KeyPair,
    listen: Address = LOCAL,
) -> Side:
    """A device's process."""
    link = SessionLink(
        stack.enter_context(SecureContext()),
        keys,
        coordinator=address,
        coordinator_key=coordinator.public,
        listen=listen,
        reconnect_seconds=RECONNECT_SECONDS,
    )
    stack.callback(link.close)
    return Side(name, keys, link)


class Turns(Protocol):
    """Whoever takes part."""

    def turn(self) -> None:
        """One round of its I/O thread."""


def until(condition: Callable[[], bool], *sides: Turns) -> None:
    for _ in range(MOST_TURNS):
        if condition():
            return
        for side in sides:
            side.turn()
    raise AssertionError("it did not happen in time")


def connect(board: Side, phone: Side) -> None:
    board.link.set_peers((phone.peer,))
    phone.link.set_peers((board.peer,))
    until(
        lambda: not board.link.unreached_peers() and not phone.link.unreached_peers(), board, phone
    )


def part(size: int, step: int = 0) -> GradientPart:
    return GradientPart(step=step, count=1, values=np.zeros(size, np.uint8))


@contextlib.contextmanager
def two_sides(
    listen: Address = LOCAL, control: Address = LOCAL
) -> Iterator[tuple[SecureRouter, Side, Side]]:
    """A coordinator's socket and two devices that know it."""
    with ExitStack() as stack:
        coordinator, sides = KeyPair.generate(), []
        router = SecureRouter(stack.enter_context(SecureContext()), coordinator, domain="control")
        stack.callback(router.close)
        bound = router.bind(control)
        address = bound.reached_through(listen)
        for name in (BOARD, PHONE):
            keypair = KeyPair.generate()
            router.allow(name, keypair.public)
            sides.append(side(stack, name, keypair, address, coordinator, listen))
        yield router, sides[0], sides[1]
