"""What a device keeps between two sessions with its coordinator, so that the next begins at once.

Kept are what was loaded from the coordinator's files, and for a while only: never samples, their
states or what was said of them. One process serves one coordinator, known by its key, so nothing
that is kept came from another.
"""

import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from edge_runtime.backbone.loaded_stage import LoadedStage
from edge_runtime.serving.loaded_adapter import LoadedAdapter
from edge_runtime.system.usage import (
    available_memory_bytes,
    resident_bytes,
    usable_memory_bytes,
)
from edge_runtime.training.replica import KeptReplica

KEPT_SECONDS = 10 * 60.0
"""Who predicts again does so soon."""

RESERVE_BYTES = 256 << 20
RESERVE_PART = 0.1
"""Nothing is kept while less memory is free: this part of it, or those bytes."""

LOOK_SECONDS = 1.0


class Loaded(Protocol):
    """Something that was loaded from files."""

    @property
    def identity(self) -> object:
        """Equal only where the same would be loaded again."""

    def is_unchanged(self) -> bool:
        """Tells whether its files are still those whose digests were checked."""


T = TypeVar("T", bound=Loaded)


class _Slot(Generic[T]):
    """Has room for one thing, and the time since when it is there."""

    def __init__(self) -> None:
        self.held: tuple[T, float] | None = None

    def take(self, identity: object) -> T | None:
        held, self.held = self.held, None  # whatever it is, its memory goes before the new comes
        if held is None or held[0].identity != identity or not held[0].is_unchanged():
            return None
        return held[0]


class Warm:
    """Keeps a stage, an adapter and a replica. I/O thread only.

    Attributes:
        replica: of a training whose coordinator is gone.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        available_bytes: Callable[[], int] = available_memory_bytes,
    ) -> None:
        """Keeps nothing yet; ``clock`` tells seconds, ``available_bytes`` what memory is free."""
        self.replica = KeptReplica(clock)
        self._clock, self._available_bytes = clock, available_bytes
        self._stage, self._adapter = _Slot[LoadedStage](), _Slot[LoadedAdapter]()
        self._looked = clock() - LOOK_SECONDS
        self._base_bytes = resident_bytes()

    @property
    def holds(self) -> bool:
        """True while a stage or an adapter is kept."""
        return self._stage.held is not None or self._adapter.held is not None

    def keep(self, stage: LoadedStage | None, adapter: LoadedAdapter | None) -> None:
        """Keeps what there is of both from now on, if memory permits."""
        now = self._clock()
        if stage is not None:
            self._stage.held = stage, now
        if adapter is not None:
            self._adapter.held = adapter, now
        self._looked = now - LOOK_SECONDS
        self.look()

    def take_stage(self, identity: object) -> LoadedStage | None:
        """Hands the stage on if it is the one that is asked for, and drops it otherwise."""
        return self._stage.take(identity)

    def take_adapter(self, identity: object) -> LoadedAdapter | None:
        """Hands the adapter on if it is the one that is asked for, and drops it otherwise."""
        return self._adapter.take(identity)

    def drop(self) -> None:
        """Gives up stage and adapter at once."""
        self._stage.held = self._adapter.held = None

    def look(self) -> None:
        """Drops what nobody has asked for in time, and all if memory is short."""
        self.replica.expire()
        now = self._clock()
        if not self.holds or now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for slot in (self._stage, self._adapter):
            if slot.held is not None and now - slot.held[1] > KEPT_SECONDS:
                slot.held = None
        reserve = min(RESERVE_BYTES, RESERVE_PART * usable_memory_bytes())
        if self.holds and self._available_bytes() < reserve:
            self.drop()

    def base_bytes(self) -> int:
        """Reads the resident memory of this process without what is kept, which gives way."""
        resident = resident_bytes()
        self._base_bytes = min(self._base_bytes, resident) if self.holds else resident
        return self._base_bytes
