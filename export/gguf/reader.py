"""Opens a GGUF file; says which of the usual mistakes a file is that cannot be opened."""

import dataclasses
import functools
import importlib.util
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.contract.errors import BadInputError, MissingExtraError
from export.wording import first_line

SUFFIX = ".gguf"

Array = np.ndarray[Any, Any]
Ignores = Callable[[str], bool]
"""Tells whether the user knows a key or a tensor not to matter."""

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_POINTER = b"version https://git-lfs"
_FOLDER = "export the model's Hugging Face folder instead"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GgufFile:
    """A GGUF file with a language model.

    Attributes:
        path: of the file.
        metadata: by key; arrays are lists.
        tensors: as the package ``gguf`` reads them, mapped and still quantized, by name.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of the architecture, which its keys begin with."""
        return str(self.metadata.get("general.architecture", ""))

    def get(self, key: str, default: Any = None) -> Any:
        """Looks up a value of the architecture; ``key`` is without its name."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def values(self, name: str) -> Array:
        """Reads a tensor as float32, in transformers' shape (the last axis lies together).

        Raises:
            BadInputError: they cannot be read, or some are NaN or Inf.
        """
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        try:
            values = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        except (NotImplementedError, ValueError) as error:
            raise BadInputError(
                f"{self.path}: tensor {name} is stored as {tensor.tensor_type.name}, which the "
                f"installed package gguf cannot read ({error}); try: pip install -U gguf"
            ) from None
        odd = int(np.count_nonzero(~np.isfinite(values)))
        if odd:
            raise BadInputError(
                f"{self.path}: tensor {name} has {odd} values that are NaN or Inf; the file is "
                "damaged or was made by faulty software"
            )
        return values


def open_gguf(path: Path) -> GgufFile:
    """Opens a file and reads its header; tensors stay on disk.

    Raises:
        BadInputError: no GGUF file, damaged, or one without a language model of its own.
        MissingExtraError: the package ``gguf`` is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf", "export")
    stat = path.stat()
    return _open(path.resolve(), path, stat.st_mtime_ns, stat.st_size)


# One export opens its file three times: for configuration, tokenizer and weights.
@functools.lru_cache(maxsize=1)
def _open(_real: Path, path: Path, _modified: int, _size: int) -> GgufFile:
    _check_start(path)
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        metadata = {
            name: field.contents()
            for name, field in reader.fields.items()
            if not name.startswith("GGUF.")
        }
    except Exception as error:
        # A reader of trusting numpy code: a byte lost anywhere shows as any exception.
        raise BadInputError(
            f"{path}: is cut off or damaged ({first_line(error)}); download or convert it again"
        ) from None
    file = GgufFile(
        path=path, metadata=metadata, tensors={tensor.name: tensor for tensor in reader.tensors}
    )
    _check_kind(file)
    return file


def _check_start(path: Path) -> None:
    with path.open("rb") as stream:
        start = stream.read(len(_POINTER))
    if start.startswith(_POINTER):
        raise BadInputError(
            f"{path}: is a Git LFS pointer, not the model; fetch it with git lfs pull"
        )
    if not start.startswith(_MAGIC):
        raise BadInputError(f"{path}: is no GGUF file")
    if len(start) < 8:
        raise BadInputError(f"{path}: is cut off or damaged (it has {len(start)} bytes)")
    (version,) = struct.unpack_from("<I", start, len(_MAGIC))
    if version & 0xFFFF == 0 and version:
        raise BadInputError(
            f"{path}: is big-endian; convert it with: gguf-convert-endian FILE little"
        )
    if version not in _VERSIONS:
        raise BadInputError(
            f"{path}: is a GGUF file of version {version}, which nobody writes anymore; convert "
            f"the model again, or {_FOLDER}"
        )


def _check_kind(file: GgufFile) -> None:
    """Refuses files that are a part of a model only."""
    path, metadata = file.path, file.metadata
    kind = metadata.get("general.type", "model")
    if kind == "adapter" or any(name.startswith("adapter.") for name in metadata):
        raise BadInputError(
            f"{path}: is a LoRA adapter, not a model; merge it into its base model with "
            "llama-export-lora -m BASE.gguf --lora ADAPTER.gguf -o MERGED.gguf, and export that"
        )
    if kind == "mmproj" or file.architecture == "clip":
        raise BadInputError(
            f"{path}: is the image or audio part of a model (mmproj), not a language model"
        )
    if kind != "model":
        raise BadInputError(f"{path}: general.type is {kind!r}, not 'model'")
    parts = metadata.get("split.count", 0)
    if parts > 1:
        raise BadInputError(
            f"{path}: is part {metadata.get('split.no', 0) + 1} of {parts} of a split file; join "
            "them with llama-gguf-split --merge FIRST-PART WHOLE.gguf, and export that"
        )
    if not file.tensors:
        raise BadInputError(f"{path}: has a vocabulary only, no weights")
