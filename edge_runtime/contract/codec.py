"""Messages to frames and back: a msgpack header, then raw array frames.

The header is ``[protocol version, session, term, reply, message type, fields]``; see
:class:`.Tag` for its second to fourth element. An array field is an extension value that gives
dtype, shape and the index of the frame that holds its bytes, so large tensors are neither
copied into the header nor parsed. A very large one is cut into several frames: a socket encrypts a
frame as a whole, which takes three times its bytes meanwhile.

Whatever comes from a peer is checked before use: version, type, every field, and that
each array's frames have exactly the bytes which dtype and shape call for. Values are built as the
types of the message's fields and nothing else, so that depth, cost and memory are bounded by the
types; what no type asks for is never built, compared or printed.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np

from .errors import BadInputError, DecodeError
from .messages import MESSAGE_TYPES, Message
from .messages.tag import UNTAGGED, Tag
from .structure import from_msgpack
from .text import excerpt, one_line

PROTOCOL_VERSION = 7
MAX_HEADER_BYTES = 1 << 20
MAX_CONTAINERS = 1 << 16
"""Most lists and maps of a header; the largest, of a stage, names some hundred files."""
MAX_FRAMES = 256
"""More than a message of 15 arrays has, all of which are large."""
WHOLE_BYTES = 8 << 20
"""Most of an array in one frame; larger ones are in ``PARTS`` frames of about equal size."""
PARTS = 16
MAX_EXTENSION_BYTES = 256
MAX_DIMENSIONS = 8
MAX_EMPTY = 1 << 20
"""Most rows that an array without bytes may have."""

Frame: TypeAlias = "bytes | memoryview"

_ARRAY = 1
_CONTAINER_BYTES = bytes((*range(0x80, 0xA0), *range(0xDC, 0xE0)))
_ENVELOPE = msgspec.msgpack.Decoder(tuple[int, str, int, int, str, msgspec.Raw])
_DESCRIPTION = msgspec.msgpack.Decoder(list[int])
_DTYPES = ("uint8", "int8", "int32", "int64", "float16", "float32", "bool", "float64")
_NUMPY_DTYPES = {name: np.dtype(name) for name in _DTYPES}


def encode(message: Message, tag: Tag = UNTAGGED) -> list[Frame]:
    """Frames of ``message``, which belongs to ``tag``.

    Arrays are handed on without a copy where they are contiguous.

    Raises:
        ValueError: an array has a dtype that never crosses the wire, or there are too many of them
            (bugs of ours).
    """
    frames: list[Frame] = [b""]

    def pack_array(value: Any) -> Any:
        if isinstance(value, float):  # a numpy scalar
            return float(value)
        if not isinstance(value, np.ndarray):
            raise TypeError(f"cannot send a {type(value).__name__}")
        array = np.ascontiguousarray(value)
        description = [_DTYPES.index(array.dtype.name), len(frames), *value.shape]
        data: Frame = array.data.cast("B") if array.size else b""
        frames.extend(data[part] for part in _parts(len(data)))
        return msgspec.msgpack.Ext(_ARRAY, msgspec.msgpack.encode(description))

    belongs = (tag.session, tag.term, tag.reply)
    header = (PROTOCOL_VERSION, *belongs, type(message).__name__, message)
    frames[0] = msgspec.msgpack.encode(header, enc_hook=pack_array)
    if len(frames) > MAX_FRAMES:
        raise ValueError(f"{type(message).__name__} takes {len(frames)} frames")
    return frames


def decode(frames: Sequence[Frame]) -> Message:
    """The message in ``frames``, whatever it belongs to; see :func:`decode_tagged`."""
    return decode_tagged(frames)[1]


def decode_tagged(frames: Sequence[Frame]) -> tuple[Tag, Message]:
    """The message in ``frames`` and what it belongs to.

    Arrays are read-only: views of the frames, but for those that were cut.

    Raises:
        DecodeError: the frames are not a valid message; the text says why.
    """
    if not 1 <= len(frames) <= MAX_FRAMES:
        raise DecodeError(f"{len(frames)} frames")
    _check_size(frames[0])
    arrays = _Arrays(frames)
    name = "header"
    try:
        tag, name, fields = _open(frames[0])
        message = from_msgpack(MESSAGE_TYPES[name], fields, name, arrays.unpack)
        arrays.check_all_used()
    except DecodeError:
        raise
    except (BadInputError, msgspec.ValidationError) as error:
        raise DecodeError(one_line(str(error))) from None
    except msgspec.DecodeError as error:
        raise DecodeError(f"{name} is not msgpack: {one_line(str(error))}") from None
    except Exception as error:
        # A message's own checks may stumble over arrays of a shape or dtype that none of ours
        # has, and msgspec over what is nested too deeply; whatever they raise, the message is
        # not one, and must not end the process.
        raise DecodeError(f"{name}: {type(error).__name__}: {one_line(str(error))}") from None
    return tag, message


def _check_size(header: Frame) -> None:
    if len(header) > MAX_HEADER_BYTES:
        raise DecodeError(f"header of {len(header)} bytes")
    # Lists and maps cost a hundred times their bytes once they are built, so they are counted
    # before: each begins with one of these bytes, which texts may hold as well.
    if len(header) > MAX_CONTAINERS:
        others = len(bytes(header).translate(None, _CONTAINER_BYTES))
        if len(header) - others > MAX_CONTAINERS:
            raise DecodeError("header has too many lists and maps")


def _open(header: Frame) -> tuple[Tag, str, msgspec.Raw]:
    """Checks all of the header but its fields, which stay unparsed."""
    try:
        version, session, term, reply, name, fields = _ENVELOPE.decode(header)
    except msgspec.ValidationError:
        raise DecodeError(_explain(header)) from None
    if version != PROTOCOL_VERSION:
        raise DecodeError(_other_version(version))
    if name not in MESSAGE_TYPES:
        raise DecodeError(f"unknown message type {excerpt(name, 40)}")
    try:
        return Tag(session=session, term=term, reply=reply), name, fields
    except ValueError as error:
        raise DecodeError(str(error)) from None


def _explain(header: Frame) -> str:
    """Says what is wrong with a header whose elements are not of their types."""
    if not 0x90 < header[0] < 0xA0:  # msgpack's lists of 1 to 15 elements
        return "header is not a list"
    elements = msgspec.msgpack.decode(header, type=list[msgspec.Raw])
    try:
        version = msgspec.msgpack.decode(elements[0], type=int)
    except msgspec.ValidationError:
        return "the protocol version is not an integer"
    if version != PROTOCOL_VERSION:
        return _other_version(version)
    if len(elements) != 6:
        return "header is not [version, session, term, reply, type, fields]"
    return "session, term, reply or type is not of its type"


def _other_version(version: int) -> str:
    return f"protocol version {version}, this side speaks {PROTOCOL_VERSION}; update pacplus"


class _Arrays:
    """Makes arrays of frames, each used once, in the order in which :func:`encode` writes them.

    So neither a header of many arrays nor one large frame named often costs more than it has
    bytes.
    """

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = frames
        self._used = 1  # the header

    def unpack(self, code: int, data: memoryview) -> np.ndarray[Any, Any]:
        """Makes the array that an extension value describes."""
        if code != _ARRAY or len(data) > MAX_EXTENSION_BYTES:
            raise DecodeError(f"unknown extension {code} of {len(data)} bytes")
        try:
            dtype_index, frame_index, *shape = _DESCRIPTION.decode(data)
        except ValueError:  # not msgpack, not whole numbers, or too few of them
            raise DecodeError("array description is not valid") from None
        if len(shape) > MAX_DIMENSIONS or min(shape, default=0) < 0 or frame_index != self._used:
            raise DecodeError("array description is not valid, or not of the next frame")
        if not 0 <= dtype_index < len(_DTYPES):
            raise DecodeError("array description is out of range")
        name = _DTYPES[dtype_index]
        parts = _parts(math.prod(shape) * _NUMPY_DTYPES[name].itemsize)
        frames = self._frames[frame_index : frame_index + len(parts)]
        if len(frames) < len(parts):
            raise DecodeError("array description is out of range")
        self._used += len(parts)
        if len(parts) == 1:
            return _array(name, shape, frames[0])
        sizes = [part.stop - part.start for part in parts]
        if [len(each) for each in frames] != sizes:
            raise DecodeError(f"array of shape {shape} does not fit its {len(parts)} frames")
        return _array(name, shape, b"".join(frames))

    def check_all_used(self) -> None:
        """Raises DecodeError if a frame belongs to no array."""
        if self._used != len(self._frames):
            raise DecodeError(f"{len(self._frames)} frames, of which {self._used} are used")


def _parts(size: int) -> list[slice]:
    """The bytes of an array's frames among all of its bytes."""
    if size <= WHOLE_BYTES:
        return [slice(0, size)]
    ends = [size * part // PARTS for part in range(PARTS + 1)]
    return [slice(*pair) for pair in itertools.pairwise(ends)]


def _array(name: str, shape: list[int], frame: Frame) -> np.ndarray[Any, Any]:
    array: np.ndarray[Any, Any] = np.frombuffer(frame, _NUMPY_DTYPES[name])
    if math.prod(shape) * array.itemsize != len(frame) or max(shape, default=0) > max(
        array.size, MAX_EMPTY
    ):
        raise DecodeError(f"array of shape {shape} does not fit a frame of {len(frame)} bytes")
    if name == "bool" and array.view(np.uint8).max(initial=0) > 1:
        raise DecodeError("an array of truth values holds others than 0 and 1")
    return array if len(shape) == 1 else array.reshape(shape)
