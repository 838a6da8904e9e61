"""What a bundle says of itself: ``manifest.json``.

The *backbone digest* covers whatever decides the backbone's outputs (graph and
weights, hence quantisation too); activation caches are keyed by it. The *bundle
digest* covers the whole manifest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from typing import Any, Literal

from .errors import BadInputError
from .ids import Sha256
from .plain import from_plain, to_plain

FORMAT_VERSION = 1
UNSEALED = Sha256("")

Quantization = Literal["none", "int8", "int4"]
Task = Literal["classification", "regression", "causal-lm", "seq2seq"]
BlockKind = Literal["embeddings", "layer", "head"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}(/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199})*")
_SHA = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A graph input or output.

    Attributes:
        name: the value's name in the graph.
        dtype: numpy's name of the element type, e.g. ``float32``.
        shape: symbolic shape, e.g. ``("batch", "sequence", "384")``.
    """

    name: str
    dtype: str
    shape: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """One input of the whole backbone and how to make it from a sample.

    Attributes:
        name: name of the graph input.
        dtype: numpy's name of the element type.
        kind: ``tokens`` is stored per sample and padded with ``pad``; ``mask`` is 1 on
            tokens and 0 on padding, made from the lengths.
        pad: padding value of a ``tokens`` input.
        stream: which sequence of the sample the input belongs to.
    """

    name: str
    dtype: str
    kind: Literal["tokens", "mask"]
    pad: int = 0
    stream: Literal["encoder", "decoder"] = "encoder"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileSpec:
    """A file of the bundle: path relative to the bundle, size and digest."""

    path: str
    bytes: int
    sha256: Sha256

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.path):
            raise ValueError(f"file path {self.path[:80]!r} is not a plain relative path")
        if not _SHA.fullmatch(self.sha256):
            raise ValueError(f"sha256 of {self.path!r} is not 64 hexadecimal digits")
        if self.bytes < 0:
            raise ValueError(f"size of {self.path!r} is negative")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """The smallest unit of cutting.

    Attributes:
        name: e.g. ``embeddings``, ``layer.3``.
        kind: what it is.
        alike: blocks of equal ``alike`` cost the same; profiling times one of them.
        inputs: what a stage that starts here is fed with (boundary tensor, graph inputs).
        outputs: the block's hidden state.
        weights: paths of the weight files it needs.
        weight_bytes: their sizes together.
        flops_per_token: multiply-adds count as two.
    """

    name: str
    kind: BlockKind
    alike: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[str, ...]
    weight_bytes: int
    flops_per_token: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far the exported graph is from PyTorch, as the adapter sees it.

    Per token, after layer normalisation without parameters, the root mean square of the
    difference relative to that of the reference; the largest over the checked tokens
    of each hidden state.
    """

    worst: float
    limit: float
    per_state: tuple[float, ...]
    tokens: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole manifest. ``blocks`` are in order; block i makes hidden state i."""

    format_version: int
    model_id: str
    architecture: str
    task: Task
    quantization: Quantization
    hidden_size: int
    num_heads: int
    max_length: int
    inputs: tuple[InputSpec, ...]
    blocks: tuple[BlockSpec, ...]
    files: tuple[FileSpec, ...]
    parity: Parity
    backbone_digest: Sha256
    digest: Sha256 = UNSEALED

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ValueError(
                f"format_version is {self.format_version}, this pacplus reads {FORMAT_VERSION}; "
                "export the model again"
            )
        if not self.blocks:
            raise ValueError("blocks is empty")
        if min(self.hidden_size, self.num_heads, self.max_length) < 1:
            raise ValueError("hidden_size, num_heads and max_length must be positive")
        paths = {file.path for file in self.files}
        for block in self.blocks:
            missing = [path for path in block.weights if path not in paths]
            if missing:
                raise ValueError(f"block {block.name!r} needs {missing[0]!r}, which files lacks")

    def file(self, path: str) -> FileSpec:
        """The entry of ``path``.

        Raises:
            KeyError: the bundle has no such file.
        """
        for file in self.files:
            if file.path == path:
                return file
        raise KeyError(path)

    def weight_files(self, first: int, last: int) -> tuple[FileSpec, ...]:
        """Weight files of the blocks ``[first, last)``, each once, in order of use."""
        paths = dict.fromkeys(path for block in self.blocks[first:last] for path in block.weights)
        return tuple(self.file(path) for path in paths)

    def to_json(self) -> str:
        """The canonical text, digest included; ends with a newline."""
        sealed = dataclasses.replace(self, digest=manifest_digest(self))
        return json.dumps(to_plain(sealed), indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "manifest.json") -> Manifest:
        """Parses and checks a manifest.

        Raises:
            BadInputError: not JSON, a bad field, or a digest that does not match.
        """
        try:
            plain: Any = json.loads(text)
        except ValueError as error:
            raise BadInputError(f"{where}: not JSON ({error}); export the model again") from None
        manifest = from_plain(cls, plain, where)
        if manifest.digest != manifest_digest(manifest):
            raise BadInputError(f"{where}: its digest does not match; export the model again")
        return manifest


def manifest_digest(manifest: Manifest) -> Sha256:
    """SHA-256 over the canonical manifest without its own digest."""
    plain = to_plain(dataclasses.replace(manifest, digest=UNSEALED))
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return Sha256(hashlib.sha256(canonical.encode()).hexdigest())
