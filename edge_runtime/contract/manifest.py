"""The description of a bundle: ``manifest.json``.

The *backbone digest* covers all that decides the backbone's outputs (graph and
weights, hence quantization too); activation caches are keyed by it. The *bundle
digest* covers the whole manifest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

from .checks import require
from .errors import BadInputError
from .ids import Sha256
from .structure import from_plain, to_plain

FORMAT_VERSION = 2
UNSEALED = Sha256("")

Quantization = Literal["none", "int8", "int4"]
Task = Literal["classification", "regression", "causal-lm", "seq2seq"]
BlockKind = Literal["embeddings", "layer", "head"]
Stream = Literal["encoder", "decoder"]
"""A sequence that a sample has: encoders read one, decoders one, encoder-decoders both."""

HIDDEN_PREFIX = "hidden."
"""Tensor ``hidden.<i>`` is the hidden state that block i makes."""


def check_streams(named: Mapping[Stream, object]) -> None:
    """Raises ValueError unless ``named`` has one or both of the sequences, nothing else."""
    known = named and set(named) <= set(get_args(Stream))
    require(known, "the sequences must be encoder, decoder or both")


def uint8_name(weight_file: str) -> str:
    """Names the file with a weight file's int8 values as uint8, each plus 128.

    A device makes that file where its processor saturates the product of uint8 and int8.
    """
    stem, _, suffix = weight_file.rpartition(".")
    return f"{stem}.uint8.{suffix}"


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}(/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199})*")
_SHA = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A graph input or output: numpy's dtype, symbolic shape as ``("batch", "384")``."""

    name: str
    dtype: str
    shape: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """One input of the whole backbone, and its source in a sample.

    Attributes:
        kind: ``tokens`` is stored per sample and padded with ``pad``; ``mask`` is 1 on
            tokens and 0 on padding, made from the lengths.
        pad: padding value of a ``tokens`` input.
        stream: which sequence of the sample the input belongs to.
    """

    name: str
    dtype: str
    kind: Literal["tokens", "mask"]
    pad: int = 0
    stream: Stream = "encoder"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileSpec:
    """A file of the bundle: path relative to the bundle, size and digest."""

    path: str
    bytes: int
    sha256: Sha256

    def __post_init__(self) -> None:
        problem = f"file path {self.path[:80]!r} is not a plain relative path"
        require(_NAME.fullmatch(self.path), problem)
        digits = _SHA.fullmatch(self.sha256)
        require(digits, f"sha256 of {self.path!r} is not 64 hexadecimal digits")
        require(self.bytes >= 0, f"size of {self.path!r} is negative")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """The smallest unit of cutting.

    Attributes:
        name: e.g. ``embeddings``, ``layer.3``.
        stream: the sequence whose tokens its hidden state has rows for.
        block_class: blocks of one class cost the same; profiling times one of them.
        inputs: of the block alone: hidden states of earlier blocks (an encoder's last one
            for every decoder layer), graph inputs.
        outputs: the block's hidden state.
        weights: paths of the weight files it needs.
        weight_bytes: their sizes together.
        flops_per_token: multiply-adds count as two.
    """

    name: str
    kind: BlockKind
    block_class: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    weights: tuple[str, ...]
    weight_bytes: int
    flops_per_token: int
    stream: Stream = "encoder"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """The frozen language-model head: logits = cap(scale * (x W^T) + b).

    Attributes:
        path: the bundle's safetensors file: ``weight`` (V, d) float32, or int8 with
            ``scale`` (V, 1) float32; ``bias`` (V,) float32 where the model has one.
        vocab_size: V.
        scale: factor of the product, before the bias.
        softcap: c of c * tanh(logits / c); 0 for none.
    """

    path: str
    vocab_size: int
    scale: float = 1.0
    softcap: float = 0.0

    def __post_init__(self) -> None:
        if self.vocab_size < 1 or not 0 < self.scale < math.inf or not 0 <= self.softcap < math.inf:
            raise ValueError("vocab_size and scale must be positive, softcap not negative")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Distance of the exported graph from PyTorch, as the adapter sees it.

    Per token, after layer normalization without parameters, the root mean square of the
    difference relative to that of the reference. Of each hidden state, the largest over the
    checked tokens, or their root mean square if the backbone is quantized.

    Earlier bundles lack ``state_max``, the largest magnitude in each hidden state, and
    ``fp16_error`` and ``int8_error``, how far rounding to the cache's fp16 and int8 moves a
    token's state at most, measured in the same way: fp16 cuts off values beyond 65504 and takes
    digits from those below 6e-5; int8 crushes what is small beside others of its group.
    """

    worst: float
    limit: float
    per_state: tuple[float, ...]
    tokens: int
    state_max: tuple[float, ...] | None = None
    fp16_error: tuple[float, ...] | None = None
    int8_error: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for ranges in (self.state_max, self.fp16_error, self.int8_error):
            require(ranges is None or len(ranges) == len(self.per_state), "states differ in number")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole manifest. ``blocks`` are in order; block i makes hidden state i.

    An encoder-decoder's encoder blocks come before its decoder blocks.

    Attributes:
        head: the frozen head of a language model; None where there is none.
        adapter_init: path of the initial adapter weights; empty for none.
        eos_token_ids: generation ends at any of them.
        decoder_start_token_id: first decoder input of an encoder-decoder.
        notes: remarks of the export for people, one line each.
    """

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
    head: HeadSpec | None = None
    adapter_init: str = ""
    eos_token_ids: tuple[int, ...] = ()
    decoder_start_token_id: int | None = None
    notes: tuple[str, ...] = ()
    digest: Sha256 = UNSEALED

    def __post_init__(self) -> None:
        version = f"format_version is {self.format_version}, this pacplus reads {FORMAT_VERSION}"
        require(self.format_version == FORMAT_VERSION, f"{version}; export the model again")
        require(self.blocks, "blocks is empty")
        sizes = (self.hidden_size, self.num_heads, self.max_length)
        require(min(sizes) >= 1, "hidden_size, num_heads and max_length must be positive")
        paths = {file.path for file in self.files}
        for block in self.blocks:
            for path in block.weights:
                require(path in paths, f"block {block.name!r} needs {path!r}, which files lacks")
        for path in filter(None, (self.head.path if self.head else "", self.adapter_init)):
            require(path in paths, f"files lacks {path!r}")
        order = [block.stream for block in self.blocks]
        in_order = order == sorted(order, key=("encoder", "decoder").index)
        require(in_order, "encoder blocks must come before decoder blocks")

    @property
    def streams(self) -> tuple[Stream, ...]:
        """The sequences of a sample: one of them, or encoder and decoder."""
        return tuple(dict.fromkeys(block.stream for block in self.blocks))

    @property
    def output_stream(self) -> Stream:
        """The sequence that the last hidden state belongs to."""
        return self.blocks[-1].stream

    def layers_of(self, stream: Stream) -> range:
        """Hidden states, by index, of one sequence."""
        members = [i for i, block in enumerate(self.blocks) if block.stream == stream]
        return range(members[0], members[-1] + 1) if members else range(0)

    def carried(self, cut: int) -> tuple[str, ...]:
        """Names of the tensors that travel from the blocks before ``cut`` to those behind it.

        Hidden states by block, then token inputs in the graph's order. Masks are made from
        the lengths and never travel.
        """
        needed = {spec.name for block in self.blocks[cut:] for spec in block.inputs}
        hidden = [f"{HIDDEN_PREFIX}{i}" for i in range(cut)]
        tokens = [spec.name for spec in self.inputs if spec.kind == "tokens"]
        return tuple(name for name in (*hidden, *tokens) if name in needed)

    def file(self, path: str) -> FileSpec:
        """The entry of ``path``.

        Raises:
            KeyError: the bundle has no such file.
        """
        return {file.path: file for file in self.files}[path]

    def weight_files(self, first: int, last: int) -> tuple[FileSpec, ...]:
        """Weight files of the blocks ``[first, last)``, each once, in order of use."""
        paths = dict.fromkeys(path for block in self.blocks[first:last] for path in block.weights)
        return tuple(self.file(path) for path in paths)

    def to_json(self) -> str:
        """The canonical text, digest included; ends with a newline."""
        sealed = dataclasses.replace(self, digest=manifest_digest(self))
        return json.dumps(_to_file(sealed), indent=1, sort_keys=True) + "\n"

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
        manifest = from_plain(cls, _from_file(plain), where)
        if manifest.digest != manifest_digest(manifest):
            raise BadInputError(f"{where}: its digest does not match; export the model again")
        return manifest


def manifest_digest(manifest: Manifest) -> Sha256:
    """SHA-256 over the canonical manifest without its own digest."""
    plain = _to_file(dataclasses.replace(manifest, digest=UNSEALED))
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return Sha256(hashlib.sha256(canonical.encode()).hexdigest())


_CLASS_IN_FILE = "alike"
"""Name of ``block_class`` in files; digests of bundles depend on it."""


def _to_file(manifest: Manifest) -> Any:
    plain = to_plain(manifest)
    for block in plain["blocks"]:
        block[_CLASS_IN_FILE] = block.pop("block_class")
    return plain


def _from_file(plain: Any) -> Any:
    blocks = plain.get("blocks") if isinstance(plain, dict) else None
    if not isinstance(blocks, list):
        return plain
    return {**plain, "blocks": [_renamed(block) for block in blocks]}


def _renamed(block: Any) -> Any:
    if not isinstance(block, dict):
        return block
    names = {_CLASS_IN_FILE: "block_class"}
    return {names.get(name, name): value for name, value in block.items()}
