"""Every message that crosses a socket, as frozen dataclasses.

Three flows:

- *to a device*: what the coordinator asks for (``Profile``, ``LoadStage``, ``RunBatch``,
  ``TrainEpoch``, ...). Each request is answered by exactly one message or by ``Failed``.
- *to the coordinator*: those answers, and telemetry.
- *device to device*: hidden states between stages (``Boundary``), states to their owners
  (``States``), gradients (``GradientPart``, ``ReducedPart``), and ``Credit`` back.

The sender is never a field: a DeviceId comes from the transport's authentication only.

Shapes: N samples, L layers, R bytes of an encoded row, P adapter parameters, C outputs.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeAlias

import numpy as np

from .adapter import AdapterConfig, TrainingOptions
from .ids import DeviceId, Sha256
from .manifest import FileSpec, InputSpec
from .profile import DeviceProfile

Array: TypeAlias = np.ndarray[Any, Any]
CacheDtype = Literal["fp32", "fp16", "int8"]
Phase = Literal["start", "profile", "fill", "train", "eval"]
SampleSet = Literal["train", "eval"]

MAX_NAME_LENGTH = 64


class Message:
    """Base of all messages; carries no data."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageFiles:
    """A stage graph and the weight files that it refers to by base name."""

    first: int
    last: int
    inputs: tuple[InputSpec, ...]
    graph: Array
    exact_graph: Array
    files: tuple[FileSpec, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last:
            raise ValueError(f"stage [{self.first}, {self.last}) is empty")


# ---- coordinator to device


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Welcome(Message):
    """Answer to ``Hello``: the session has room for this device."""

    heartbeat_seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest(Message):
    """Measure this device. Answered by ``ProfileDone``.

    ``adapter`` set asks for training speed too, where the device can train.
    """

    stages: tuple[StageFiles, ...]
    alike: tuple[str, ...]
    batch: int
    tokens: int
    hidden_size: int
    adapter: AdapterConfig | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileChunk(Message):
    """Answer to ``FileRequest``: bytes ``[offset, offset + len(data))`` of a file."""

    sha256: Sha256
    offset: int
    data: Array


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another device of the session and how to reach its data socket."""

    device: DeviceId
    public_key: str
    address: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Peers(Message):
    """Who may talk to this device's data socket, and where they are. Answered by ``PeersReady``."""

    peers: tuple[Peer, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OpenCache(Message):
    """Open the cache, and say which of ``keys`` it holds. Answered by ``CacheStatus``."""

    backbone_digest: Sha256
    dtype: CacheDtype
    hidden_size: int
    quota_bytes: int | None
    layers: tuple[int, ...]
    keys: Array


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadStage(Message):
    """Load a stage; states of ``layers`` go to their owners. Answered by ``StageReady``."""

    stage: StageFiles
    layers: tuple[int, ...]
    dtype: CacheDtype


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """An owner and the positions, within a micro-batch, of the samples that it owns."""

    device: DeviceId
    positions: Array


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """What every stage must know of a micro-batch.

    Attributes:
        number: names it within the session.
        route: the device of each stage, in order.
        keys: (N, 32) uint8.
        lengths: (N,) int32, tokens of each sample.
        destinations: who keeps which samples.
    """

    number: int
    route: tuple[DeviceId, ...]
    keys: Array
    lengths: Array
    destinations: tuple[Destination, ...]

    def __post_init__(self) -> None:
        count = len(self.lengths)
        if not self.route or count < 1 or self.lengths.ndim != 1 or self.lengths.min() < 1:
            raise ValueError("a micro-batch needs a route and samples of at least one token")
        if self.keys.shape != (count, 32) or self.keys.dtype != np.uint8:
            raise ValueError("keys must be (N, 32) uint8")
        for destination in self.destinations:
            positions = destination.positions
            if positions.size and not 0 <= positions.min() <= positions.max() < count:
                raise ValueError("positions are out of range")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunBatch(Message):
    """Start a micro-batch at the first stage.

    ``inputs`` maps each token input to the samples' ids one after another, unpadded.
    """

    batch: MicroBatch
    inputs: dict[str, Array]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MoveSamples(Message):
    """Send cached states of ``keys`` to ``to``, as micro-batch ``number``."""

    number: int
    keys: Array
    layers: tuple[int, ...]
    to: DeviceId


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OwnSamples(Message):
    """The samples that this device trains on or evaluates. Answered by ``SamplesReady``.

    Attributes:
        which: training or evaluation samples.
        total: number of samples over all devices.
        indices: (N,) int32, each sample's number in its data file.
        keys: (N, 32) uint8.
        ranks: (N,) int64, place of each sample in the order of keys; see :mod:`.order`.
        lengths: (N,) int32, tokens.
        second_starts: (N,) int32, first token of ``text_pair``'s segment, 0 for none.
        targets: (N,) float32 values or int64 classes.
    """

    which: SampleSet
    total: int
    indices: Array
    keys: Array
    ranks: Array
    lengths: Array
    second_starts: Array
    targets: Array

    def __post_init__(self) -> None:
        count = len(self.keys)
        columns = (self.indices, self.ranks, self.lengths, self.second_starts, self.targets)
        if self.keys.shape != (count, 32) or any(c.shape != (count,) for c in columns):
            raise ValueError("columns differ in length")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SetUpTraining(Message):
    """Make the adapter. Answered by ``TrainingReady``.

    Attributes:
        trainers: all trainers, in the order that fixes who reduces which part.
        state: a trainer state to go on from, or an adapter's weights; empty for a new one.
    """

    config: AdapterConfig
    options: TrainingOptions
    trainers: tuple[DeviceId, ...]
    total_steps: int
    state: Array


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainEpoch(Message):
    """Train one epoch with the other trainers. Answered by ``EpochDone``."""

    epoch: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluate(Message):
    """Compute the outputs of the evaluation samples. Answered by ``Outputs``."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SendState(Message):
    """Send adapter and optimizer state. Answered by ``TrainerState``."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BeginPhase(Message):
    """From now on CPU time counts for ``phase``. Answered by ``Usage``."""

    phase: Phase


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown(Message):
    """The session is over."""


# ---- device to coordinator


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Message):
    """First message of a device.

    Attributes:
        software: version of pacplus on the device.
        roles: what the device can do.
        data_address: where its data socket listens.
        process_id: for local devices.
    """

    software: str
    roles: tuple[Literal["backbone", "trainer"], ...]
    data_address: str
    process_id: int

    def __post_init__(self) -> None:
        if not self.data_address.startswith("tcp://") or len(self.data_address) > 256:
            raise ValueError("data_address is not a tcp:// address")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Message):
    """The device lives."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileRequest(Message):
    """Asks for up to ``length`` bytes of a file, from ``offset``."""

    sha256: Sha256
    offset: int
    length: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProfileDone(Message):
    """What was measured."""

    profile: DeviceProfile


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PeersReady(Message):
    """The data socket admits the peers."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CacheStatus(Message):
    """Which of the asked keys are held with all layers: (N,) bool, and the cache's size."""

    held: Array
    bytes_used: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageReady(Message):
    """A stage is loaded. ``received_bytes`` counts weight bytes that came over the wire."""

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
    """States of a micro-batch are in this owner's cache: ``layers`` of ``samples`` samples."""

    number: int
    layers: tuple[int, ...]
    samples: int


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
    """So far in this epoch: this trainer's samples and their summed loss."""

    epoch: int
    samples: int
    loss_sum: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EpochDone(Message):
    """This trainer's part of an epoch: samples, summed loss, seconds."""

    epoch: int
    samples: int
    loss_sum: float
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outputs(Message):
    """Task outputs (N, C) float32 of the evaluation samples ``indices`` (N,) int32."""

    indices: Array
    outputs: Array

    def __post_init__(self) -> None:
        if self.outputs.ndim != 2 or self.indices.shape != self.outputs.shape[:1]:
            raise ValueError("outputs must be (N, C) and indices (N,)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainerState(Message):
    """Adapter and optimizer state: the bytes of a safetensors file."""

    data: Array


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Message):
    """What this device has used since its process started.

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
    """The device could not do what was asked; ``reason`` is one line for the user."""

    reason: str


# ---- device to device


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


MESSAGE_TYPES: dict[str, type[Message]] = {
    message.__name__: message
    for message in (
        *(Welcome, ProfileRequest, FileChunk, Peers, OpenCache, LoadStage, RunBatch, MoveSamples),
        *(OwnSamples, SetUpTraining, TrainEpoch, Evaluate, SendState, BeginPhase, Shutdown),
        *(Hello, Heartbeat, FileRequest, ProfileDone, PeersReady, CacheStatus, StageReady),
        *(BatchServed, Stored, SamplesReady, TrainingReady, Progress, EpochDone, Outputs),
        *(TrainerState, Usage, Failed),
        *(Boundary, States, GradientPart, ReducedPart, Credit),
    )
}
