"""Runs one stage on micro-batches: padding in, rows out.

Rows travel and are cached without padding. A graph wants rectangles, so a micro-batch is
padded to its own longest sample just before the graph runs and cut back right after.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from .contract.errors import RemoteError
from .contract.manifest import InputSpec
from .inference import StageSession

Array: TypeAlias = np.ndarray[Any, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """Rows (tokens, d) float32 of the hidden states, one after another by sample.

    Attributes:
        states: hidden state index -> rows.
        boundary: rows of the stage's last hidden state.
    """

    states: dict[int, Array]
    boundary: Array


class Stage:
    """Blocks ``[first, last)`` with the hidden states that somebody wants of them."""

    def __init__(
        self,
        session: StageSession,
        *,
        first: int,
        last: int,
        layers: Sequence[int],
        inputs: Sequence[InputSpec],
    ) -> None:
        """Binds a session to block numbers.

        Args:
            session: graph whose outputs are the hidden states ``first .. last - 1``.
            first: first block.
            last: one past the last block.
            layers: hidden states that are read by adapters, of any stage.
            inputs: the whole backbone's inputs; those that the graph lacks are ignored.

        Raises:
            RemoteError: the graph's inputs and outputs are not those of such a stage.
        """
        self.first, self.last = first, last
        self._session = session
        self._inputs = {spec.name: spec for spec in inputs if spec.name in session.input_names}
        others = [name for name in session.input_names if name not in self._inputs]
        if len(others) != (0 if first == 0 else 1) or len(session.output_names) != last - first:
            raise RemoteError(f"stage [{first}, {last}) has unexpected inputs or outputs")
        self._boundary_input = others[0] if others else None
        self.layers = tuple(layer for layer in range(first, last) if layer in set(layers))
        wanted = sorted({*self.layers, last - 1})
        self._wanted = wanted
        self._outputs = [session.output_names[layer - first] for layer in wanted]

    def run(self, lengths: Array, rows: Mapping[str, Array] | Array) -> StageResult:
        """Runs a micro-batch.

        Args:
            lengths: (N,) tokens of each sample.
            rows: token inputs by name, (tokens,) each, for the first stage; boundary rows
                (tokens, d) float32 for the others.

        Raises:
            RemoteError: an input is missing or has not one row a token.
        """
        mask = np.arange(int(lengths.max()))[None, :] < lengths[:, None]
        feeds = {name: self._feed(spec, mask, rows) for name, spec in self._inputs.items()}
        if self._boundary_input is not None:
            if isinstance(rows, Mapping):
                raise RemoteError(f"stage [{self.first}, {self.last}) was given token inputs")
            feeds[self._boundary_input] = _pad(rows, mask, 0, np.dtype(np.float32))
        outputs = self._session.run(feeds, self._outputs)
        full = bool(mask.all())
        unpadded = [
            hidden.reshape(-1, hidden.shape[-1]) if full else hidden[mask] for hidden in outputs
        ]
        states = dict(zip(self._wanted, unpadded, strict=True))
        boundary = states[self.last - 1]
        return StageResult(
            states={layer: states[layer] for layer in self.layers}, boundary=boundary
        )

    def _feed(self, spec: InputSpec, mask: Array, rows: Mapping[str, Array] | Array) -> Array:
        if spec.kind == "mask":
            return mask.astype(spec.dtype)
        if not isinstance(rows, Mapping) or spec.name not in rows:
            raise RemoteError(f"stage [{self.first}, {self.last}) lacks input {spec.name!r}")
        return _pad(rows[spec.name], mask, spec.pad, np.dtype(spec.dtype))


def _pad(rows: Array, mask: Array, pad: int, dtype: np.dtype[Any]) -> Array:
    """Lays rows (tokens, ...) out as (N, T, ...), ``pad`` where ``mask`` is false."""
    if len(rows) != int(mask.sum()):
        raise RemoteError(f"{len(rows)} rows for {int(mask.sum())} tokens")
    padded = np.full((*mask.shape, *rows.shape[1:]), pad, dtype)
    padded[mask] = rows
    return padded
