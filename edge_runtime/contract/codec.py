"""Messages to frames and back: a msgpack header, then raw array frames.

The header is ``[protocol version, session, term, reply, message type, fields]``; see
:class:`.Tag` for its second to fourth element. An array field is an extension value that gives
dtype, shape and the index of the frame that holds its bytes, so large tensors are neither
copied into the header nor parsed.

Whatever comes from a peer is checked before use: version, type, every field, and that
each array's frame has exactly the bytes which dtype and shape call for.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np

from .errors import BadInputError, DecodeError
from .messages import MESSAGE_TYPES, Message
from .structure import from_plain
from .tag import UNTAGGED, Tag

PROTOCOL_VERSION = 4
MAX_HEADER_BYTES = 4 << 20
MAX_FRAMES = 64
MAX_EXTENSION_BYTES = 256

Frame: TypeAlias = "bytes | memoryview"

_ARRAY = 1
_DTYPES = ("uint8", "int8", "int32", "int64", "float16", "float32", "bool", "float64")


def encode(message: Message, tag: Tag = UNTAGGED) -> list[Frame]:
    """Frames of ``message``, which belongs to ``tag``.

    Arrays are sent without a copy where they are contiguous.

    Raises:
        ValueError: an array has a dtype that never crosses the wire (a bug of ours).
    """
    frames: list[Frame] = [b""]

    def pack_array(value: Any) -> Any:
        if isinstance(value, float):  # a numpy scalar
            return float(value)
        if not isinstance(value, np.ndarray):
            raise TypeError(f"cannot send a {type(value).__name__}")
        array = np.ascontiguousarray(value)
        description = [_DTYPES.index(array.dtype.name), len(frames), *value.shape]
        frames.append(array.data.cast("B") if array.size else b"")
        return msgspec.msgpack.Ext(_ARRAY, msgspec.msgpack.encode(description))

    belongs = (tag.session, tag.term, tag.reply)
    header = (PROTOCOL_VERSION, *belongs, type(message).__name__, message)
    frames[0] = msgspec.msgpack.encode(header, enc_hook=pack_array)
    return frames


def decode(frames: Sequence[Frame]) -> Message:
    """The message in ``frames``, whatever it belongs to; see :func:`decode_tagged`."""
    return decode_tagged(frames)[1]


def decode_tagged(frames: Sequence[Frame]) -> tuple[Tag, Message]:
    """The message in ``frames`` and what it belongs to. Arrays are read-only views of the frames.

    Raises:
        DecodeError: the frames are not a valid message; the text says why.
    """
    if not 1 <= len(frames) <= MAX_FRAMES:
        raise DecodeError(f"{len(frames)} frames")
    if len(frames[0]) > MAX_HEADER_BYTES:
        raise DecodeError(f"header of {len(frames[0])} bytes")

    def unpack_extension(code: int, data: memoryview) -> np.ndarray[Any, Any]:
        if code != _ARRAY or len(data) > MAX_EXTENSION_BYTES:
            raise DecodeError(f"unknown extension {code} of {len(data)} bytes")
        return _array(msgspec.msgpack.decode(data), frames)

    try:
        header = msgspec.msgpack.decode(frames[0], ext_hook=unpack_extension)
    except DecodeError:
        raise
    except (msgspec.DecodeError, ValueError, TypeError, RecursionError) as error:
        raise DecodeError(f"header is not msgpack: {error}") from None
    return _message(header)


def _message(header: Any) -> tuple[Tag, Message]:
    if not isinstance(header, list) or not header:
        raise DecodeError("header is not a list")
    version = header[0]
    if type(version) is not int:
        raise DecodeError("the protocol version is not an integer")
    if version != PROTOCOL_VERSION:
        raise DecodeError(
            f"protocol version {version}, this side speaks {PROTOCOL_VERSION}; update pacplus"
        )
    if len(header) != 6:
        raise DecodeError("header is not [version, session, term, reply, type, fields]")
    session, term, reply, name, fields = header[1:]
    if (type(session), type(term), type(reply)) != (str, int, int):
        raise DecodeError("session, term or reply is not of its type")
    message_type = MESSAGE_TYPES.get(name) if isinstance(name, str) else None
    if message_type is None:
        raise DecodeError(f"unknown message type {str(name)[:40]!r}")
    try:
        tag = Tag(session=session, term=term, reply=reply)
        return tag, from_plain(message_type, fields, name)
    except (BadInputError, ValueError) as error:
        raise DecodeError(str(error)) from None
    except (TypeError, ArithmeticError, IndexError, AttributeError) as error:
        # A message's own checks may stumble over arrays of a shape or dtype that none of
        # ours has, and msgspec takes an array for a mapping without keys; whatever they
        # raise, the message is not one.
        raise DecodeError(f"{name}: {error}") from None


def _array(description: Any, frames: Sequence[Frame]) -> np.ndarray[Any, Any]:
    whole = isinstance(description, list) and all(type(item) is int for item in description)
    if not whole or not 2 <= len(description) <= 10 or min(description) < 0:
        raise DecodeError("array description is not valid")
    dtype_index, frame_index, *shape = description
    if dtype_index >= len(_DTYPES) or not 1 <= frame_index < len(frames):
        raise DecodeError("array description is out of range")
    dtype = np.dtype(_DTYPES[dtype_index])
    frame = memoryview(frames[frame_index])
    if math.prod(shape) * dtype.itemsize != frame.nbytes:
        raise DecodeError(f"array of shape {shape} does not fit a frame of {frame.nbytes} bytes")
    array: np.ndarray[Any, Any] = np.frombuffer(frame, dtype).reshape(shape)
    return array
