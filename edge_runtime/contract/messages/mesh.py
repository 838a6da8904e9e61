"""From device to device: activations, states, gradients; credit is in the link's headers."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from edge_runtime.contract.checks import check_array, require, require_amounts
from edge_runtime.contract.generation import Sequences
from edge_runtime.contract.manifest import HIDDEN_PREFIX

from .base import Array, Message
from .requests import MicroBatch

MAX_NAME_LENGTH = 64
MAX_COUNT = 1 << 32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Activations(Message):
    """A micro-batch on its way to stage ``stage``.

    ``rows`` has the inputs of that stage and of those behind it, by their names in the graph,
    the samples one after another, unpadded: hidden states (tokens, d) float32 and token ids
    (tokens,) int32, tokens of the sequence that they belong to.
    """

    batch: MicroBatch
    stage: int
    rows: dict[str, Array]

    def __post_init__(self) -> None:
        require(1 <= self.stage < len(self.batch.route), "stage is out of range")
        totals = {int(lengths.sum()) for lengths in self.batch.lengths.values()}
        for name, rows in self.rows.items():
            hidden = name.startswith(HIDDEN_PREFIX)
            if (rows.ndim, rows.dtype) != ((2, np.float32) if hidden else (1, np.int32)):
                raise ValueError(f"{name[:80]!r} must be (tokens, d) float32 or (tokens,) int32")
            if len(rows) not in totals:
                raise ValueError(f"{name[:80]!r} must have one row a token")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class States(Message):
    """Hidden states for their owner.

    Attributes:
        number: the micro-batch.
        keys: (N, 32) uint8.
        lengths: (N,) int32, in the sequence that the layers belong to.
        layers: which hidden states, all of one sequence.
        encoded: (L, tokens, R) uint8, rows of the cache dtype.
        numerics: runtime and kernel that computed them, e.g. ``ort-1.31/fast``.
        sequences: as of the micro-batch, those of ``keys``.
    """

    number: int
    keys: Array
    lengths: Array
    layers: tuple[int, ...]
    encoded: Array
    numerics: str
    sequences: Sequences | None = None

    def __post_init__(self) -> None:
        require_amounts(self, "number")
        check_array("lengths", self.lengths, np.int32, (self.lengths.size,))
        require(self.lengths.min(initial=1) >= 1, "samples must have at least one token")
        count, tokens = len(self.lengths), int(self.lengths.sum())
        check_array("keys", self.keys, np.uint8, (count, 32))
        fits = self.encoded.ndim == 3 and self.encoded.dtype == np.uint8
        require(fits, "encoded must be (L, tokens, R) uint8")
        whole = self.encoded.shape[:2] == (len(self.layers), tokens)
        require(whole, "encoded must have a row for every layer and token")
        named = len(self.numerics) <= MAX_NAME_LENGTH and self.numerics.isprintable()
        require(named, "numerics is not a short printable name")
        equal = self.sequences is None or len(self.sequences.lines) == count
        require(equal, "there must be as many sequences as lengths")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GradientPart(Message):
    """The sender's summed gradient, the part that the receiver reduces.

    Attributes:
        step: update that it is for, counted from 0.
        values: (n,) float16.
        count: the sender's samples, or counted tokens, in the sum.
        scale: what ``values`` are to be multiplied with.
        samples: the sender's samples in the sum.
        loss_sum: their losses, so that every trainer knows those of all.
    """

    step: int
    values: Array
    count: int
    scale: float = 1.0
    samples: int = 0
    loss_sum: float = 0.0

    def __post_init__(self) -> None:
        numbers = min(self.count, self.samples) >= 0 and max(self.count, self.samples) <= MAX_COUNT
        require(numbers, f"count and samples must be between 0 and {MAX_COUNT}")
        require(math.isfinite(self.loss_sum), "loss_sum must be finite")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReducedPart(Message):
    """The part that the sender reduced, summed over all trainers."""

    step: int
    values: Array
    scale: float = 1.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Probe(Message):
    """One of ``count`` messages of a train that measures the link; ``payload`` means nothing."""

    train: int
    index: int
    count: int
    payload: Array

    def __post_init__(self) -> None:
        in_order = 0 <= self.index < self.count <= MAX_COUNT and self.train >= 0
        require(in_order, "index must be below count, and train not negative")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProbeEcho(Message):
    """The last message of a train is there, so many seconds after its first."""

    train: int
    seconds: float

    def __post_init__(self) -> None:
        require(0 <= self.seconds < math.inf, "seconds must not be negative")


STATES_BYTES = 8 << 20
"""Most payload of one ``States`` message, if one layer is not more: far below a socket's
limit, and little enough to share a link with others."""


def split_layers(layers: tuple[int, ...], layer_bytes: int) -> Iterator[tuple[int, ...]]:
    """Splits layers into groups whose states fit one message."""
    count = max(1, STATES_BYTES // max(1, layer_bytes))
    return (layers[start : start + count] for start in range(0, len(layers), count))
