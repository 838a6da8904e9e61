"""Defines the interface to whoever follows a session: the live display, tests, or nobody."""

from typing import Protocol

from coordinator.protocol.actions import Record
from coordinator.session.machine import Session

from .host import Host


class Observer(Protocol):
    """Is told of progress; must return quickly."""

    def prepared(self, lines: int, truncated: int) -> None:
        """The data are read; so many texts were longer than the model takes."""

    def note(self, text: str) -> None:
        """Something about the inputs that the user should know."""

    def started(self, session: Session, host: Host) -> None:
        """The devices are started, the session begins."""

    def event(self, record: Record) -> None:
        """Something happened."""

    def tick(self) -> None:
        """Called several times a second."""

    def stopped(self) -> None:
        """The session is over, well or not."""


class NullObserver:
    """Wants to know nothing."""

    def prepared(self, lines: int, truncated: int) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""

    def started(self, session: Session, host: Host) -> None:
        """Ignored."""

    def event(self, record: Record) -> None:
        """Ignored."""

    def tick(self) -> None:
        """Ignored."""

    def stopped(self) -> None:
        """Ignored."""
