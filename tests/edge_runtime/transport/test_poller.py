import threading
from collections.abc import Iterator

import pytest

from edge_runtime.transport import KeyPair, SocketPoller, Wakeup
from tests.edge_runtime.transport.conftest import PHONE, WAIT, Network, texts


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    made = Wakeup()
    yield made
    made.close()


def test_a_message_wakes_the_end_that_got_it(network: Network, wakeup: Wakeup) -> None:
    dealer = network.join(PHONE)
    poller = SocketPoller[object](wakeup)
    poller.register(network.router)
    poller.register(dealer)
    while poller.wait(0.1):  # what is left of connecting
        network.router.recv()
        dealer.recv()
    assert network.router.send(PHONE, [b"x"])
    assert poller.wait(WAIT) == [dealer]
    assert texts(dealer.recv()) == [b"x"]
    assert poller.wait(0) == []


def test_a_departure_wakes_the_router(network: Network, wakeup: Wakeup) -> None:
    dealer = network.join(PHONE)
    poller = SocketPoller[object](wakeup)
    poller.register(network.router)
    while poller.wait(0.1):  # what is left of connecting
        network.router.recv()
    dealer.close()
    assert poller.wait(WAIT) == [network.router]
    network.wait_until(lambda: PHONE not in network.router.connected_devices())


def test_another_thread_wakes_the_poller_and_signals_do_not_pile_up(wakeup: Wakeup) -> None:
    poller = SocketPoller[object](wakeup)
    thread = threading.Thread(target=lambda: [wakeup.signal() for _ in range(100_000)])
    thread.start()
    assert poller.wait(None) == []
    thread.join()
    poller.wait(0)
    waited = poller.wait(0)
    assert waited == []
    wakeup.clear()
    wakeup.signal()
    assert poller.wait(None) == []


def test_a_signal_after_closing_is_harmless() -> None:
    wakeup = Wakeup()
    wakeup.close()
    wakeup.signal()


def test_a_refused_dealer_is_served_until_it_connects(network: Network, wakeup: Wakeup) -> None:
    keypair = KeyPair.generate()
    dealer = network.dial(keypair)
    poller = SocketPoller[object](wakeup)
    poller.register(dealer)
    while dealer.state != "refused":
        poller.wait(WAIT)
    network.router.allow(PHONE, keypair.public)
    for _ in range(100):
        assert poller.wait(WAIT) == [dealer]
        assert dealer.recv() is None
        if dealer.take_connected():
            break
    assert dealer.state == "connected"


def test_an_end_that_was_unregistered_wakes_nobody(network: Network, wakeup: Wakeup) -> None:
    dealer = network.join(PHONE)
    poller = SocketPoller[object](wakeup)
    poller.register(network.router)
    poller.unregister(network.router)
    assert dealer.send([b"x"])
    assert network.router.recv(WAIT) is not None
    assert dealer.send([b"y"])
    assert poller.wait(0.05) == []
