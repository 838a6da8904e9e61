import pytest

from edge_runtime.contract.errors import BadInputError
from edge_runtime.transport import Address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.168.1.5:7700", "192.168.1.5", 7700),
        ("tcp://192.168.1.5:7700", "192.168.1.5", 7700),
        ("[fe80::1%eth0]:1", "fe80::1%eth0", 1),
        ("raspberry-pi.local:65535", "raspberry-pi.local", 65535),
        ("*:0", "*", 0),
    ],
)
def test_addresses_are_read_as_people_write_them(text: str, host: str, port: int) -> None:
    address = Address.parse(text)
    assert (address.host, address.port) == (host, port)
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize("text", ["", "host", "host:", ":7700", "host:65536", "::1:7700", "a b:1"])
def test_what_is_no_address_is_explained(text: str) -> None:
    with pytest.raises(BadInputError, match="expected HOST:PORT"):
        Address.parse(text)


@pytest.mark.parametrize("host", ["*", "0.0.0.0", "::"])
def test_a_wildcard_is_replaced_by_the_host_that_was_dialled(host: str) -> None:
    dialled = Address(host="10.0.0.2", port=1)
    seen = Address(host=host, port=7700).reached_through(dialled)
    assert seen == Address(host="10.0.0.2", port=7700)


def test_a_real_host_is_kept() -> None:
    address = Address(host="10.0.0.3", port=7700)
    assert address.reached_through(Address(host="10.0.0.2", port=1)) == address


@pytest.mark.parametrize(("host", "v6"), [("10.0.0.3", False), ("::1", True), ("fe80::1%lo", True)])
def test_literal_addresses_decide_the_protocol(host: str, v6: bool) -> None:
    assert Address(host=host, port=1).needs_ipv6() is v6
