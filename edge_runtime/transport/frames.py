"""Sends and receives lists of frames through a socket."""

import enum
from collections.abc import Sequence

import zmq

from .context import RawSocket
from .events import has_message

Buffer = bytes | bytearray | memoryview
"""A frame to send; arrays as ``memoryview(array).cast("B")``."""


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


def send_frames(socket: RawSocket, frames: Sequence[Buffer]) -> Delivery:
    """Queues one message without waiting.

    The frames are copied, so a caller may reuse its buffers at once. Handing them over
    uncopied saved under a tenth of the CPU time, since encrypting copies anyway, and
    would need a collector thread and buffers that nobody touches.
    """
    last = len(frames) - 1
    try:
        for index, frame in enumerate(frames):
            socket.send(frame, zmq.NOBLOCK | (zmq.SNDMORE if index < last else 0))
    except zmq.Again:
        return Delivery.FULL
    except zmq.ZMQError as error:
        if error.errno != zmq.EHOSTUNREACH:
            raise
        return Delivery.UNREACHABLE
    return Delivery.QUEUED


def receive_frames(socket: RawSocket) -> list[zmq.Frame] | None:
    """Takes one message without waiting; None when there is none."""
    if not has_message(socket):
        return None
    try:
        frames: list[zmq.Frame] = socket.recv_multipart(zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None
    return frames


def user_id(frame: zmq.Frame) -> str | None:
    """The User-Id that ZAP gave the connection by which ``frame`` came."""
    try:
        value = frame.get("User-Id")
    except zmq.ZMQError:
        return None
    return value if isinstance(value, str) else None


def descriptor(frame: zmq.Frame) -> int:
    """Descriptor of the connection by which ``frame`` came; it may be closed by now."""
    value = frame.get(zmq.SRCFD)
    return value if isinstance(value, int) else -1
