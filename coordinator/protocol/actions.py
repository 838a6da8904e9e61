"""Names what a session asks its host to do."""

import dataclasses
from typing import Any, ClassVar, TypeAlias

from edge_runtime.contract.errors import UserError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import LoadStage, Message, ProfileRequest
from edge_runtime.contract.profile import DeviceProfile


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send a message to a device."""

    device: DeviceId
    message: Message


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SendProfileRequest:
    """Cut what has to be timed and ask the device for its profile.

    Attributes:
        device: whose.
        known: what was measured earlier and holds; nothing is timed again then.
    """

    device: DeviceId
    known: DeviceProfile | None = None
    request: ClassVar[type[Message]] = ProfileRequest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SendStage:
    """Cut blocks ``[first, last)`` and send the stage to the device."""

    device: DeviceId
    first: int
    last: int
    request: ClassVar[type[Message]] = LoadStage


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Something happened: one line of ``events.jsonl``."""

    event: str
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SaveCheckpoint:
    """Keep the state after ``epoch`` epochs."""

    epoch: int
    state: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The session reached its end."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """The session cannot go on."""

    error: UserError


Action: TypeAlias = Send | SendProfileRequest | SendStage | Record | SaveCheckpoint | Finish | Fail
