"""Runs one stage on micro-batches: padding in, rows out.

Rows travel and are cached without padding. A graph wants rectangles, so each sequence of a
micro-batch is padded to its own longest sample just before the graph runs, and cut back
right after.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.manifest import HIDDEN_PREFIX, Stream
from edge_runtime.contract.messages import StageFiles

Array: TypeAlias = np.ndarray[Any, Any]


class Graph(Protocol):
    """A loaded graph; :class:`edge_runtime.inference.session.GraphSession` in truth."""

    @property
    def input_names(self) -> Sequence[str]:
        """What it is fed with."""

    @property
    def output_names(self) -> Sequence[str]:
        """The hidden states it makes, in block order."""

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Returns the asked ``outputs`` in order."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """Rows of the samples, one after another.

    Attributes:
        states: hidden state index -> (tokens, d) float32, of those that adapters read.
        carried: what later stages need, by name: hidden states (tokens, d) float32, made
            here or earlier, and token ids (tokens,) int32.
    """

    states: dict[int, Array]
    carried: dict[str, Array]


@dataclasses.dataclass(frozen=True, slots=True)
class _Feed:
    """How a graph input is made: padded rows, or the mask of a sequence."""

    stream: Stream
    dtype: np.dtype[Any]
    pad: int = 0
    is_mask: bool = False


class Stage:
    """Blocks ``[first, last)`` with the hidden states that somebody wants of them.

    Attributes:
        layers: hidden states of this stage that adapters read.
        streams: the sequence that each hidden state belongs to.
        outputs: the hidden states that it makes for others, by name, and their sequences.
        passed_on: what it is given for stages behind it only, likewise.
    """

    def __init__(self, graph: Graph, files: StageFiles, layers: Sequence[int]) -> None:
        """Binds a graph to block numbers.

        Args:
            graph: its outputs are the hidden states ``first .. last - 1``.
            files: says what the blocks are.
            layers: hidden states that are read by adapters, of any stage.

        Raises:
            RemoteError: the graph's inputs and outputs are not those of such a stage.
        """
        self._graph = graph
        self._name = f"stage [{files.first}, {files.last})"
        self.streams = files.streams
        own = {f"{HIDDEN_PREFIX}{i}": i for i in range(files.first, files.last)}
        if list(graph.output_names) != list(own):
            raise RemoteError(f"{self._name} has unexpected outputs")
        known = _known_feeds(files)
        if not set(graph.input_names) <= known.keys():
            raise RemoteError(f"{self._name} has unexpected inputs")
        self._feeds = {name: known[name] for name in graph.input_names}
        self.layers = tuple(layer for layer in own.values() if layer in set(layers))
        self._carries = files.carries
        self.passed_on = {name: known[name].stream for name in files.carries if name not in own}
        wanted = {f"{HIDDEN_PREFIX}{layer}" for layer in self.layers} | set(files.carries)
        self.outputs = {name: self.streams[i] for name, i in own.items() if name in wanted}

    @property
    def inputs(self) -> dict[str, Stream]:
        """What the graph is fed with, apart from masks, and the sequences of those rows."""
        return {name: feed.stream for name, feed in self._feeds.items() if not feed.is_mask}

    def run(self, lengths: Mapping[Stream, Array], rows: Mapping[str, Array]) -> StageResult:
        """Runs a micro-batch.

        Args:
            lengths: (N,) tokens of each sample in each of its sequences.
            rows: by name, what the stage reads and what it has to pass on; as
                :attr:`StageResult.carried`.

        Raises:
            RemoteError: an input is missing or has not one row a token.
        """
        masks = _masks(lengths)
        made = self.compute(lengths, rows)
        passed = {
            name: self._given(name, stream, masks, rows) for name, stream in self.passed_on.items()
        }
        return self.result({**passed, **made})

    def compute(
        self, lengths: Mapping[Stream, Array], rows: Mapping[str, Array]
    ) -> dict[str, Array]:
        """The hidden states of this stage that somebody wants, by name; as :meth:`run`."""
        masks = _masks(lengths)
        feeds = {name: self._feed(name, feed, masks, rows) for name, feed in self._feeds.items()}
        outputs = self._graph.run(feeds, list(self.outputs))
        return {
            name: _unpadded(padded, self._mask_of(stream, masks))
            for (name, stream), padded in zip(self.outputs.items(), outputs, strict=True)
        }

    def result(self, rows: Mapping[str, Array]) -> StageResult:
        """Sorts rows, made here or passed on, by who wants them; those not there are left out."""
        states = {layer: f"{HIDDEN_PREFIX}{layer}" for layer in self.layers}
        return StageResult(
            states={layer: rows[name] for layer, name in states.items() if name in rows},
            carried={name: rows[name] for name in self._carries if name in rows},
        )

    def _feed(
        self, name: str, feed: _Feed, masks: Mapping[Stream, Array], rows: Mapping[str, Array]
    ) -> Array:
        if feed.is_mask:
            return self._mask_of(feed.stream, masks).astype(feed.dtype)
        given = self._given(name, feed.stream, masks, rows)
        mask = masks[feed.stream]
        padded = np.full((*mask.shape, *given.shape[1:]), feed.pad, feed.dtype)
        padded[mask] = given
        return padded

    def _given(
        self, name: str, stream: Stream, masks: Mapping[Stream, Array], rows: Mapping[str, Array]
    ) -> Array:
        tokens = int(self._mask_of(stream, masks).sum())
        if name not in rows:
            raise RemoteError(f"{self._name} lacks input {name!r}")
        if len(rows[name]) != tokens:
            raise RemoteError(f"{len(rows[name])} rows of {name!r} for {tokens} tokens")
        return rows[name]

    def _mask_of(self, stream: Stream, masks: Mapping[Stream, Array]) -> Array:
        if stream not in masks:
            raise RemoteError(f"{self._name} was given no lengths of the {stream}'s sequence")
        return masks[stream]


def _known_feeds(files: StageFiles) -> dict[str, _Feed]:
    """Every input that a graph of these blocks may have."""
    feeds = {
        spec.name: _Feed(spec.stream, np.dtype(spec.dtype), spec.pad, spec.kind == "mask")
        for spec in files.inputs
    }
    for index in range(files.first):
        name = f"{HIDDEN_PREFIX}{index}"
        feeds[name] = _Feed(files.streams[index], np.dtype(np.float32))
    return feeds


def _masks(lengths: Mapping[Stream, Array]) -> dict[Stream, Array]:
    """(N, T) bool of each sequence, true on tokens."""
    return {
        stream: np.arange(int(each.max()))[None, :] < each[:, None]
        for stream, each in lengths.items()
    }


def _unpadded(hidden: Array, mask: Array) -> Array:
    """(tokens, d) of (N, T, d); a view where nothing is padding."""
    if mask.all():
        return hidden.reshape(-1, hidden.shape[-1])
    rows: Array = hidden[mask]
    return rows
