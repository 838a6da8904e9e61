"""Network addresses as people write them: ``HOST:PORT``, IPv6 in brackets."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import socket

from edge_runtime.contract.checks import require
from edge_runtime.contract.errors import BadInputError

_PATTERN = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.%\w-]+)\]|(?P<host>[\w.*-]+)):(?P<port>\d{1,5})")
_WILDCARDS = ("*", "0.0.0.0", "::")  # noqa: S104  (recognized, not bound here)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A TCP address.

    Attributes:
        host: name, IPv4 or IPv6 address without brackets; ``*`` is every interface.
        port: 0 to 65535; 0 asks the system for a free one when binding.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        require(0 <= self.port <= 65535, "port must be between 0 and 65535")

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads ``192.168.1.5:7700``, ``[fe80::1%eth0]:7700``, ``pi.local:7700`` or ``*:0``.

        Raises:
            BadInputError: it is none of these.
        """
        match = _PATTERN.fullmatch(text.strip().removeprefix("tcp://"))
        if match is None or int(match["port"]) > 65535:
            raise BadInputError(
                f"address {text[:80]!r}: expected HOST:PORT, "
                "e.g. 192.168.1.5:7700 or [fe80::1]:7700"
            )
        return cls(host=match["v6"] or match["host"], port=int(match["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def endpoint(self) -> str:
        """The address as ZeroMQ writes it."""
        return f"tcp://{self}"

    @property
    def is_wildcard(self) -> bool:
        """True if it names every interface, and so no place to connect to."""
        return self.host in _WILDCARDS

    def reached_through(self, dialled: Address) -> Address:
        """This address as seen by a peer that reached the same machine at ``dialled``."""
        return Address(host=dialled.host, port=self.port) if self.is_wildcard else self

    def needs_ipv6(self) -> bool:
        """True if a socket for it must speak IPv6.

        A name that has an IPv4 address is reached by that one: peers that listen on
        IPv4 alone are common, and ZeroMQ tries just one address of a name.
        """
        if self.host == "*":
            return socket.has_dualstack_ipv6()
        try:
            return ipaddress.ip_address(self.host).version == 6
        except ValueError:
            pass
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError:
            return False  # unknown now; ZeroMQ asks again whenever it reconnects
        families = {entry[0] for entry in found}
        return socket.AF_INET not in families and socket.AF_INET6 in families
