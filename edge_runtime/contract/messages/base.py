"""The base of all messages, the types and the checks that they share."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np

from edge_runtime.contract.checks import Array as Array
from edge_runtime.contract.checks import check_array, check_tokens, require
from edge_runtime.contract.generation import Sequences
from edge_runtime.contract.manifest import HIDDEN_PREFIX, FileSpec, InputSpec, Stream, check_streams

CacheDtype = Literal["fp32", "fp16", "int8"]
Phase = Literal["start", "profile", "fill", "train", "eval"]
SampleSet = Literal["train", "eval"]


class Message:
    """Base of all messages; carries no data."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class IntegerProduct:
    """Where the constants of a product of uint8 rows and int8 weights lie.

    Attributes:
        inputs: rows of the weights, an int8 matrix in C order.
        outputs: its columns, and float32 scales.
        weight_file: index into the stage's files, or -1: in its graph.
        weight_at: offset of the matrix there, in bytes.
        scale_file: likewise of the scales.
        scale_at: likewise.
    """

    inputs: int
    outputs: int
    weight_file: int
    weight_at: int
    scale_file: int
    scale_at: int

    def __post_init__(self) -> None:
        require(min(self.weight_file, self.scale_file) >= -1, "a product's file is negative")
        require(self.inputs > 0 and self.outputs > 0, "a product has no weights")
        require(min(self.weight_at, self.scale_at) >= 0, "a product's offset is negative")

    def ends_within(self, sizes: Sequence[int]) -> bool:
        """True if its constants are within files of ``sizes``, of which the last is the graph's."""
        if max(self.weight_file, self.scale_file) >= len(sizes) - 1:
            return False
        weight_end = self.weight_at + self.inputs * self.outputs
        scale_end = self.scale_at + 4 * self.outputs
        return weight_end <= sizes[self.weight_file] and scale_end <= sizes[self.scale_file]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageFiles:
    """A stage graph and the weight files that it refers to by base name.

    Attributes:
        first: first block; ``last`` is one past the last one.
        streams: the sequence that each of hidden states ``0 .. last - 1`` belongs to.
        carries: inputs of later blocks: hidden states, made here or earlier, and token
            inputs.
        inputs: the whole backbone's inputs.
        graph: the serialized ONNX model.
        exact_graph: the same for processors whose uint8 x int8 product saturates.
        products: with int8 weights, all of them or none; see :mod:`.paired_weights`.
    """

    first: int
    last: int
    streams: tuple[Stream, ...]
    carries: tuple[str, ...]
    inputs: tuple[InputSpec, ...]
    graph: Array
    exact_graph: Array
    files: tuple[FileSpec, ...]
    products: tuple[IntegerProduct, ...] = ()

    def __post_init__(self) -> None:
        require(0 <= self.first < self.last, f"stage [{self.first}, {self.last}) is empty")
        named = len(self.streams) == self.last
        require(named, "streams must name the sequence of every hidden state")
        sizes = [*(file.bytes for file in self.files), self.graph.nbytes]
        within = all(product.ends_within(sizes) for product in self.products)
        require(within, "a product's weights are not in the stage's files")
        tokens = {spec.name for spec in self.inputs if spec.kind == "tokens"}
        hidden = {f"{HIDDEN_PREFIX}{i}" for i in range(self.last)}
        unknown = set(self.carries) - tokens - hidden
        if unknown:
            raise ValueError(f"carries names {min(unknown)[:80]!r}, which no block makes")


Lengths: TypeAlias = dict[Stream, Array]
"""Tokens of N samples in each of their sequences, (N,) int32 each."""


def check_lengths(lengths: Mapping[Stream, Array], count: int) -> None:
    """Raises ValueError unless every sequence has ``count`` int32 lengths above 0."""
    check_streams(lengths)
    for stream, each in lengths.items():
        check_array(f"lengths of {stream}", each, np.int32, (count,))
        if count and each.min() < 1:
            raise ValueError("samples must have at least one token in each of their sequences")


def check_sequences(sequences: Sequences, lengths: Mapping[Stream, Array], count: int) -> None:
    """Raises ValueError unless every new row belongs to one of ``count`` sequences."""
    lines = len(sequences.lines)
    require(lines == count, f"{lines} sequences for {count} samples")
    known = set(lengths) <= set(sequences.known)
    require(known, "it is not said how many rows of a sequence are known")
    check_token_rows(sequences.tokens, lengths)


def check_token_rows(tokens: Array | None, lengths: Mapping[Stream, Array]) -> None:
    """Raises ValueError unless there is an id for each of the decoder's rows, or none is told."""
    check_tokens(tokens)
    if tokens is not None:
        require("decoder" in lengths, "tokens are told, but no sample has a decoder's sequence")
        rows = int(lengths["decoder"].sum())
        require(len(tokens) == rows, f"{len(tokens)} tokens for {rows} rows")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EpochSums:
    """Sums over the steps of an epoch that are applied, over all trainers; equal at each of them.

    Attributes:
        epoch: from 1.
        steps: applied so far.
        samples: trained on.
        count: divisor of a mean loss: samples, or counted tokens.
        loss_sum: each sample's loss at the step in which it was trained on.
    """

    epoch: int
    steps: int = 0
    samples: int = 0
    count: int = 0
    loss_sum: float = 0.0

    def __post_init__(self) -> None:
        smallest = min(self.epoch, self.steps, self.samples, self.count)
        require(smallest >= 0, "epoch, steps, samples and count must not be negative")


NOTHING_SUMMED = EpochSums(epoch=0)
