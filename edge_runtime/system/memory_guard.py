"""Keeps what is computed at once within the memory that is left.

What is computed is predicted by formulas, and a runtime keeps what it was once given. So the
guard allows what was already computed with, and besides it what is free now. Where less than a
reserve is free, it is *frugal*: work goes in small parts, and what they took is given back to
the system after each, until there is plenty again.

Measured on MiniLM, int8, micro-batches of 16 x 128 tokens: at once they take 67 MB, in parts
of one sample 20, of which 10 are the results, in the same time (0.2 s). The runtime's arena
keeps 57 MB of the 67: shrinking it gives 27 back, and all but one with the allocator trimmed too.
In a group of 150 MB the process is killed; with parts it works in 130.
"""

import logging
import time
from collections.abc import Callable

from . import cgroups
from .allocator import trim
from .usage import available_memory_bytes, usable_memory_bytes

logger = logging.getLogger(__name__)

RESERVE_BYTES = 16 << 20
"""Messages that come and go meanwhile; one of states has up to 8 MB."""

RESERVE_PART = 0.1
"""Of the smallest devices' memory, the reserve is this part."""

PLENTY = 4
"""A reading with room for so many times what is wanted is good for a while."""

READ_SECONDS = 1.0
MAX_CAUTION = 16.0
STALLED = 0.2
"""Part of the time in which nothing of a group ran, since it waited for memory."""


class MemoryGuard:
    """Allows sizes of parts. One thread.

    Attributes:
        frugal: memory is short: what a part took is to be given back after it.
    """

    def __init__(
        self, available_bytes: Callable[[], int], reserve_bytes: float = RESERVE_BYTES
    ) -> None:
        """``available_bytes`` reads what this process may still take."""
        self._read, self._reserve_bytes = available_bytes, reserve_bytes
        self._read_at, self._available = -READ_SECONDS, 0
        self._held_bytes = 0.0
        self._caution = 1.0
        self._told = self.frugal = False

    @classmethod
    def of_process(cls) -> "MemoryGuard":
        """Guards this process, within the machine and the groups around it."""
        reserve = min(RESERVE_BYTES, RESERVE_PART * usable_memory_bytes())
        return cls(_available_bytes, reserve)

    def most_bytes(self, wanted_bytes: float, result_bytes: float = 0.0) -> float:
        """Finds the most that a part may take, by prediction.

        Args:
            wanted_bytes: that all of it at once would take.
            result_bytes: that it takes in any parts.
        """
        available = self._available_bytes(wanted_bytes + result_bytes)
        room = max(0.0, available - self._reserve_bytes - result_bytes)
        if available < self._reserve_bytes:
            if self._held_bytes:  # what was allowed turned out to be too much
                self._caution = min(MAX_CAUTION, 2 * self._caution)
            self.frugal = True
            most = self._held_bytes / PLENTY
        else:
            self.frugal = self.frugal and room < 2 * self._caution * wanted_bytes
            most = self._held_bytes + room / self._caution
        if (self.frugal or most < wanted_bytes) and not self._told:
            self._told = True
            logger.warning("memory is short: work is done in smaller parts, more slowly")
        return most

    def computed(self, part_bytes: float) -> None:
        """Notes that a part of this size was computed; gives back what it took if frugal."""
        if self.frugal:
            self._held_bytes = 0.0
            trim()
        else:
            self._held_bytes = max(self._held_bytes, part_bytes)

    def released(self) -> None:
        """Notes that what was held is gone, such as with a stage that is unloaded."""
        self._held_bytes = 0.0

    def _available_bytes(self, wanted_bytes: float) -> int:
        """Reads it, unless there was plenty a moment ago."""
        now = time.monotonic()
        plenty = self._available - self._reserve_bytes >= PLENTY * wanted_bytes
        if not plenty or now - self._read_at >= READ_SECONDS:
            self._read_at, self._available = now, self._read()
        return self._available


def _available_bytes() -> int:
    return 0 if cgroups.memory_stall() > STALLED else available_memory_bytes()
