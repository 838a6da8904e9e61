"""However often a device sends what is wrong, the log stays short."""

import logging

from coordinator.render.log_limit import LogLimit


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.addFilter(LogLimit())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_a_million_lines_of_a_kind_are_some_twenty_and_others_are_shown_as_before() -> None:
    logger, handler = logging.Logger("x"), Lines()
    logger.addHandler(handler)
    for number in range(100_000):
        logger.warning("%s sent number %d", "board", number)
    logger.warning("another")
    assert handler.lines[:10] == [f"board sent number {number}" for number in range(10)]
    assert len(handler.lines) == 10 + 13 + 1
    assert handler.lines[-2].startswith("board sent number 65535 (there were 65536 such lines")
    assert handler.lines[-1] == "another"
