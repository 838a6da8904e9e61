"""What a device is told of where the coordinator may be found."""

import socket

import pytest

from coordinator.cluster.pairing import _other_places
from edge_runtime.transport import Address


def test_a_device_is_told_every_address_and_name_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "laptop")
    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    named = [(*entry, (host, 0)) for host in ("127.0.1.1", "10.1.2.3")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: named)
    places = _other_places(Address(host="*", port=7700))
    assert {"10.1.2.3:7700", "laptop:7700", "laptop.local:7700"} <= set(map(str, places))
    assert "127.0.1.1:7700" not in set(map(str, places))


def test_of_a_coordinator_that_listens_on_one_address_only_names_may_lead_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "laptop.lan")
    places = _other_places(Address(host="10.1.2.3", port=7700))
    assert list(map(str, places)) == ["laptop.lan:7700"]


def test_a_host_name_that_is_no_name_on_a_network_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "my laptop")
    assert _other_places(Address(host="10.1.2.3", port=7700)) == ()
