"""Pairing from the laptop's side, and the list of paired devices."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

from edge_runtime.contract.errors import BadInputError, StoppedError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.transport import (
    Address,
    PairedDevices,
    PairingServer,
    SecureContext,
    SecureRouter,
    fingerprint,
    home_directory,
    load_or_create_keypair,
)
from export.output import check_folder

from .pending_forgets import PendingForgets

TOKEN_SECONDS = 600.0


def pair_one(listen: str, name: str, *, announce: Callable[[str], None]) -> DeviceId:
    """Waits until one device has paired; ``announce`` is given the command to type there.

    Later sessions ``listen`` on that address; pairing has a socket of its own, on the next
    port. ``name`` is the host that devices reach this machine by, guessed when empty.

    Raises:
        StoppedError: nobody paired while the token lived.
    """
    home = home_directory()
    check_folder(home)  # before somebody carries the token to the device
    control = Address.parse(listen)
    keypair = load_or_create_keypair(home / "coordinator.json")
    with SecureContext() as context:
        router = SecureRouter(context, keypair, domain="control")
        port = 0 if control.port in (0, 65535) else control.port + 1
        server = PairingServer(
            context,
            keypair,
            listen=Address(host=control.host, port=port),
            devices=PairedDevices(home / "devices.json"),
            allow_list=router.allow_list,
            control_address=control,
            other_addresses=_other_places(control),
            lifetime_seconds=TOKEN_SECONDS,
        )
        try:
            host = name or (_own_host() if control.is_wildcard else control.host)
            address = Address(host=host, port=server.address.port)
            command = f"pacplus-device pair {address} {server.token.text()}"
            announce(f"on the device, type:\n\n  {command}")
            announce(f"\nwaiting; the token works once, within {TOKEN_SECONDS / 60:.0f} minutes")
            while server.is_open:
                if (device := server.handle(1.0)) is not None:
                    return device.device_id
        finally:
            server.close()
            router.close()
    raise StoppedError("no device paired; run `pacplus pair` again for a new token")


def _own_host() -> str:
    """This machine's address on the network, as devices would dial it."""
    return next(_own_addresses(), socket.gethostname())


def _own_addresses() -> Iterator[str]:
    """Addresses of this machine that lead to other machines, the usual one first."""
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))  # a documentation address; nothing is sent
            yield str(probe.getsockname()[0])
    with contextlib.suppress(OSError):
        for found in socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM):
            yield str(found[4][0])


def _other_places(control: Address) -> tuple[Address, ...]:
    """Where devices find the control socket when the address that they dialled has changed."""
    name = socket.gethostname()
    hosts = [*(_own_addresses() if control.is_wildcard else ()), name]
    hosts += [] if "." in name else [f"{name}.local"]  # as mDNS knows it
    places = []
    for host in dict.fromkeys(hosts):
        with contextlib.suppress(BadInputError):  # no host name as the network knows them
            if not host.startswith(("127.", "::1")):
                place = Address(host=host, port=control.port)
                places.append(Address.parse(str(place)))
    return tuple(places)


def paired_devices() -> list[dict[str, Any]]:
    """Every paired device, the fingerprint of its key, and the backbones that it is to forget."""
    home = home_directory()
    pending = PendingForgets(home)
    return [
        {
            "device": device.device_id,
            "key": fingerprint(device.public_key),
            "to_forget": [r.backbone_digest or "everything" for r in pending.of(device.device_id)],
        }
        for device in PairedDevices(home / "devices.json")
    ]


def unpair(name: str) -> None:
    """Trusts a device no longer.

    Raises:
        BadInputError: there is no such device.
    """
    devices = PairedDevices(home_directory() / "devices.json")
    if not devices.remove(DeviceId(name)):
        known = ", ".join(device.device_id for device in devices) or "none"
        raise BadInputError(f"{name!r} is not paired; paired are: {known}")
    PendingForgets(home_directory()).remove(DeviceId(name))
