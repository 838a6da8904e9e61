"""From device to device: activations, states, gradients, credit."""

from __future__ import annotations

import dataclasses

from .base import Array, Message
from .requests import MicroBatch

MAX_NAME_LENGTH = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Boundary(Message):
    """A micro-batch on its way to stage ``stage``.

    ``hidden`` is (tokens, d) float32: the samples' rows one after another, unpadded.
    """

    batch: MicroBatch
    stage: int
    hidden: Array

    def __post_init__(self) -> None:
        if not 1 <= self.stage < len(self.batch.route):
            raise ValueError("stage is out of range")
        if self.hidden.ndim != 2 or len(self.hidden) != int(self.batch.lengths.sum()):
            raise ValueError("hidden must have one row a token")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class States(Message):
    """Hidden states for their owner.

    Attributes:
        number: the micro-batch.
        keys: (N, 32) uint8.
        lengths: (N,) int32.
        layers: which hidden states.
        encoded: (L, tokens, R) uint8, rows of the cache dtype.
        numerics: what computed them, e.g. ``ort-1.31/fast``.
    """

    number: int
    keys: Array
    lengths: Array
    layers: tuple[int, ...]
    encoded: Array
    numerics: str

    def __post_init__(self) -> None:
        if self.keys.shape != (len(self.lengths), 32) or self.encoded.ndim != 3:
            raise ValueError("keys must be (N, 32), encoded (L, tokens, R)")
        if self.encoded.shape[:2] != (len(self.layers), int(self.lengths.sum())):
            raise ValueError("encoded must have a row for every layer and token")
        if len(self.numerics) > MAX_NAME_LENGTH:
            raise ValueError("numerics is too long")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GradientPart(Message):
    """The sender's summed gradient, the part that the receiver reduces."""

    step: int
    values: Array
    scale: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReducedPart(Message):
    """The part that the sender reduced, summed over all trainers."""

    step: int
    values: Array
    scale: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Credit(Message):
    """The receiver has dealt with so many bytes; as many more may be sent."""

    size_bytes: int

    def __post_init__(self) -> None:
        if self.size_bytes < 1:
            raise ValueError("size_bytes must be positive")
