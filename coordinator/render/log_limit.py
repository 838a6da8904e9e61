"""Bounds what devices can have written to a log: most warnings say what one of them sent."""

import collections
import logging

SHOWN = 10
"""Times that a kind of line is shown; afterwards only the 16th, the 32nd, the 64th and so on."""


class LogLimit(logging.Filter):
    """Drops repetitions of a kind of line; its text without the arguments is its kind."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: collections.Counter[tuple[str, str]] = collections.Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Tells whether a line is shown; one that stands for many says so."""
        kind = record.name, str(record.msg)
        self._seen[kind] += 1
        times = self._seen[kind]
        if times <= SHOWN:
            return True
        if times & (times - 1):
            return False
        record.msg = f"{record.msg} (there were {times} such lines; most are not shown)"
        return True
