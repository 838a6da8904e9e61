"""Named arrays as bytes, in the safetensors layout, with numpy alone.

The layout: a little-endian u64 with the length of a JSON header, the header
(``{name: {"dtype", "shape", "data_offsets"}}``, optionally ``__metadata__``), then the
raw little-endian values without gaps. A coordinator without PyTorch reads and writes
what trainers exchange through this module. Bytes may come from a peer or from a
damaged disk, so every field is checked.
"""

from __future__ import annotations

import json
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import BadInputError

if TYPE_CHECKING:
    import mmap
    from collections.abc import Mapping

MAX_HEADER_BYTES = 8 << 20

_DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_METADATA = "__metadata__"


def write_tensors(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Serialises ``tensors``; equal input gives equal bytes.

    Tensors are laid out by element size (largest first, so that each stays aligned),
    then by name.

    Raises:
        ValueError: a name is reserved or a dtype is not representable.
    """
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    chunks: list[bytes] = []
    offset = 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].itemsize, name)):
        array = tensors[name]
        dtype = array.dtype.newbyteorder("<")
        if name == _METADATA or dtype not in _CODES:
            raise ValueError(f"tensor {name!r} of {array.dtype} cannot be written")
        raw = array.astype(dtype, copy=False).tobytes()
        header[name] = {
            "dtype": _CODES[dtype],
            "shape": list(array.shape),
            "data_offsets": [offset, offset + len(raw)],
        }
        chunks.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *chunks])


def read_tensors(data: bytes | mmap.mmap, where: str = "tensors") -> dict[str, np.ndarray]:
    """Parses ``data``; the arrays are read-only views into it.

    Args:
        data: the whole file.
        where: what the bytes are, for messages.

    Raises:
        BadInputError: truncated, not safetensors, or fields that contradict each other.
    """
    header, body = _split(data, where)
    tensors: dict[str, np.ndarray] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        if name == _METADATA:
            continue
        dtype, shape, begin, end = _entry(name, entry, where)
        if end > len(body):
            raise BadInputError(f"{where}: {name!r} ends at byte {end} of {len(body)}; truncated?")
        spans.append((begin, end))
        tensors[name] = np.frombuffer(body[begin:end], dtype).reshape(shape)
    _check_spans(spans, len(body), where)
    return tensors


def read_metadata(data: bytes, where: str = "tensors") -> dict[str, str]:
    """The free-form strings of the header.

    Raises:
        BadInputError: the header is damaged.
    """
    metadata = _split(data, where)[0].get(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise BadInputError(f"{where}: {_METADATA} must map strings to strings")
    return metadata


def _split(data: bytes | mmap.mmap, where: str) -> tuple[dict[str, Any], memoryview]:
    if len(data) < 8:
        raise BadInputError(f"{where}: {len(data)} bytes are too few for safetensors")
    (length,) = struct.unpack_from("<Q", data)
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise BadInputError(f"{where}: not safetensors, or truncated in its header")
    view = memoryview(data).toreadonly()
    try:
        header = json.loads(bytes(view[8 : 8 + length]))
    except (ValueError, RecursionError):
        raise BadInputError(f"{where}: the safetensors header is not JSON") from None
    if not isinstance(header, dict):
        raise BadInputError(f"{where}: the safetensors header is not an object")
    return header, view[8 + length :]


def _entry(name: str, entry: Any, where: str) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    bad = BadInputError(f"{where}: the header entry of {name[:80]!r} is malformed")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise bad
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2 or len(shape) > 32:
        raise bad
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        raise BadInputError(f"{where}: {name[:80]!r} has an unsupported dtype")
    dtype = _DTYPES[entry["dtype"]]
    begin, end = offsets
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise BadInputError(f"{where}: shape and size of {name[:80]!r} contradict each other")
    return dtype, tuple(shape), begin, end


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_spans(spans: list[tuple[int, int]], size: int, where: str) -> None:
    end = 0
    for first, last in sorted(spans):
        if first != end:
            raise BadInputError(f"{where}: tensors overlap or leave a gap at byte {end}")
        end = last
    if end != size:
        raise BadInputError(f"{where}: {size - end} bytes after the last tensor")
