"""Measuring links that are arithmetic, and links that are sockets and a relay."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from devices.relay import Link
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import LinkMeasured, Message, Peer, Probe, ProbeEcho, ProbeLink
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.messaging.session_link import SessionLink
from edge_runtime.messaging.tagging import current_tag, tagged
from edge_runtime.profiling.link import MOST_BYTES, MOST_TRAINS, PINGS, LinkProbe, LinkProber
from edge_runtime.transport import Address, KeyPair, SecureContext, SecureRouter

A, B = DeviceId("a"), DeviceId("b")
LOOPBACK = Address(host="127.0.0.1", port=0)

REACH_SECONDS = 30.0


class Wire:
    """A link in arithmetic: the time, and when a train has come in and its echo is back."""

    def __init__(self, bits_per_second: float, latency_seconds: float) -> None:
        self.rate, self.latency, self.now, self.carried = bits_per_second, latency_seconds, 0.0, 0

    def measure(self, seconds: float) -> tuple[float, float]:
        probe = LinkProbe(seconds)
        following = probe.start(self.now)
        while isinstance(following, list):
            times = [8 * message.payload.nbytes / self.rate for message in following]
            self.carried += sum(message.payload.nbytes for message in following)
            self.now += 2 * self.latency + sum(times)
            echo = ProbeEcho(train=following[0].train, seconds=sum(times[1:]))
            following = probe.echoed(echo, self.now)
        return following


@pytest.mark.parametrize("rate", [1e5, 1e6, 1e8, 1e9, 5e9])
@pytest.mark.parametrize("latency", [0.0, 0.005, 0.1])
def test_a_links_rate_and_latency_are_found(rate, latency):
    found = Wire(rate, latency).measure(0.6)
    # A ping's one byte takes its time on the wire as well.
    assert found == pytest.approx((rate, latency), rel=0.01, abs=5 / rate)


@pytest.mark.parametrize(("rate", "most_seconds"), [(1e5, 5.0), (1e6, 1.5), (1e8, 1.5), (1e9, 1.5)])
def test_no_link_is_kept_busy_for_long(rate, most_seconds):
    wire = Wire(rate, 0.0)
    wire.measure(0.6)
    assert wire.now < most_seconds


def test_a_train_is_never_more_than_a_device_can_hold():
    wire = Wire(1e12, 0.0)
    probe, sizes = LinkProbe(5.0), []
    following = probe.start(0.0)
    while isinstance(following, list):
        sizes.append(sum(message.payload.nbytes for message in following))
        following = probe.echoed(ProbeEcho(train=following[0].train, seconds=1e-9), wire.now)
    assert max(sizes) <= MOST_BYTES


def test_one_disturbed_train_does_not_count():
    probe = LinkProbe(0.3)
    following, trains = probe.start(0.0), 0
    while isinstance(following, list):
        size = sum(message.payload.nbytes for message in following)
        trains += len(following) > 1
        slow = 10 if trains == 3 else 1
        seconds = slow * size * 31 / 32 / 1e7
        following = probe.echoed(ProbeEcho(train=following[0].train, seconds=seconds), 0.0)
    assert following[0] == pytest.approx(8e7)


def test_an_echo_of_another_train_is_refused():
    probe = LinkProbe(1.0)
    probe.start(0.0)
    with pytest.raises(RemoteError, match="train 5"):
        probe.echoed(ProbeEcho(train=5, seconds=0.0), 1.0)


class Box:
    """What would be sent."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.tags: list[Tag] = []

    @property
    def measured(self) -> int:
        return sum(isinstance(message, LinkMeasured) for message in self.messages)

    def to_coordinator(self, message: Message) -> None:
        self.messages.append(message)
        self.tags.append(current_tag())

    def to_peer(self, peer: DeviceId, message: Message) -> None:
        del peer
        self.messages.append(message)

    def wait_for_room(self) -> None:
        pass


def test_a_train_is_timed_from_its_first_message_to_its_last():
    box, times = Box(), iter([1.0, 1.2, 1.5])
    prober = LinkProber(box, lambda: next(times))
    (ping,) = LinkProbe(1.0).start(0.0)
    for index in range(3):
        prober.take(A, dataclasses.replace(ping, index=index, count=3))
    assert box.messages == [ProbeEcho(train=0, seconds=0.5)]


def test_a_measurement_that_another_one_replaces_blames_nobody():
    box, tags = Box(), [Tag(session="s", reply=number) for number in (1, 2)]
    prober = LinkProber(box)
    for tag in tags:
        with tagged(tag):
            prober.begin(ProbeLink(peer=A, seconds=1e-9))
    for _ in range(MOST_TRAINS + PINGS):
        late, train = ProbeEcho(train=0, seconds=0.0), box.messages[-1].train
        prober.take(A, late)  # of the first
        prober.take(A, ProbeEcho(train=train, seconds=1.0))
        if isinstance(box.messages[-1], LinkMeasured):
            break
    assert box.tags[-1] == tags[1]
    assert box.measured == 1


def test_an_echo_that_nobody_waits_for_is_refused():
    prober = LinkProber(Box())
    with pytest.raises(RemoteError, match="not sent"):
        prober.take(A, ProbeEcho(train=0, seconds=0.0))
    prober.begin(ProbeLink(peer=A, seconds=0.1))
    with pytest.raises(RemoteError, match="not sent"):
        prober.take(B, ProbeEcho(train=0, seconds=0.0))


class Node:
    """A device's sockets and its prober; what it tells the coordinator stays here."""

    def __init__(self, stack: contextlib.ExitStack, name: DeviceId, router: SecureRouter) -> None:
        self.name, self.keys, self.told = name, KeyPair.generate(), list[Message]()
        self.link = SessionLink(
            stack.enter_context(SecureContext()),
            self.keys,
            coordinator=router.bind(LOOPBACK),
            coordinator_key=KeyPair.generate().public,
            listen=LOOPBACK,
        )
        stack.callback(self.link.close)
        self.prober = LinkProber(self)

    def to_peer(self, peer: DeviceId, message: Message) -> None:
        self.link.to_peer(peer, message)

    def to_coordinator(self, message: Message) -> None:
        self.told.append(message)

    def wait_for_room(self) -> None:
        pass

    def turn(self) -> None:
        """One round of the device's I/O thread."""
        self.link.wait(0.01)
        for peer, _, message, size in self.link.from_peers():
            assert isinstance(message, Probe | ProbeEcho)
            self.prober.take(peer, message)
            self.link.acknowledge(peer, size)


@contextlib.contextmanager
def nodes(links: dict[DeviceId, Link]) -> Iterator[tuple[Node, Node]]:
    """Two connected devices, with relays on the way as the coordinator sets them up."""
    with contextlib.ExitStack() as stack:
        router = SecureRouter(
            stack.enter_context(SecureContext()), KeyPair.generate(), domain="control"
        )
        stack.callback(router.close)
        pair = Node(stack, A, router), Node(stack, B, router)
        for me, other in (pair, pair[::-1]):
            place = other.link.data_address
            way = (place.host, place.port)
            if other.name in links:
                way = links[other.name].relay(way, to_device=True)
            if me.name in links:
                way = links[me.name].relay(way)
            address = Address(host=way[0], port=way[1]).endpoint
            me.link.set_peers(
                (Peer(device=other.name, public_key=other.keys.public, address=address),)
            )
        patience_until = time.monotonic() + REACH_SECONDS
        while any(node.link.unreached_peers() for node in pair):
            for node in pair:
                node.turn()
            assert time.monotonic() < patience_until, "the devices did not reach each other"
        yield pair


def measured(pair: tuple[Node, Node], seconds: float = 0.6) -> LinkMeasured:
    me, other = pair
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            other.turn()

    with ThreadPoolExecutor(max_workers=1) as threads:
        serving = threads.submit(serve)
        try:
            me.prober.begin(ProbeLink(peer=other.name, seconds=seconds))
            while not me.told and not serving.done():
                me.turn()
        finally:
            over.set()
        serving.result()
    answer = me.told.pop()
    assert isinstance(answer, LinkMeasured)
    return answer


def best(pair: tuple[Node, Node], enough: Callable[[float, float], bool]) -> tuple[float, float]:
    """Rate and latency of up to 8 measurements: a busy machine's relays are late, never early."""
    rates, latencies = [], []
    for _ in range(8):
        found = measured(pair)
        rates.append(found.bits_per_second)
        latencies.append(found.latency_seconds)
        if len(rates) > 1 and enough(max(rates), min(latencies)):
            break
    return max(rates), min(latencies)


def both_ways(latency_seconds: float) -> list[tuple[float, float]]:
    """Rate and latency of two devices with 100 Mbit/s each, measured from either end."""
    with contextlib.ExitStack() as stack:
        links = {
            name: stack.enter_context(
                Link(rate_bits_per_second=1e8, latency_seconds=latency_seconds)
            )
            for name in (A, B)
        }
        pair = stack.enter_context(nodes(links))
        wanted = 0.9e8 if latency_seconds < 0.01 else 0.0  # far links need longer trains
        return [best(way, lambda rate, _trip: rate >= wanted) for way in (pair, pair[::-1])]


@pytest.mark.alone
def test_emulated_links_of_100_megabits_are_measured_as_such_and_so_is_their_latency():
    for near, far in zip(both_ways(0.005), both_ways(0.025), strict=True):
        assert near[0] == pytest.approx(1e8, rel=0.15)
        # Relays are threads of this process here: all are late alike, and never early.
        assert near[1] >= 2 * 0.005
        assert far[1] - near[1] == pytest.approx(2 * 0.020, rel=0.15)


@pytest.mark.alone
def test_the_narrower_of_two_links_is_what_a_pair_has():
    with contextlib.ExitStack() as stack:
        slow = stack.enter_context(Link(rate_bits_per_second=1e7, latency_seconds=0.0))
        fast = stack.enter_context(Link(rate_bits_per_second=2e8, latency_seconds=0.0))
        pair = stack.enter_context(nodes({A: slow, B: fast}))
        rate, _ = best(pair, lambda rate, _trip: rate >= 0.9e7)
        assert rate == pytest.approx(1e7, rel=0.15)


@pytest.mark.alone
def test_a_connection_without_a_link_of_its_own_is_fast():
    with nodes({}) as pair:
        rate, latency = best(pair, lambda rate, trip: rate > 2e8 and trip < 0.005)
        assert rate > 2e8
        assert latency < 0.005
