"""A language model's frozen head, from features to logits, with numpy alone.

logits = cap(scale * (x W^T) + b), see ``HeadSpec``. An int8 weight stays int8 in memory
and is multiplied out for a piece of the vocabulary at a time: a head of 49,152 tokens and
576 channels takes 28 MB, not 113.

Shapes: V vocabulary, d channels, N rows of features.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from .contract.errors import BadInputError
from .contract.tensors import map_tensors, read_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from .contract.adapter import AdapterConfig

CHUNK_TOKENS = 4096
"""Tokens of the vocabulary whose weights are multiplied out at a time."""


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
    def from_bytes(
        cls, data: bytes, config: AdapterConfig, where: str = "head.safetensors"
    ) -> FrozenHead:
        """The head of a language model's adapter, from the file's bytes.

        Raises:
            BadInputError: damaged, or not the head that ``config`` was made for.
        """
        return cls._from_tensors(read_tensors(data, where), config, where)

    @classmethod
    def open(cls, path: Path, config: AdapterConfig) -> FrozenHead:
        """As :meth:`from_bytes`, mapping the file instead of reading it.

        Raises:
            BadInputError: missing, damaged, or not the head that ``config`` was made for.
        """
        return cls._from_tensors(map_tensors(path), config, str(path))

    @classmethod
    def _from_tensors(
        cls, tensors: Mapping[str, NDArray[Any]], config: AdapterConfig, where: str
    ) -> FrozenHead:
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

    def rows_of(self, tokens_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Weights of some tokens, (N, d) float32."""
        return self._unscaled(self.weight[tokens_N], tokens_N)

    def _unscaled(
        self, rows: NDArray[Any], index: slice | NDArray[np.int64]
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
            np.matmul(features_Nd, self.rows(span).T, out=logits_NV[:, span])
        logits_NV *= np.float32(self.scale)
        if self.bias is not None:
            logits_NV += self.bias
        if self.softcap:
            logits_NV /= np.float32(self.softcap)
            np.tanh(logits_NV, out=logits_NV)
            logits_NV *= np.float32(self.softcap)
        return logits_NV
