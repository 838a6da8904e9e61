"""From a device to the coordinator: answers and telemetry."""

import dataclasses
import math
from typing import Literal

import numpy as np

from edge_runtime.contract.checks import check_array, require
from edge_runtime.contract.ids import DeviceId, Sha256
from edge_runtime.contract.profile import DeviceProfile

from .base import Array, Message, Phase, SampleSet

NOT_KEPT, ON_DISK, IN_MEMORY = range(3)
"""Where a sample's states are, see ``Stored``."""

MAX_NOTICE_LENGTH = 200
MAX_RELIEF_LENGTH = 200
MAX_BYTES = 1 << 62
CELSIUS = (-100.0, 300.0)
"""Lowest and highest temperature that a device may say it has."""


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Message):
    """The device lives, and in which condition; None where it does not know.

    Attributes:
        battery: charge, from 0 to 1.
        charging: a charger feeds it.
        celsius: temperature of its processor.
        resident_bytes: that the device process has in memory.
        available_bytes: that it may have besides.
    """

    battery: float | None = None
    charging: bool | None = None
    celsius: float | None = None
    resident_bytes: int | None = None
    available_bytes: int | None = None

    def __post_init__(self) -> None:
        require(self.battery is None or 0 <= self.battery <= 1, "battery is not within 0 and 1")
        low, high = CELSIUS
        require(self.celsius is None or low <= self.celsius <= high, "celsius cannot be")
        for size in (self.resident_bytes, self.available_bytes):
            require(size is None or 0 <= size <= MAX_BYTES, "a number of bytes cannot be")


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
    """The data socket admits the peers."""


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
    """Tells the asked keys that are held with all layers, (N,) bool, and the cache's size."""

    held: Array
    bytes_used: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageReady(Message):
    """A stage is loaded. ``received_bytes`` counts all weight bytes of this session."""

    first: int
    last: int
    received_bytes: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BatchServed(Message):
    """A stage finished its part of a micro-batch."""

    number: int
    stage: int
    seconds: float


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
        if self.kept is not None:
            check_array("kept", self.kept, np.uint8, (self.samples,))
            require((self.kept <= IN_MEMORY).all(), "kept has values that mean nothing")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SamplesReady(Message):
    """The samples are known; ``missing`` (M,) int32 are indices that the cache lacks."""

    which: SampleSet
    missing: Array
    cache_bytes: int
    cache_samples: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReady(Message):
    """The adapter is made and has so many trainable parameters."""

    parameters: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress(Message):
    """So far in this epoch: this trainer's samples and their summed loss.

    ``count`` is the divisor of a mean loss: samples, or counted tokens.
    """

    epoch: int
    samples: int
    count: int
    loss_sum: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone(Message):
    """This trainer's part of an epoch: samples, their count (see ``Progress``), summed loss."""

    epoch: int
    samples: int
    count: int
    loss_sum: float
    seconds: float


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
    """Adapter and optimizer state: the bytes of a safetensors file."""

    data: Array


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Message):
    """The device could not fulfil the request; ``reason`` is one line for the user.

    ``resumable`` is false where going on with the run would end in the same way; ``internal``
    marks a bug.
    """

    reason: str
    resumable: bool = True
    internal: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Relief(Message):
    """The device asks for its work to be taken away, in order; it computes until then.

    ``reason`` is one line for the user. An empty one takes the request back: the device has
    recovered. Sent once a change, and again after a device joined anew.
    """

    reason: str

    def __post_init__(self) -> None:
        fits = len(self.reason) <= MAX_RELIEF_LENGTH and self.reason.isprintable()
        require(fits, "reason is not a short printable line")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Message):
    """Something that the user should know though work goes on, in one line.

    What was given up, read again or done in another way. One that occurs again is sent again
    in the same words, so that occurrences can be counted.
    """

    text: str

    def __post_init__(self) -> None:
        length = 0 < len(self.text) <= MAX_NOTICE_LENGTH
        require(length and self.text.isprintable(), "text is not a short printable line")
