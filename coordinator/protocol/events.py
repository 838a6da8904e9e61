"""Names what a session is told."""

import dataclasses
from typing import TypeAlias

from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Hello, Message


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """A paired device said hello; ``public_key`` is what its peers will admit."""

    device: DeviceId
    hello: Hello
    public_key: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A device is gone: its process ended, or it was silent for too long.

    Attributes:
        device: the lost one.
        reason: for the user.
        out_of_memory: it was killed for holding more memory than it has.
        ended: its process is known to have ended, so that it does not wake by itself.
    """

    device: DeviceId
    reason: str
    out_of_memory: bool = False
    ended: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cloned:
    """Two processes that live at once have the key of a device."""

    device: DeviceId


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """An authenticated message of this session, already decoded; the tag's ``term``, ``reply``."""

    device: DeviceId
    message: Message
    term: int = 0
    reply: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time has passed; comes about once a second."""


Event: TypeAlias = Joined | Lost | Cloned | Received | Tick
