"""From a device to the coordinator: what it says without being asked."""

import dataclasses

from edge_runtime.contract.checks import require, require_amounts
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.text import clean_texts

from .base import EpochSums, Message

CELSIUS = (-100.0, 300.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Message):
    """The device lives, and in which condition; None where it does not know.

    ``battery`` is its charge, 0 to 1, ``charging`` if a charger feeds it, ``celsius`` its
    processor's temperature. Its process has ``resident_bytes`` and may take ``available_bytes``.
    """

    battery: float | None = None
    charging: bool | None = None
    celsius: float | None = None
    resident_bytes: int | None = None
    available_bytes: int | None = None

    def __post_init__(self) -> None:
        require(self.battery is None or 0 <= self.battery <= 1, "battery is not within 0 and 1")
        possible = self.celsius is None or CELSIUS[0] <= self.celsius <= CELSIUS[1]
        require(possible, "celsius cannot be")
        for name in ("resident_bytes", "available_bytes"):
            if getattr(self, name) is not None:
                require_amounts(self, name)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BatchServed(Message):
    """A stage finished its part of a micro-batch."""

    number: int
    stage: int
    seconds: float

    def __post_init__(self) -> None:
        require_amounts(self, "number", "stage", "seconds")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SamplesSent(Message):
    """The device has sent what it was asked to move; the new owner has yet to store it."""

    number: int

    def __post_init__(self) -> None:
        require_amounts(self, "number")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Message):
    """So far in this epoch."""

    sums: EpochSums


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Awaiting(Message):
    """Update ``step`` (counted from 0) waits for gradients of these trainers."""

    step: int
    peers: tuple[DeviceId, ...]

    def __post_init__(self) -> None:
        require_amounts(self, "step")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Message):
    """The device could not fulfil the request; ``reason`` is one line for the user.

    ``resumable`` is false where going on with the run would end in the same way; ``internal``
    marks a bug.
    """

    reason: str
    resumable: bool = True
    internal: bool = False

    def __post_init__(self) -> None:
        clean_texts(self, "reason")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Message):
    """Something that the user should know though work goes on, in one line.

    What was given up, read again or done in another way. One that occurs again is sent again
    in the same words, so that occurrences can be counted.
    """

    text: str

    def __post_init__(self) -> None:
        clean_texts(self, "text")
        require(self.text, "text is empty")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PeerLost(Message):
    """The connection to ``peer`` broke and could not be mended in time; said once a break.

    Attempts go on; nothing is said when one succeeds.
    """

    peer: DeviceId
    reason: str

    def __post_init__(self) -> None:
        clean_texts(self, "reason")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rejected(Message):
    """A message of ``peer`` was refused: it is to blame for ``reason``."""

    peer: DeviceId
    reason: str

    def __post_init__(self) -> None:
        clean_texts(self, "reason")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Relief(Message):
    """The device asks for its work to be taken away; with no ``reason``, it can work again."""

    reason: str = ""

    def __post_init__(self) -> None:
        clean_texts(self, "reason")
