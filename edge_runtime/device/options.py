"""Describes a device process, and how it may fail to find work."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from edge_runtime.cache.keys import CacheKeys
from edge_runtime.contract.errors import StoppedError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import Role
from edge_runtime.transport import Address


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """A device's id at the coordinator, its folder, and what it offers.

    ``threads`` is the most that it computes with; ``data_address`` is where peers reach it, and
    its port is filled in later; ``locate`` finds out where that is now, after each new connection
    to the coordinator. ``instance`` is drawn once a process. ``cache_keys`` has the key of
    encrypted caches; None for the one that is stored in ``home``.
    """

    device: DeviceId
    home: Path
    roles: tuple[Role, ...]
    threads: int
    data_address: Address
    process_id: int
    instance: str = ""
    cache_keys: CacheKeys | None = None
    locate: Callable[[], Address] | None = None


class SentHomeError(StoppedError):
    """The coordinator answers, and does not want this device in its session."""


class NoAnswerError(StoppedError):
    """The coordinator was dialled for a while, and did not answer."""
