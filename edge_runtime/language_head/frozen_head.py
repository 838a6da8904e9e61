"""A language model's frozen head, from features to logits, with numpy alone.

logits = cap(scale * (x W^T) + b), see ``HeadSpec``. An int8 weight stays int8 in memory
and is multiplied out for a piece of the vocabulary at a time: a head of 49,152 tokens and
576 channels takes 28 MB, not 113.

Shapes: V vocabulary, d channels, N rows of features.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.tensors import DTYPES, damaged

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_runtime.contract.adapter import AdapterConfig

CHUNK_TOKENS = 4096
"""Tokens of the vocabulary whose weights are multiplied out at a time."""

CHUNK_ROWS = 512
"""Rows of features whose logits exist at a time, where the loss is all that is wanted."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Added:
    """What is added to the logits of some tokens, by row.

    Attributes:
        values: (N, T) float32.
        tokens: (N, T) int64, the ids that they are of; those of one row may be equal.
    """

    values: NDArray[np.float32]
    tokens: NDArray[np.int64]

    def rows(self, rows: slice) -> Added:
        """That of some rows."""
        return Added(self.values[rows], self.tokens[rows])

    def add_to(self, logits_NC: NDArray[np.float32], first: int = 0) -> None:
        """Adds to logits of the tokens from ``first`` on."""
        places = self.tokens - first
        rows, columns = np.nonzero((places >= 0) & (places < logits_NC.shape[1]))
        np.add.at(logits_NC, (rows, places[rows, columns]), self.values[rows, columns])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrozenHead:
    """The head's arrays; read-only.

    Attributes:
        weight: (V, d) float32, or int8.
        row_scale: (V, 1) float32, what int8 rows are multiplied by; None for float32 ones.
        bias: (V,) float32, or None.
        scale: what the product is multiplied by, before the bias.
        softcap: c of c * tanh(logits / c); 0 for none.
    """

    weight: NDArray[Any]
    row_scale: NDArray[np.float32] | None = None
    bias: NDArray[np.float32] | None = None
    scale: float = 1.0
    softcap: float = 0.0

    @classmethod
    def open(cls, path: Path, config: AdapterConfig) -> FrozenHead:
        """Maps the file of a language model's head.

        Raises:
            BadInputError: missing, damaged, or not the head that ``config`` was made for.
        """
        where, tensors = str(path), _map_tensors(path)
        shape = (config.num_outputs, config.hidden_size)
        weight, row_scale, bias = (tensors.get(name) for name in ("weight", "scale", "bias"))
        if weight is None or weight.shape != shape:
            found = "no weight" if weight is None else f"a weight of shape {weight.shape}"
            raise BadInputError(f"{where}: it has {found}, the adapter needs {shape}")
        wanted = np.float32 if row_scale is None else np.int8
        if weight.dtype != wanted:
            raise BadInputError(
                f"{where}: its weight is {weight.dtype}; it must be float32, or int8 with a scale"
            )
        for name, array, expected in (
            ("scale", row_scale, (shape[0], 1)),
            ("bias", bias, (shape[0],)),
        ):
            if array is not None and (array.shape != expected or array.dtype != np.float32):
                raise BadInputError(f"{where}: its {name} must be float32 of shape {expected}")
        return cls(
            weight=weight,
            row_scale=row_scale,
            bias=bias,
            scale=config.logit_scale,
            softcap=config.logit_softcap,
        )

    @property
    def vocabulary(self) -> int:
        """Vocabulary V."""
        return int(self.weight.shape[0])

    @property
    def hidden_size(self) -> int:
        """Channels d."""
        return int(self.weight.shape[1])

    def rows(self, span: slice) -> NDArray[np.float32]:
        """Weights of the tokens ``span``, (C, d) float32; maybe a read-only view."""
        return self._unscaled(self.weight[span], span)

    def rows_of(self, tokens_N: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Weights of some tokens, (N, d) float32."""
        return self._unscaled(self.weight[tokens_N], tokens_N)

    def _unscaled(
        self, rows: NDArray[Any], index: slice | NDArray[np.integer[Any]]
    ) -> NDArray[np.float32]:
        if self.row_scale is None:
            return rows
        # Two steps: numpy's product of mixed types is several times slower.
        result = rows.astype(np.float32)
        result *= self.row_scale[index]
        return result

    def spans(self, size: int = CHUNK_TOKENS) -> Iterator[slice]:
        """The vocabulary in pieces of ``size`` tokens."""
        for first in range(0, self.vocabulary, size):
            yield slice(first, min(first + size, self.vocabulary))

    def logits(self, features_Nd: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, V) float32; meant for few rows."""
        logits_NV = np.empty((len(features_Nd), self.vocabulary), np.float32)
        for span in self.spans():
            logits_NV[:, span] = self.piece_logits(features_Nd, self.rows(span), span)
        return logits_NV

    def logits_of(
        self, features_Nd: NDArray[np.float32], tokens_M: NDArray[np.integer[Any]]
    ) -> NDArray[np.float32]:
        """Logits of some tokens, (N, M) float32."""
        return self.piece_logits(features_Nd, self.rows_of(tokens_M), tokens_M)

    def losses(
        self,
        features_Nd: NDArray[np.float32],
        targets_N: NDArray[np.int64],
        added: Added | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Cross-entropy of many rows, whose logits never exist as a whole.

        Args:
            features_Nd: what the head reads.
            targets_N: tokens that must follow.
            added: what is added to logits, if anything.

        Returns:
            -log softmax(logits)[target] in nats, (N,) float32, and whether the target has the
            largest logit, (N,) bool.

        Raises:
            IndexError: a target is not in the vocabulary.
        """
        if len(targets_N) and not 0 <= targets_N.min() <= targets_N.max() < self.vocabulary:
            raise IndexError(f"a target is not below {self.vocabulary}")
        losses_N = np.empty(len(targets_N), np.float32)
        correct_N = np.empty(len(targets_N), np.bool_)
        for first in range(0, len(targets_N), CHUNK_ROWS):
            rows = slice(first, first + CHUNK_ROWS)
            of_rows = None if added is None else added.rows(rows)
            losses_N[rows], correct_N[rows] = self._losses(
                features_Nd[rows], targets_N[rows], of_rows
            )
        return losses_N, correct_N

    def _losses(
        self,
        features_Nd: NDArray[np.float32],
        targets_N: NDArray[np.int64],
        added: Added | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """As :meth:`losses`; the softmax is summed up relative to the largest logit so far."""
        largest, own = np.full((2, len(targets_N)), -np.inf, np.float32)
        total = np.zeros(len(targets_N), np.float32)
        for span in self.spans():
            logits_NC = self.piece_logits(features_Nd, self.rows(span), span)
            if added is not None:
                added.add_to(logits_NC, span.start)
            place_N = targets_N - span.start
            inside = np.flatnonzero((place_N >= 0) & (place_N < logits_NC.shape[1]))
            own[inside] = logits_NC[inside, place_N[inside]]
            larger = np.maximum(largest, logits_NC.max(1))
            logits_NC -= larger[:, None]
            total *= np.exp(largest - larger)
            total += np.exp(logits_NC, out=logits_NC).sum(1)
            largest = larger
        return largest - own + np.log(total), own == largest

    def piece_logits(
        self,
        features_Nd: NDArray[np.float32],
        rows_Cd: NDArray[np.float32],
        index: slice | NDArray[np.integer[Any]],
    ) -> NDArray[np.float32]:
        """Logits of tokens ``index``, whose weights are ``rows_Cd``; (N, C) float32."""
        logits_NC: NDArray[np.float32] = features_Nd @ rows_Cd.T
        logits_NC *= np.float32(self.scale)
        if self.bias is not None:
            logits_NC += self.bias[index]
        if self.softcap:
            logits_NC /= np.float32(self.softcap)
            np.tanh(logits_NC, out=logits_NC)
            logits_NC *= np.float32(self.softcap)
        return logits_NC


def _map_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Maps the tensors of a file into memory; the arrays are read-only views.

    The operating system may drop pages that it can read again, so a large frozen tensor
    need not stay in memory. The file must not change while an array of it is in use.
    safetensors checks the file, but its slices are copies: scanning a float32 head by them
    takes twice the time. Its tensors end with the file and follow one another without gaps.
    """
    where = str(path)
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.offset_keys()}
            specs = {name: (s.get_dtype(), s.get_shape()) for name, s in slices.items()}
        data = np.memmap(path, np.uint8, mode="r")
    except OSError as error:
        raise BadInputError(f"{where}: cannot be read ({error})") from None
    except SafetensorError as error:
        raise damaged(where, error) from None
    tensors: dict[str, NDArray[Any]] = {}
    end = data.size
    for name, (code, shape) in reversed(specs.items()):
        if code not in DTYPES:
            raise BadInputError(f"{where}: dtype {code} is not supported")
        begin = end - math.prod(shape) * DTYPES[code].itemsize
        tensors[name] = np.asarray(data[begin:end]).view(DTYPES[code]).reshape(shape)
        end = begin
    return tensors
