"""The answering end of generation: keeps sequences' hidden states and chooses next tokens.

States are kept in memory as float32, never in the cache: each step adds a token's.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from edge_runtime.backbone.row_buffer import RowBuffer
from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.cache_format import row_bytes
from edge_runtime.contract.cache_format.encoding import check_encoded, decode_into
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.generation import Sequences
from edge_runtime.contract.manifest import HIDDEN_PREFIX, Stream
from edge_runtime.contract.messages import Array, NextTokens, SetUpGeneration, States
from edge_runtime.parallel_adapters.batch import NOT_COUNTED, Batch

from .sampling import choose_tokens

OUTPUT: Stream = "decoder"
"""The sequence that a language model writes."""

TOKENS = "tokens"
"""Rows of ids, beside those of hidden states."""


class Adapter(Protocol):
    """Makes logits; :class:`edge_runtime.serving.onnx_adapter.AdapterSession` in truth."""

    def last_logits(self, batch: Batch) -> Array:
        """Makes the logits of what follows each sequence's last token, (B, V) float32."""


@dataclasses.dataclass(slots=True)
class _Step:
    """A micro-batch some of whose states are here."""

    lines: list[int]
    missing: set[int]
    tokens: Array
    lengths: Array | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class LanguageModel:
    """From hidden states to logits."""

    config: AdapterConfig
    adapter: Adapter


class Generator:
    """Chooses tokens. Compute thread only."""

    def __init__(self, request: SetUpGeneration, model: LanguageModel) -> None:
        """Holds nothing yet; ``request`` says how to choose, and bounds what is kept."""
        self._request, self._model, self._config = request, model, (config := model.config)
        self._held = RowBuffer(request.max_sequences, request.max_rows)
        self._steps: dict[int, _Step] = {}
        encoder = config.layers[: config.encoder_layers]
        self._layers: dict[Stream, tuple[int, ...]] = {"encoder": encoder} if encoder else {}
        self._layers[OUTPUT] = config.layers[config.encoder_layers :]

    def take(self, states: States) -> NextTokens | None:
        """Keeps states; returns the next tokens once a micro-batch's are all here.

        Raises:
            RemoteError: they do not go on from what is here, or are not what is awaited.
        """
        sequences = states.sequences
        if sequences is None:
            raise RemoteError("the states belong to no sequence")
        stream = self._stream_of(states)
        step = self._step(states)
        try:
            check_encoded(states.encoded, "fp32", self._config.hidden_size)
        except ValueError as error:
            raise RemoteError(f"step {states.number}: {error}") from None
        rows = np.empty((*states.encoded.shape[:2], self._config.hidden_size), np.float32)
        decode_into(states.encoded, rows, "fp32")
        if self._config.copies and stream == OUTPUT and step.lengths is None:
            self._held.append(TOKENS, stream, sequences, states.lengths, step.tokens)
        for layer, each in zip(states.layers, rows, strict=True):
            self._held.append(_name(layer), stream, sequences, states.lengths, each)
        step.missing -= set(states.layers)
        if stream == OUTPUT:
            step.lengths = sequences.known[OUTPUT] + states.lengths
        if step.missing or step.lengths is None:
            return None
        del self._steps[states.number]
        return self._choose(states.number, step.lines, step.lengths)

    def release(self, lines: Array) -> None:
        """Forgets sequences."""
        self._held.drop(lines.tolist())

    def _stream_of(self, states: States) -> Stream:
        """The sequence that all of the states' layers belong to."""
        if states.encoded.shape[2] != row_bytes("fp32", self._config.hidden_size):
            raise RemoteError("the states are not float32 rows of the adapter's width")
        for stream, layers in self._layers.items():
            if states.layers and set(states.layers) <= set(layers):
                return stream
        raise RemoteError(f"the adapter does not read hidden states {states.layers}")

    def _step(self, states: States) -> _Step:
        """The micro-batch that the states are of."""
        sequences, number = states.sequences, states.number
        assert sequences is not None
        lines, tokens = sequences.lines.tolist(), self._tokens(number, sequences)
        step = self._steps.get(number)
        if step is None:
            if set(sequences.known) != set(self._layers) or not lines:
                raise RemoteError(f"step {number} is not of the adapter's sequences")
            if len(self._steps) >= self._request.max_sequences:
                raise RemoteError(f"more than {self._request.max_sequences} steps at a time")
            begins = not sequences.known[OUTPUT].any()
            streams = self._layers if begins else (OUTPUT,)
            missing = {layer for stream in streams for layer in self._layers[stream]}
            step = self._steps[number] = _Step(lines=lines, missing=missing, tokens=tokens)
        if step.lines != lines or not step.missing.issuperset(states.layers):
            raise RemoteError(f"states of step {number} came twice, or of other sequences")
        if not np.array_equal(step.tokens, tokens):
            raise RemoteError(f"states of step {number} came with other tokens")
        return step

    def _tokens(self, number: int, sequences: Sequences) -> Array:
        """The step's new tokens; none where the adapter does not read them."""
        if not self._config.copies:
            return np.zeros(0, np.int32)
        if (tokens := sequences.tokens) is None:
            raise RemoteError(f"step {number} came without its tokens, which the adapter reads")
        if tokens.max(initial=0) >= self._config.num_outputs:
            raise RemoteError(f"a token of step {number} is not of the adapter's vocabulary")
        return tokens

    def _choose(self, number: int, lines: list[int], lengths: Array) -> NextTokens:
        logits = self._model.adapter.last_logits(self._batch(lines, lengths))
        names = np.array(lines, np.int32)
        tokens = choose_tokens(logits, self._request.options, names, lengths)
        return NextTokens(number=number, lines=names, tokens=tokens)

    def _batch(self, lines: list[int], lengths: Array) -> Batch:
        hidden = self._padded(self._layers[OUTPUT], lines, lengths)
        attended = attended_lengths = None
        if "encoder" in self._layers:
            layers = self._layers["encoder"]
            attended_lengths = self._held.lengths(_name(layers[0]), lines)
            attended = self._padded(layers, lines, attended_lengths)
        return Batch(
            hidden=hidden,
            lengths=lengths.astype(np.int64),
            second_starts=np.zeros(len(lines), np.int64),
            targets=np.full(hidden.shape[1:3], NOT_COUNTED, np.int64),
            encoder_hidden=attended,
            encoder_lengths=attended_lengths,
            tokens=self._ids(lines, lengths) if self._config.copies else None,
        )

    def _ids(self, lines: list[int], lengths: Array) -> Array:
        """(B, T) int64, 0 as padding."""
        mask = np.arange(int(lengths.max())) < lengths[:, None]
        padded = np.zeros(mask.shape, np.int64)
        padded[mask] = self._held.joined(TOKENS, lines)
        return padded

    def _padded(self, layers: Sequence[int], lines: list[int], lengths: Array) -> Array:
        """(L, B, T, d) float32 of what is held."""
        mask = np.arange(int(lengths.max())) < lengths[:, None]
        padded = np.zeros((len(layers), *mask.shape, self._config.hidden_size), np.float32)
        for layer, out in zip(layers, padded, strict=True):
            out[mask] = self._held.joined(_name(layer), lines)
        return padded


def _name(layer: int) -> str:
    return f"{HIDDEN_PREFIX}{layer}"
