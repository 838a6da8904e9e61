"""Names what a session asks its host to do."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

from edge_runtime.contract.errors import UserError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import EpochSums, LoadStage, Message, ProfileRequest
from edge_runtime.contract.profile import KnownTimes, Source


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send a message to a device; ``term`` and ``reply`` as its :class:`.Tag` has them."""

    device: DeviceId
    message: Message
    term: int = 0
    reply: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SendProfileRequest:
    """Cut what has to be timed and ask the device for its profile.

    Attributes:
        device: whose.
        known: from earlier sessions, and holds.
        source: how its times are to be found; those known are not taken again, unless briefly
            measured ones are to be made sure.
        budget_seconds: for brief measuring of what is known as well; 0 to measure only what is
            not.
        reply: number of the request.
    """

    device: DeviceId
    known: KnownTimes | None = None
    source: Source = "thorough"
    budget_seconds: float = 0.0
    reply: int = 0
    request: ClassVar[type[Message]] = ProfileRequest


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SendStage:
    """Cut blocks ``[first, last)`` and send the stage to the device, as :class:`Send` does."""

    device: DeviceId
    first: int
    last: int
    term: int = 0
    reply: int = 0
    request: ClassVar[type[Message]] = LoadStage


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Something happened: one line of ``events.jsonl``."""

    event: str
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SaveCheckpoint:
    """Keep the state of the trainers.

    Attributes:
        epoch: epochs that are over.
        state: after them, or amid the next one.
        step: updates that it has behind it.
        sums: of the epoch that it is in, or has ended with.
    """

    epoch: int
    state: bytes
    step: int
    sums: EpochSums


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeepEvaluation:
    """Keep what an epoch was found to be worth.

    Attributes:
        evaluated: metrics of all epochs that were evaluated so far, by epoch.
        best: which of them is the best.
        state: of the trainers after it, if that is the epoch that has just been evaluated; or
            else empty, and what is kept already stays.
    """

    evaluated: Mapping[int, Mapping[str, float]]
    best: int
    state: bytes


Kept: TypeAlias = SaveCheckpoint | KeepEvaluation
"""What is to outlive the session."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The session reached its end."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """The session cannot go on."""

    error: UserError


Action: TypeAlias = (
    Send | SendProfileRequest | SendStage | Record | SaveCheckpoint | KeepEvaluation | Finish | Fail
)
