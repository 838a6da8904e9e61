"""Runs one stage on micro-batches: padding in, rows out.

Rows travel and are cached without padding; each sequence of a micro-batch is padded to its
longest sample just before the graph runs, and cut back right after.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.manifest import HIDDEN_PREFIX, Stream
from edge_runtime.contract.messages import Array, StageFiles


class Graph(Protocol):
    """A loaded graph; :class:`edge_runtime.inference.session.GraphSession` in truth."""

    @property
    def input_names(self) -> Sequence[str]:
        """Names of inputs."""

    @property
    def output_names(self) -> Sequence[str]:
        """Names of hidden states, in block order."""

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Returns the asked ``outputs`` in order."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """Rows of the samples, one after another.

    Attributes:
        states: (tokens, d) float32 of the hidden states that adapters read, by index.
        carried: rows for later stages, by name: hidden states (tokens, d) float32, made here
            or earlier, and token ids (tokens,) int32.
    """

    states: dict[int, Array]
    carried: dict[str, Array]


@dataclasses.dataclass(frozen=True, slots=True)
class _Feed:
    """Describes a graph input: padded rows, or the mask of a sequence."""

    stream: Stream
    dtype: np.dtype[Any]
    pad: int = 0
    is_mask: bool = False


class Stage:
    """Blocks ``[first, last)`` and the hidden states that adapters and later stages read.

    Attributes:
        layers: hidden states of this stage that adapters read.
        streams: the sequence that each hidden state belongs to.
        outputs: the hidden states that it makes for others, by name, and their sequences.
        passed_on: what it is given for stages behind it only, likewise.
    """

    def __init__(self, graph: Graph, files: StageFiles, layers: Sequence[int]) -> None:
        """Binds a graph to block numbers; ``layers`` are all that adapters read, of any stage.

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
        """The graph's inputs, apart from masks, and the sequences of their rows."""
        return {name: feed.stream for name, feed in self._feeds.items() if not feed.is_mask}

    def run(self, lengths: Mapping[Stream, Array], rows: Mapping[str, Array]) -> StageResult:
        """Runs a micro-batch of N samples, ``lengths`` (N,) tokens in each of their sequences.

        ``rows`` are the stage's inputs and what it has to pass on; as
        :attr:`StageResult.carried`.

        Raises:
            RemoteError: an input is missing or has not one row a token.
        """
        made = self.compute(lengths, rows)
        passed = {
            name: self.given(name, stream, lengths, rows) for name, stream in self.passed_on.items()
        }
        return self.result(passed | made)

    def compute(
        self, lengths: Mapping[Stream, Array], rows: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Computes the hidden states in :attr:`outputs`; as :meth:`run`."""
        # First: a mask as large as a peer's lengths say would be made for rows that are not there.
        given = {
            name: self.given(name, feed.stream, lengths, rows)
            for name, feed in self._feeds.items()
            if not feed.is_mask
        }
        used = {feed.stream for feed in self._feeds.values()} | set(self.outputs.values())
        masks = {stream: _mask(self._lengths_of(stream, lengths)) for stream in used}
        feeds = {}
        for name, feed in self._feeds.items():
            mask = masks[feed.stream]
            if feed.is_mask:
                feeds[name] = mask.astype(feed.dtype)
                continue
            feeds[name] = np.full((*mask.shape, *given[name].shape[1:]), feed.pad, feed.dtype)
            feeds[name][mask] = given[name]
        outputs = self._graph.run(feeds, list(self.outputs))
        return {
            name: _unpadded(padded, masks[stream])
            for (name, stream), padded in zip(self.outputs.items(), outputs, strict=True)
        }

    def result(self, rows: Mapping[str, Array]) -> StageResult:
        """Sorts rows, made here or passed on, by who wants them; those not there are left out."""
        states = {layer: f"{HIDDEN_PREFIX}{layer}" for layer in self.layers}
        return StageResult(
            states={layer: rows[name] for layer, name in states.items() if name in rows},
            carried={name: rows[name] for name in self._carries if name in rows},
        )

    def given(
        self, name: str, stream: Stream, lengths: Mapping[Stream, Array], rows: Mapping[str, Array]
    ) -> Array:
        """The rows of an input, one for each token of its sequence.

        Raises:
            RemoteError: they are missing or have not one row a token.
        """
        tokens = int(self._lengths_of(stream, lengths).sum())
        if name not in rows:
            raise RemoteError(f"{self._name} lacks input {name!r}")
        if len(rows[name]) != tokens:
            raise RemoteError(f"{len(rows[name])} rows of {name!r} for {tokens} tokens")
        return rows[name]

    def _lengths_of(self, stream: Stream, lengths: Mapping[Stream, Array]) -> Array:
        if stream not in lengths:
            raise RemoteError(f"{self._name} was given no lengths of the {stream}'s sequence")
        return lengths[stream]


def _known_feeds(files: StageFiles) -> dict[str, _Feed]:
    """Every input that a graph of these blocks may have."""
    feeds = {
        spec.name: _Feed(spec.stream, np.dtype(spec.dtype), spec.pad, spec.kind == "mask")
        for spec in files.inputs
    }
    hidden = enumerate(files.streams[: files.first])
    return feeds | {f"{HIDDEN_PREFIX}{i}": _Feed(stream, np.dtype("f4")) for i, stream in hidden}


def _mask(lengths: Array) -> Array:
    """(N, T) bool, true on tokens."""
    mask: Array = np.arange(int(lengths.max()))[None, :] < lengths[:, None]
    return mask


def _unpadded(hidden: Array, mask: Array) -> Array:
    """(tokens, d) of (N, T, d); a view where nothing is padding."""
    rows: Array = hidden.reshape(-1, hidden.shape[-1]) if mask.all() else hidden[mask]
    return rows
