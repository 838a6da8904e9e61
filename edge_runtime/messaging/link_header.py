"""Goes in front of every message between devices: whose life, which number, what has arrived.

A device draws a random number a peer when it gets to know it, its ``life``: a process that was
started again has another one, so nothing of the old one is taken for the new one's. Messages
are numbered from 1 within a pair of lives. Each header also acknowledges the other direction,
by totals rather than differences, so that one that is lost does no harm.
"""

import dataclasses
import enum
import struct

from edge_runtime.contract.codec import Frame
from edge_runtime.contract.errors import DecodeError

_FORMAT = struct.Struct("<BQQQQQ")


class Kind(enum.IntEnum):
    """Tells what follows a header, or what it asks for when nothing does."""

    MESSAGE = 0
    ACKNOWLEDGEMENT = 1
    HELLO = 2
    """A connection is new: say where to go on. Answered by ``POSITION``."""
    POSITION = 3
    """Go on behind the last message that has arrived here."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinkHeader:
    """One header.

    Attributes:
        life: of the sender of this header.
        peer_life: of its receiver, as far as the sender knows; 0 if it does not.
        number: of the message that follows, from 1; 0 if none does.
        received: number of the last message that has arrived, all before it included.
        handled_bytes: of messages that need no memory any more.
    """

    kind: Kind
    life: int
    peer_life: int
    number: int
    received: int
    handled_bytes: int

    def packed(self) -> bytes:
        """The frame that goes in front."""
        totals = self.received, self.handled_bytes
        return _FORMAT.pack(self.kind, self.life, self.peer_life, self.number, *totals)

    @classmethod
    def unpack(cls, frame: Frame) -> "LinkHeader":
        """Reads a frame.

        Raises:
            DecodeError: it is no header.
        """
        view = memoryview(frame)
        if view.nbytes != _FORMAT.size:
            raise DecodeError(f"link header of {view.nbytes} bytes, not {_FORMAT.size}")
        kind, life, peer_life, number, received, handled_bytes = _FORMAT.unpack(view)
        if kind > max(Kind) or not life or (kind == Kind.MESSAGE) != (number > 0):
            raise DecodeError("link header of no known kind")
        return cls(
            kind=Kind(kind),
            life=life,
            peer_life=peer_life,
            number=number,
            received=received,
            handled_bytes=handled_bytes,
        )
