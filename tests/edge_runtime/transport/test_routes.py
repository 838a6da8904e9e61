from edge_runtime.transport.routes import Routes
from tests.edge_runtime.transport.conftest import BOARD, PHONE


def test_the_latest_connection_is_used_and_an_older_one_does_not_take_over() -> None:
    routes = Routes()
    routes.arrived(PHONE, b"old", 1)
    routes.arrived(PHONE, b"new", 2)
    routes.arrived(PHONE, b"old", 1)
    assert routes.to(PHONE) == b"new"


def test_a_device_is_gone_with_its_last_connection() -> None:
    routes = Routes()
    routes.arrived(PHONE, b"old", 1)
    routes.arrived(PHONE, b"new", 2)
    routes.disconnected(2)
    assert routes.to(PHONE) == b"old"
    routes.disconnected(1)
    assert routes.to(PHONE) is None
    routes.disconnected(1)
    assert routes.devices() == frozenset()


def test_a_routing_id_that_changed_hands_leads_to_the_new_holder() -> None:
    routes = Routes()
    routes.arrived(PHONE, b"id", 1)
    routes.arrived(BOARD, b"id", 1)
    assert routes.to(PHONE) is None
    assert routes.to(BOARD) == b"id"
    assert routes.devices() == {BOARD}


def test_a_forgotten_device_has_no_route() -> None:
    routes = Routes()
    routes.arrived(PHONE, b"id", 1)
    routes.arrived(BOARD, b"other", 2)
    routes.forget(PHONE)
    assert routes.devices() == {BOARD}
    routes.disconnected(1)
    assert routes.devices() == {BOARD}


def test_a_message_that_is_read_after_its_connection_ended_brings_no_route_back() -> None:
    routes = Routes()
    routes.arrived(PHONE, b"1", 10)
    assert routes.disconnected(10) == [(PHONE, b"1")]
    routes.arrived(PHONE, b"1", 10)
    assert routes.devices() == frozenset()
    assert routes.disconnected(10) == []
