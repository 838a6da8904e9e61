"""Named arrays as bytes in the safetensors layout; see https://github.com/huggingface/safetensors.

Trainers, coordinator and export exchange adapters, heads and trainer states through this module.
Bytes may come from a peer or from a damaged disk; the library checks them.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from .errors import BadInputError

DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
}
"""The format's names of the dtypes that pacplus reads and writes, in its order."""

_ALIGNMENT = 8
"""Of the first tensor: the header is filled up with spaces."""


def write_tensors(
    tensors: Mapping[str, np.ndarray[Any, Any]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Serializes ``tensors``; equal input gives equal bytes.

    They are those of the library's writer, which takes the memory of all tensors twice.

    Args:
        tensors: by name.
        metadata: at most one entry, since the library writes several in random order.

    Raises:
        ValueError: a dtype is not supported, or there is too much metadata.
    """
    for name, array in tensors.items():
        if array.dtype not in DTYPES.values():
            raise ValueError(f"tensor {name!r} of {array.dtype} cannot be written")
    if len(metadata or ()) > 1:
        raise ValueError("metadata must be one entry")
    names = {dtype: name for name, dtype in DTYPES.items()}
    order = list(names)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    parts, end = [], 0
    for name, array in sorted(
        tensors.items(), key=lambda item: (-order.index(item[1].dtype), item[0].encode())
    ):
        offsets = [end, end := end + array.nbytes]
        dtype, shape = names[array.dtype], list(array.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        parts.append(np.asarray(array, order="C").data)
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def read_tensors(data: bytes, where: str = "tensors") -> dict[str, np.ndarray[Any, Any]]:
    """Parses ``data``; the arrays are copies.

    Args:
        data: the whole file.
        where: name of the file, for messages.

    Raises:
        BadInputError: truncated, not safetensors, or with a dtype that is not supported.
    """
    try:
        tensors: dict[str, np.ndarray[Any, Any]] = safetensors.numpy.load(data)
    except (SafetensorError, ValueError) as error:
        raise damaged(where, error) from None
    except KeyError as error:
        raise BadInputError(f"{where}: dtype {error} is not supported") from None
    for name, array in tensors.items():
        if array.dtype not in DTYPES.values():
            raise BadInputError(f"{where}: {name[:80]!r} has the unsupported dtype {array.dtype}")
    return tensors


def damaged(where: str, error: Exception) -> BadInputError:
    """The error for a file that safetensors refuses."""
    return BadInputError(f"{where}: truncated, damaged or not safetensors: {str(error)[:200]}")
