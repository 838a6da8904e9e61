"""The outcome of handing a message to a socket."""

from __future__ import annotations

import enum


class Delivery(enum.Enum):
    """Outcome of a ``send``; true only when the message was taken.

    ``QUEUED`` is no receipt: a message is lost when its connection breaks before it
    was read. Whoever needs certainty waits for an answer.
    """

    QUEUED = "queued"
    FULL = "full"
    """The peer is there but reads too slowly; nothing was sent."""
    UNREACHABLE = "unreachable"
    """The peer is unknown, revoked or gone; nothing was sent."""

    def __bool__(self) -> bool:
        return self is Delivery.QUEUED
