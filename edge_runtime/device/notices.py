"""Tells the coordinator what this device warns of; its log alone nobody would read."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edge_runtime.contract.messages import Message, Notice
from edge_runtime.contract.text import one_line

REPORTED = "edge_runtime"
"""Logger whose warnings are reported. Errors are not: what fails is answered with ``Failed``."""


MAX_SENT = 200
"""Notices of a session; whoever knocks at the data socket may cause any number of warnings."""


@contextmanager
def warnings_reported(send: Callable[[Message], None]) -> Iterator[None]:
    """Sends every warning that any thread logs meanwhile, as ``Notice``."""
    logger, handler = logging.getLogger(REPORTED), _Handler(send)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, send: Callable[[Message], None]) -> None:
        super().__init__(logging.WARNING)
        self._send, self._left = send, MAX_SENT

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno != logging.WARNING or not self._left:
            return
        self._left -= 1
        text = record.getMessage() if self._left else "further warnings are in its log only"
        self._send(Notice(text=one_line(text) or "a warning without words"))
