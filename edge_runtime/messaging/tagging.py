"""Remembers what a thread's work belongs to, so that what it sends is tagged alike.

The I/O thread enters the tag of the message that it handles, a job runs in the context in which
it was queued: so an answer bears the number of its request, however late it is sent.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

from edge_runtime.contract.messages.tag import UNTAGGED, Tag

_CURRENT: contextvars.ContextVar[Tag] = contextvars.ContextVar("tag", default=UNTAGGED)


def current_tag() -> Tag:
    """Returns what the present work belongs to."""
    return _CURRENT.get()


@contextlib.contextmanager
def tagged(tag: Tag) -> Iterator[None]:
    """Has the work inside belong to ``tag``."""
    token = _CURRENT.set(tag)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def peer_tag() -> Tag:
    """Returns the tag of messages to peers, which answer no request of the coordinator."""
    return dataclasses.replace(current_tag(), reply=0)
