"""Requests: from the coordinator to a device."""

import dataclasses
from typing import Literal

import numpy as np

from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.checks import check_array, check_keys, require, require_amounts
from edge_runtime.contract.generation import GenerationOptions, Sequences
from edge_runtime.contract.ids import DeviceId, Sha256
from edge_runtime.contract.manifest import FileSpec, Quantization, Stream, check_streams
from edge_runtime.contract.profile import KnownTimes, Source

from .base import (
    Array,
    CacheDtype,
    Lengths,
    Message,
    Phase,
    StageFiles,
    check_lengths,
    check_sequences,
)

MOST_PROBE_SECONDS = 10.0

PROBE_SECONDS = 0.3
"""For a device that nothing is known of to time blocks for."""

MOST_BUDGET_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Welcome(Message):
    """Answer to ``Hello``: the session has room for this device."""

    heartbeat_seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rejoin(Message):
    """Say ``Hello`` again: this device was given up, and its work is done by others."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BeginTerm(Message):
    """A new plan will be made: work of earlier terms ends, what was asked for in them is void.

    The tag has the new term. What is cached and learnt stays.
    """


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest(Message):
    """Measure this device. Answered by ``ProfileDone``.

    Attributes:
        stages: one block of each of ``block_classes``.
        pairs: two blocks in a row of some of the classes. Entering and leaving a stage costs
            something besides its blocks; a second block tells the two apart.
        batch: samples of the timed micro-batch, unless the device is too slow for so many.
        tokens: of a mean sample, in each of its sequences.
        max_tokens: of the longest sample, which decides the memory of training.
        usual_tokens: of the longest sample that is no outlier; empty where none is one. No
            longer one is timed.
        adapter: set asks for training speed too, where the device can train.
        adapter_graph: the trained adapter as ONNX, fetched like weight files, is timed: nothing
            will be trained.
        counted_tokens: tokens of a sample that a language model's loss counts.
        head_dtype: of a language model's frozen head. Its shape decides its cost, so a
            synthetic one is timed: no transfer to devices that end up training nothing.
        backbone_digest: of the cache that may grow, as its dtype, encryption and quota.
        source: ``thorough`` takes seconds; ``brief`` times blocks for about ``budget_seconds``,
            and what takes PyTorch is estimated; ``estimated`` times nothing.
        budget_seconds: for all timed blocks together.
        known: from earlier sessions, under the same conditions; what is in it is not timed
            again, unless it is among ``block_classes``.
        flops_per_token: of the classes of blocks that are neither known nor to be timed.
        quantization: of the backbone.
    """

    stages: tuple[StageFiles, ...]
    block_classes: tuple[str, ...]
    pairs: dict[str, StageFiles] = dataclasses.field(default_factory=dict)
    batch: int
    tokens: dict[Stream, int]
    max_tokens: dict[Stream, int]
    hidden_size: int
    num_heads: int = 1
    usual_tokens: dict[Stream, int] = dataclasses.field(default_factory=dict)
    adapter: AdapterConfig | None = None
    adapter_graph: FileSpec | None = None
    counted_tokens: int = 0
    head_dtype: Literal["float32", "int8"] = "float32"
    backbone_digest: Sha256
    cache_dtype: CacheDtype
    cache_encrypted: bool = False
    cache_quota_bytes: int | None = None
    source: Source = "thorough"
    budget_seconds: float = PROBE_SECONDS
    known: KnownTimes | None = None
    flops_per_token: dict[str, int] = dataclasses.field(default_factory=dict)
    quantization: Quantization = "none"

    def __post_init__(self) -> None:
        check_streams(self.tokens)
        require(self.adapter or not self.adapter_graph, "adapter_graph needs adapter, its shape")
        require(
            len(self.block_classes) == len(self.stages)
            and set(self.pairs) <= set(self.block_classes),
            "block_classes must name the class of each stage, and pairs some of them",
        )
        require(0 < self.budget_seconds <= MOST_BUDGET_SECONDS, "budget_seconds is out of range")
        require(min(self.flops_per_token.values(), default=0) >= 0, "FLOPs cannot be negative")
        same = self.tokens.keys() == self.max_tokens.keys() >= self.usual_tokens.keys()
        require(same, "tokens and max_tokens must be of the same sequences")
        lengths = (*self.tokens.values(), *self.max_tokens.values(), *self.usual_tokens.values())
        smallest = min(self.batch, self.num_heads, *lengths)
        require(smallest >= 1, "batch, num_heads and tokens must be positive")

    @property
    def times_adapter(self) -> bool:
        """True if training, or a trained adapter's outputs, are to be timed."""
        known = self.known is not None and self.known.trainer is not None
        return self.source == "thorough" and self.adapter is not None and not known

    @property
    def takes_seconds(self) -> bool:
        """True if measuring leaves much memory behind, and must not be disturbed."""
        return self.times_adapter or (self.source == "thorough" and bool(self.stages))

    @property
    def files(self) -> tuple[FileSpec, ...]:
        """Weight files to fetch before, each once, and the adapter's graph if it is timed."""
        stages = (*self.stages, *self.pairs.values())
        files = {file.sha256: file for stage in stages for file in stage.files}
        if self.adapter_graph is not None and self.times_adapter:
            files[self.adapter_graph.sha256] = self.adapter_graph
        return tuple(files.values())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileChunk(Message):
    """Answer to ``FileRequest``: bytes ``[offset, offset + len(data))`` of a file."""

    sha256: Sha256
    offset: int
    data: Array


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Another device of the session and how to reach its data socket.

    ``instance`` is that of its ``Hello``: another one is another process, which knows nothing.
    ``relayed``: the two cannot reach each other; the coordinator forwards, see ``Tunnel``.
    """

    device: DeviceId
    public_key: str
    address: str
    instance: str = ""
    relayed: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Peers(Message):
    """Lists the devices that may connect to the data socket. Answered by ``PeersReady``."""

    peers: tuple[Peer, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProbeLink(Message):
    """Measure the link to ``peer`` for about ``seconds``. Answered by ``LinkMeasured``."""

    peer: DeviceId
    seconds: float

    def __post_init__(self) -> None:
        problem = f"seconds must be positive and at most {MOST_PROBE_SECONDS}"
        require(0 < self.seconds <= MOST_PROBE_SECONDS, problem)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OpenCache(Message):
    """Open the cache, and say which of ``keys`` it holds. Answered by ``CacheStatus``.

    ``layers`` are the hidden states to cache, by the sequence that they belong to. An encrypted
    cache is another one than the plain one. ``trains``: whoever owns samples will train on them.
    """

    backbone_digest: Sha256
    dtype: CacheDtype
    hidden_size: int
    quota_bytes: int | None = None
    encrypted: bool = False
    layers: dict[Stream, tuple[int, ...]]
    keys: Array
    trains: bool = False

    def __post_init__(self) -> None:
        check_streams(self.layers)
        check_keys(self.keys)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Forget(Message):
    """Delete a backbone's caches and its ``files``, or everything. Answered by ``Forgotten``."""

    everything: bool = False
    backbone_digest: Sha256 = Sha256("")
    files: tuple[FileSpec, ...] = ()

    def __post_init__(self) -> None:
        one = self.everything is not bool(self.backbone_digest)
        require(one, "either everything or one backbone is to be forgotten")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadStage(Message):
    """Load a stage; states of ``layers`` go to their owners. Answered by ``StageReady``.

    ``rest`` has its last blocks where they are to run apart: an encoder-decoder that
    generates runs its encoder once and its decoder often. ``hidden_size`` and ``num_heads`` are
    the backbone's, from which its memory is predicted.
    """

    stage: StageFiles
    layers: tuple[int, ...]
    dtype: CacheDtype
    rest: StageFiles | None = None
    hidden_size: int = 1
    num_heads: int = 1

    def __post_init__(self) -> None:
        positive = min(self.hidden_size, self.num_heads) >= 1
        require(positive, "hidden_size and num_heads must be positive")
        follows = self.rest is None or self.rest.first == self.stage.last
        require(follows, "the stage's blocks do not follow one another")

    @property
    def parts(self) -> tuple[StageFiles, ...]:
        """One or two, to be run one after the other."""
        return (self.stage, *((self.rest,) if self.rest else ()))

    @property
    def files(self) -> tuple[FileSpec, ...]:
        """Files to fetch before."""
        return tuple(file for part in self.parts for file in part.files)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """An owner and the positions, within a micro-batch, of the samples that it owns."""

    device: DeviceId
    positions: Array


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Describes a micro-batch to every stage.

    Attributes:
        number: names it within the session.
        route: the device of each stage, in order.
        keys: (N, 32) uint8.
        lengths: tokens of each sample in each of its sequences, (N,) int32.
        destinations: the owners, and the samples of each.
        sequences: set where text is generated; lengths and rows are then those of the new
            tokens, and owners keep states in memory until they are told to release them.
    """

    number: int
    route: tuple[DeviceId, ...]
    keys: Array
    lengths: Lengths
    destinations: tuple[Destination, ...]
    sequences: Sequences | None = None

    def __post_init__(self) -> None:
        count = len(self.keys)
        require(self.route and count, "a micro-batch needs a route and samples")
        require_amounts(self, "number")
        check_array("keys", self.keys, np.uint8, (count, 32))
        check_lengths(self.lengths, count)
        for positions in (destination.positions for destination in self.destinations):
            if positions.size and not 0 <= positions.min() <= positions.max() < count:
                raise ValueError("positions are out of range")
        if self.sequences is not None:
            check_sequences(self.sequences, self.lengths, count)


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

    def __post_init__(self) -> None:
        require_amounts(self, "number")
        check_keys(self.keys)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HoldSamples(Message):
    """Keep states of ``keys`` (N, 32) uint8 in memory, where the disk has no room for them.

    They take the place of those of an earlier request. Answered by ``SamplesHeld``.
    """

    keys: Array

    def __post_init__(self) -> None:
        check_array("keys", self.keys, np.uint8, (len(self.keys), 32))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SetUpGeneration(Message):
    """Get ready to continue sequences. Answered by ``GenerationReady``.

    Attributes:
        options: how tokens are chosen.
        max_sequences: that are ever in work at a time.
        max_rows: that a sequence may have, in each of its streams.
    """

    options: GenerationOptions
    max_sequences: int
    max_rows: dict[Stream, int]

    def __post_init__(self) -> None:
        check_streams(self.max_rows)
        smallest = min(self.max_sequences, *self.max_rows.values())
        require(smallest >= 1, "max_sequences and max_rows must be positive")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Release(Message):
    """Forget the sequences ``lines`` (N,) int32: they have ended."""

    lines: Array


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BeginPhase(Message):
    """From now on CPU time counts for ``phase``. Answered by ``Usage``."""

    phase: Phase


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shutdown(Message):
    """The session is over."""
