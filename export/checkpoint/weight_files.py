"""Finds the safetensors of a folder and reads their headers, before PyTorch loads anything."""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_runtime.contract.errors import BadInputError

from .folders import no_weights, refuse_pointers

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_HEADS = re.compile(r"^(lm_head|cls|classifier|score|qa_outputs|\w*predictions|vocab_\w+)\.")
_DECODER = re.compile(r"^(model\.)?decoder\.")
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor of a safetensors file.

    Attributes:
        dtype: as the file names it, such as ``BF16``.
        shape: of the tensor.
        file: that holds it.
    """

    dtype: str
    shape: tuple[int, ...]
    file: Path


def stored_tensors(folder: Path, architecture: str = "AutoModel") -> dict[str, StoredTensor]:
    """Reads what the weight files of ``folder`` hold, by name.

    Args:
        folder: with ``config.json``.
        architecture: transformers' class that could convert other files.

    Raises:
        BadInputError: the files are absent, cut off, of two models, or not those of the index.
    """
    single, index = folder / SINGLE, folder / INDEX
    shards = sorted(path for path in folder.iterdir() if _SHARD.fullmatch(path.name))
    listed = _weight_map(index) if index.exists() else {}
    named = {folder / name for name in listed.values()}
    if single.exists():
        _check_single(folder, shards, named - {single})
        named = {single}
    elif not index.exists():
        if shards:
            raise BadInputError(
                f"{folder}: has {len(shards)} shards and no {INDEX}; download that file, too"
            )
        raise no_weights(folder, architecture)
    missing = sorted(path.name for path in named if not path.exists())
    if missing:
        raise BadInputError(
            f"{folder}: {len(missing)} of {len(named)} shards that {INDEX} names are missing, "
            f"{missing[0]} first; download them again"
        )
    stray = [path.name for path in shards if path not in named]
    if stray:
        raise BadInputError(
            f"{folder}: {stray[0]} is not named by {INDEX}; it is of another save, remove it"
        )
    refuse_pointers(folder, sorted(named))
    found: dict[str, StoredTensor] = {}
    for path in sorted(named):
        for name, tensor in read_header(path).items():
            if name in found:
                raise BadInputError(f"{path}: {name} is in {found[name].file.name}, too")
            found[name] = tensor
    _check_index(index, listed, found)
    return found


def _check_single(folder: Path, shards: list[Path], named: set[Path]) -> None:
    absent = sorted(path.name for path in named if not path.exists())
    if absent:
        raise BadInputError(
            f"{folder}: {SINGLE} is there, but {INDEX} names shards that are not, {absent[0]} "
            f"first; remove {INDEX} if {SINGLE} is the model, or download the shards"
        )
    if named or shards:
        raise BadInputError(
            f"{folder}: holds {SINGLE} and shards, too, {min(named | set(shards)).name} first; "
            "they may be different models, so remove one of the two"
        )


def _weight_map(index: Path) -> dict[str, str]:
    refuse_pointers(index.parent, [index])
    try:
        listed = json.loads(index.read_text("utf-8"))["weight_map"]
        pairs = {str(name): str(file) for name, file in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInputError(f"{index}: is no index of shards; download it again") from None
    if not pairs:
        raise BadInputError(f"{index}: names no weights; download it again")
    return pairs


def _check_index(index: Path, listed: dict[str, str], found: dict[str, StoredTensor]) -> None:
    """Refuses an index that says otherwise than its files."""
    advice = "the index is of another save; download both again"
    for name, file in listed.items():
        if name not in found or found[name].file.name != file:
            raise BadInputError(f"{index}: {name} should be in {file} and is not; {advice}")
    if listed:
        for name, tensor in found.items():
            if name not in listed:
                raise BadInputError(
                    f"{index}: does not name {name}, which is in {tensor.file.name}; {advice}"
                )


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Reads the header of a safetensors file.

    Raises:
        BadInputError: it is damaged, or the file does not have the bytes that it announces.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= _MAX_HEADER_BYTES else b""
    try:
        entries: dict[str, Any] = json.loads(text)
        entries.pop("__metadata__", None)
        ends = [int(entry["data_offsets"][1]) for entry in entries.values()]
        found = {
            name: StoredTensor(dtype=entry["dtype"], shape=tuple(entry["shape"]), file=path)
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise BadInputError(
            f"{path}: its weights cannot be loaded: the header is damaged; download the file again"
        ) from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise BadInputError(
            f"{path}: is {'truncated' if size < expected else 'damaged'}, it has {size} bytes "
            f"instead of {expected}; download it again"
        )
    if not found:
        raise BadInputError(f"{path}: holds no weights; download it again")
    return found


def backbone_elements(tensors: Mapping[str, StoredTensor], *, encoder_only: bool) -> int:
    """Counts the numbers in a backbone, at least: without heads, and without a decoder."""
    return sum(
        math.prod(tensor.shape)
        for name, tensor in tensors.items()
        if not _HEADS.search(name) and not (encoder_only and _DECODER.search(name))
    )
