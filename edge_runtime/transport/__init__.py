"""Encrypted sockets between coordinator and devices; the only place that knows ZeroMQ.

Every socket is CURVE-encrypted and every listening socket asks a ZAP allow-list, so a
process speaks only with keys that it knows. The parts, from the bottom up:

* :mod:`.home`, :mod:`.keys` and :mod:`.peers`: a user's folder, and in it files of long-term keys
  and of paired peers.
* :mod:`.context`: one :class:`SecureContext` a process; owns the I/O and ZAP threads.
* :mod:`.router` and :mod:`.dealer`: the listening and the connecting end.
* :mod:`.poller`: waiting on several ends, and waking the waiting thread from another.
* :mod:`.pairing`: makes a trusted device of a new one.

A frame is any bytes-like object; callers decide on its content. Names are imported when they are
first used: :mod:`.files` and :mod:`.home` need no ZeroMQ.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edge_runtime.contract.errors import MissingExtraError

if TYPE_CHECKING:
    from .address import Address
    from .context import SecureContext, SocketLimits
    from .dealer import SecureDealer
    from .frames import Delivery
    from .home import home_directory
    from .keys import KeyPair, PublicKey, fingerprint, load_or_create_keypair, replace_keypair
    from .pairing import Pairing, PairingServer, pair
    from .peers import KnownCoordinator, KnownCoordinators, PairedDevice, PairedDevices
    from .poller import SocketPoller, Wakeup
    from .router import Received, SecureRouter
    from .token import PairingToken
    from .zap import AllowList

__all__ = [
    "Address",
    "AllowList",
    "Delivery",
    "KeyPair",
    "KnownCoordinator",
    "KnownCoordinators",
    "PairedDevice",
    "PairedDevices",
    "Pairing",
    "PairingServer",
    "PairingToken",
    "PublicKey",
    "Received",
    "SecureContext",
    "SecureDealer",
    "SecureRouter",
    "SocketLimits",
    "SocketPoller",
    "Wakeup",
    "fingerprint",
    "home_directory",
    "load_or_create_keypair",
    "pair",
    "replace_keypair",
]

_MODULES = {
    "address": ("Address",),
    "context": ("SecureContext", "SocketLimits"),
    "dealer": ("SecureDealer",),
    "frames": ("Delivery",),
    "home": ("home_directory",),
    "keys": (
        *("KeyPair", "PublicKey", "fingerprint"),
        *("load_or_create_keypair", "replace_keypair"),
    ),
    "pairing": ("Pairing", "PairingServer", "pair"),
    "peers": ("KnownCoordinator", "KnownCoordinators", "PairedDevice", "PairedDevices"),
    "poller": ("SocketPoller", "Wakeup"),
    "router": ("Received", "SecureRouter"),
    "token": ("PairingToken",),
    "zap": ("AllowList",),
}


def __getattr__(name: str) -> Any:
    """Imports a name's module.

    Raises:
        MissingExtraError: ZeroMQ is not installed.
    """
    for module, names in _MODULES.items():
        if name in names:
            try:
                return getattr(importlib.import_module(f".{module}", __name__), name)
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] == "zmq":
                    raise MissingExtraError("pyzmq", "edge") from None
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
