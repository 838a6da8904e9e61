"""From a device to the coordinator: what answers a request, hello, and files asked for."""

import dataclasses
import math
from typing import Literal, get_args

import numpy as np

from edge_runtime.contract.checks import check_array, require, require_amounts
from edge_runtime.contract.ids import DeviceId, Sha256
from edge_runtime.contract.profile import DeviceProfile
from edge_runtime.contract.text import clean_texts

from .base import NOTHING_SUMMED, Array, EpochSums, Message, Phase, SampleSet

NOT_KEPT, ON_DISK, IN_MEMORY = range(3)
"""Where a sample's states are, see ``Stored``."""

CELSIUS = (-100.0, 300.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Message):
    """First message of a device.

    Attributes:
        software: version of pacplus on the device.
        data_address: of its data socket.
        process_id: for local devices.
        threads: the most that it computes with.
        cores: CPU quota in cores, or the number of cores.
        memory_bytes: that the device may have resident; 0 if it does not say.
        base_memory_bytes: that it has resident now.
        instance: drawn when the process started: two at once have one home, copied.
    """

    software: str
    roles: tuple[Literal["backbone", "trainer"], ...]
    data_address: str
    process_id: int
    threads: int = 1
    cores: float = 1.0
    memory_bytes: int = 0
    base_memory_bytes: int = 0
    instance: str = ""

    def __post_init__(self) -> None:
        sizes = min(self.memory_bytes, self.base_memory_bytes)
        require(sizes >= 0, "memory_bytes and base_memory_bytes must not be negative")
        require(len(self.instance) <= 64, "instance is too long")
        positive = self.threads >= 1 and 0 < self.cores < math.inf
        require(positive, "threads and cores must be positive")
        is_address = self.data_address.startswith("tcp://") and len(self.data_address) <= 256
        require(is_address, "data_address is not a tcp:// address")
        require(self.data_address.isprintable(), "data_address is not printable")
        clean_texts(self, "software")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileRequest(Message):
    """Asks for up to ``length`` bytes of a file, from ``offset``."""

    sha256: Sha256
    offset: int
    length: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProfileDone(Message):
    """The profile that was measured."""

    profile: DeviceProfile


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PeersReady(Message):
    """The data socket admits the peers, and they admit this device, except the ``unreached``."""

    unreached: tuple[DeviceId, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinkMeasured(Message):
    """The link from this device to ``peer``.

    Attributes:
        bits_per_second: of payload, from here to there.
        latency_seconds: one way, as half of a round trip.
    """

    peer: DeviceId
    bits_per_second: float
    latency_seconds: float

    def __post_init__(self) -> None:
        require(0 < self.bits_per_second < math.inf, "bits_per_second must be positive")
        require(0 <= self.latency_seconds < math.inf, "latency_seconds must not be negative")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CacheStatus(Message):
    """Tells the asked keys that are held with all layers, (N,) bool, and the cache's size.

    ``memory_bytes`` of states can be held in memory for a while, see ``HoldSamples``.
    """

    held: Array
    bytes_used: int
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        require_amounts(self, "bytes_used", "memory_bytes")
        one_each = self.held.ndim == 1 and self.held.dtype == np.bool_
        require(one_each, "held must be (N,) bool")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageReady(Message):
    """A stage is loaded. ``received_bytes`` counts all weight bytes of this session."""

    first: int
    last: int
    received_bytes: int
    seconds: float

    def __post_init__(self) -> None:
        require_amounts(self, "received_bytes", "seconds")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stored(Message):
    """This owner has taken states of a micro-batch in: ``layers`` of ``samples`` samples.

    ``kept`` (samples,) uint8 says where those of each are, in the order of the message that
    brought them: ``ON_DISK``; ``IN_MEMORY`` until they are released, since the disk or the quota
    has no room; or ``NOT_KEPT``. None if all are on the disk.
    """

    number: int
    layers: tuple[int, ...]
    samples: int
    kept: Array | None = None

    def __post_init__(self) -> None:
        require_amounts(self, "number", "samples")
        if self.kept is not None:
            check_array("kept", self.kept, np.uint8, (self.samples,))
            require((self.kept <= IN_MEMORY).all(), "kept has values that mean nothing")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SamplesHeld(Message):
    """States of the others will be held, too; ``readable`` (N,) bool are those that are there."""

    readable: Array

    def __post_init__(self) -> None:
        one_each = self.readable.ndim == 1 and self.readable.dtype == np.bool_
        require(one_each, "readable must be (N,) bool")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SamplesReady(Message):
    """The samples are known; ``missing`` (M,) int32 are indices that the cache lacks."""

    which: SampleSet
    missing: Array
    cache_bytes: int
    cache_samples: int

    def __post_init__(self) -> None:
        require_amounts(self, "cache_bytes", "cache_samples")
        check_array("missing", self.missing, np.int32, (self.missing.size,))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReady(Message):
    """The adapter is there.

    Attributes:
        parameters: that are trained.
        step: updates that it has behind it.
        sums: of the epoch that it is in.
    """

    parameters: int
    step: int = 0
    sums: EpochSums = NOTHING_SUMMED

    def __post_init__(self) -> None:
        require_amounts(self, "parameters", "step")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StateTaken(Message):
    """The adapter has another trainer's state, after ``step`` updates."""

    step: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts(Message):
    """How likely tokens are in some lines: where they are no candidates, and anywhere.

    ``counts`` is (2, V) int64.

    In whole numbers, so that their sum over trainers does not depend on its order.
    """

    counts: Array

    def __post_init__(self) -> None:
        check_array("counts", self.counts, np.int64, (2, self.counts.size // 2))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GroupFormed(Message):
    """Gradients of these trainers will be taken in."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone(Message):
    """The steps that were asked for are applied.

    Attributes:
        sums: of the epoch.
        seconds: that they took this trainer.
        own_seconds: of these, for its own samples' states and gradients and for the optimizer;
            the rest it exchanged gradients and waited for others.
        found: lines that it has found candidates for since it last said so.
    """

    sums: EpochSums
    seconds: float
    own_seconds: float = 0.0
    found: int = 0

    def __post_init__(self) -> None:
        require_amounts(self, "seconds", "own_seconds", "found")
        require(self.own_seconds <= self.seconds, "own_seconds must be at most seconds")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outputs(Message):
    """Task outputs (N, C) float32 of the evaluation samples ``indices`` (N,) int32.

    Of a regression float64, in the targets' units. Of a language model (N, 3): summed loss,
    counted tokens, correctly predicted tokens.
    """

    indices: Array
    outputs: Array

    def __post_init__(self) -> None:
        fits = self.outputs.ndim == 2 and self.indices.shape == self.outputs.shape[:1]
        require(fits, "outputs must be (N, C) and indices (N,)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten(Message):
    """So much was deleted; ``refused`` says in one line what could not be, and why."""

    bytes: int
    refused: str = ""

    def __post_init__(self) -> None:
        require(self.bytes >= 0, "bytes must not be negative")
        clean_texts(self, "refused")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GenerationReady(Message):
    """The device can continue sequences."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NextTokens(Message):
    """The next token of each sequence of a micro-batch: ``lines`` and ``tokens``, (N,) int32."""

    number: int
    lines: Array
    tokens: Array

    def __post_init__(self) -> None:
        check_array("lines", self.lines, np.int32, (len(self.tokens),))
        check_array("tokens", self.tokens, np.int32, (len(self.tokens),))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainerState(Message):
    """Adapter and optimizer state: the bytes of a safetensors file, after ``step`` updates.

    ``sums`` are those of the epoch that it is in.
    """

    data: Array
    step: int
    sums: EpochSums


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Message):
    """Resources that this device has used since its process started.

    Attributes:
        phase: the phase that ended.
        cpu_seconds: user + system time per phase.
        peak_rss_bytes: largest resident set so far.
        sent_bytes: payload bytes sent to the coordinator and to peers.
        received_bytes: payload bytes received.
    """

    phase: Phase
    cpu_seconds: dict[str, float]
    peak_rss_bytes: int
    sent_bytes: int
    received_bytes: int

    def __post_init__(self) -> None:
        require_amounts(self, "peak_rss_bytes", "sent_bytes", "received_bytes")
        amounts = all(0 <= seconds < math.inf for seconds in self.cpu_seconds.values())
        phases = self.cpu_seconds.keys() <= set(get_args(Phase))
        require(amounts and phases, "cpu_seconds must not be negative, and of phases")
