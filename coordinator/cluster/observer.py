"""Defines the interface to whoever follows the work: the live display, tests, or nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from coordinator.protocol.actions import Record
    from coordinator.session.machine import Session

    from .host import Host


class Observer(Protocol):
    """Is told of progress; must return quickly."""

    def prepared(self, lines: int, truncated: int) -> None:
        """Is told that the data are read, and how many texts were longer than the model takes."""

    def note(self, text: str) -> None:
        """Is told what the user should know about the inputs."""

    def started(self, session: Session, host: Host) -> None:
        """Is told that the devices are started and the session begins."""

    def event(self, record: Record) -> None:
        """Is told of an event."""

    def tick(self) -> None:
        """Is called several times a second."""

    def computed(self, done: int, total: int) -> None:
        """Is told how many samples or texts this process has done, where there is no session."""

    def stopped(self) -> None:
        """Is told that the session, or this process's own work, is over, well or not."""


class NullObserver:
    """Ignores all progress."""

    def prepared(self, lines: int, truncated: int) -> None:
        """Does nothing."""

    def note(self, text: str) -> None:
        """Does nothing."""

    def started(self, session: Session, host: Host) -> None:
        """Does nothing."""

    def event(self, record: Record) -> None:
        """Does nothing."""

    def tick(self) -> None:
        """Does nothing."""

    def computed(self, done: int, total: int) -> None:
        """Does nothing."""

    def stopped(self) -> None:
        """Does nothing."""
