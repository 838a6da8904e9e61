"""The profile of a device, measured on the device: the planner's input."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

from .checks import require
from .ids import DeviceId
from .text import clean_texts

Role = Literal["backbone", "trainer"]

Source = Literal["estimated", "brief", "thorough"]
"""Where times come from: from how fast the device was at other work, from some hundredths of a
second each, or from a second each."""

MOST_SLOWER = 20.0
"""Most times that work may take as long in a run as on its own."""


def _require_factor(in_run: float | None) -> None:
    possible = in_run is None or 1 / MOST_SLOWER <= in_run <= MOST_SLOWER
    require(possible, f"in_run must be from {1 / MOST_SLOWER} to {MOST_SLOWER}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CoreSpeed:
    """How fast one core is, by a probe of milliseconds.

    Attributes:
        flops: a second, of float32 matrix products.
        slower: than the core on which the constants of :mod:`edge_runtime.profiling.estimates`
            were measured, at everything else.
    """

    flops: float
    slower: float

    def __post_init__(self) -> None:
        require(0 < self.flops < math.inf, "flops must be positive")
        require(0 < self.slower < math.inf, "slower must be positive")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BlockTiming:
    """Forward time of one block at one micro-batch shape.

    A micro-batch of N samples of ``sequence_length`` tokens takes
    ``seconds_per_run + N * sequence_length * seconds_per_token``.

    Attributes:
        seconds_per_token: of the block, for one token more of such a micro-batch.
        seconds_per_run: the block's overhead for each micro-batch, independent of its size.
        threads: that it was timed with.
        source: where the times come from.
        in_run: time of stages with such blocks in earlier runs, over what these times say of
            them; None where no run has told.
    """

    batch_size: int
    sequence_length: int
    seconds_per_token: float
    seconds_per_run: float = 0.0
    threads: int = 1
    source: Source = "thorough"
    in_run: float | None = None

    def __post_init__(self) -> None:
        counts = (self.batch_size, self.sequence_length, self.threads)
        require(min(counts) >= 1, "batch_size, sequence_length and threads must be positive")
        _require_factor(self.in_run)
        require(0 < self.seconds_per_token < math.inf, "seconds_per_token must be positive")
        require(0 <= self.seconds_per_run < math.inf, "seconds_per_run must not be negative")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainerProfile:
    """Adapter training on a device; where nothing is trained, the adapter's outputs alone.

    Its times are wall seconds under the device's quota, like those of blocks, if nothing else
    is said.

    Attributes:
        seconds_per_sample: one sample's part of a training step (read the cache, forward,
            backward; forward alone where nothing is trained), at the mean length of the data.
        seconds_per_new_sample: besides, once for each sample of a language model: finding the
            candidates of its loss.
        seconds_per_step: overhead of each step for any batch (optimizer, dispatch).
        memory_bytes: resident bytes that training adds to the idle device process:
            libraries, adapter, gradients, optimizer and one step's activations.
        parameters: trainable values of the adapter.
        seconds_per_exchanged_value: processor seconds of one core that a step's all-reduce
            takes for each trainable value to round and sum, besides sending bytes and messages.
            Hardly depends on the number of trainers; nothing for a trainer alone.
        source: where the times come from.
        in_run: time of training in earlier runs without waiting for others, over what these
            times say of it; None where no run has told.
        exchange_in_run: time of all-reduces in earlier runs, over what links, messages and these
            times say of it; likewise.
    """

    seconds_per_sample: float
    seconds_per_new_sample: float = 0.0
    seconds_per_step: float = 0.0
    memory_bytes: int = 0
    parameters: int = 0
    seconds_per_exchanged_value: float = 0.0
    source: Source = "thorough"
    in_run: float | None = None
    exchange_in_run: float | None = None

    def __post_init__(self) -> None:
        _require_factor(self.in_run)
        _require_factor(self.exchange_in_run)
        require(0 < self.seconds_per_sample < math.inf, "seconds_per_sample must be positive")
        for name in (
            "seconds_per_new_sample",
            "seconds_per_step",
            "memory_bytes",
            "seconds_per_exchanged_value",
        ):
            require(0 <= getattr(self, name) < math.inf, f"{name} must not be negative")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HandlingProfile:
    """Processor time that moving and keeping data costs a device, link and disk apart.

    If nothing else is said, these are processor seconds of one core: where a quota divides a
    core, they take longer.

    Attributes:
        seconds_per_message: to send or receive one message: codec, socket, threads that wake.
        seconds_per_byte: to send or receive one byte: encryption and copies.
        seconds_per_encoded_byte: to turn hidden states into one byte of the cache's dtype and
            to cut it out for its owner.
        seconds_per_stored_byte: to append one byte to the cache, checksum included.
        seconds_per_stage_run: wall seconds, as of blocks, to take one micro-batch into a stage
            and out again, for any blocks: the graph's dispatch, its masks.
        seconds_per_stage_token: likewise for each of its tokens: padding, copies.
    """

    seconds_per_message: float = 0.0
    seconds_per_byte: float = 0.0
    seconds_per_encoded_byte: float = 0.0
    seconds_per_stored_byte: float = 0.0
    seconds_per_stage_run: float = 0.0
    seconds_per_stage_token: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            within = 0 <= getattr(self, field.name) < math.inf
            require(within, f"{field.name} must not be negative")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinkProfile:
    """A device's connection, as one up rate, one down rate and one latency."""

    up_bits_per_second: float
    down_bits_per_second: float
    latency_seconds: float = 0.0

    def __post_init__(self) -> None:
        positive = self.up_bits_per_second > 0 and self.down_bits_per_second > 0  # NaN is not
        require(positive, "up_bits_per_second and down_bits_per_second must be positive")
        require(0 <= self.latency_seconds < math.inf, "latency_seconds must not be negative")


THREAD_GAIN = 0.6
"""What each thread besides the first adds to a stage's pace, where threads are worth it."""


def pace_of(threads: int) -> float:
    """Estimates the pace of a stage with so many threads, over that with one."""
    return 1 + THREAD_GAIN * (threads - 1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KnownTimes:
    """What is known of a device's pace from earlier sessions, whatever they computed.

    Attributes:
        core: its speed.
        reached: FLOPs a second that its stages have reached, by the backbone's quantization; where
            they used several threads, what one would have, see :func:`pace_of`.
        blocks: timings by ``block_class``, which is the same for blocks of the same operators,
            shapes and quantization, whatever their weights.
        trainer: of the adapter and the shape of data in question, if there was such a run.
        training: time of training in the last run, over its estimate.
        handling: processor time of moving and keeping data.
    """

    core: CoreSpeed
    reached: Mapping[str, float] = dataclasses.field(default_factory=dict)
    blocks: Mapping[str, tuple[BlockTiming, ...]] = dataclasses.field(default_factory=dict)
    trainer: TrainerProfile | None = None
    training: float | None = None
    handling: HandlingProfile = HandlingProfile()

    def __post_init__(self) -> None:
        _require_factor(self.training)
        require(all(self.blocks.values()), "blocks must hold at least one timing for each class")
        rates = self.reached.values()
        require(all(0 < rate < math.inf for rate in rates), "reached must be positive")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """One device.

    Attributes:
        profile: name in the catalogue of devices; empty for an ordinary device.
        roles: ``backbone`` runs stages, ``trainer`` owns samples and trains on them.
        memory_bytes: most that the device process may have resident, cgroup limit included.
        base_memory_bytes: resident now, before any stage is loaded.
        storage_bytes: free space for its cache, quota included.
        cores: CPU quota in cores, or the number of cores.
        threads: of its inference and training.
        provider: execution provider of ONNX Runtime.
        kernel_class: its integer kernels: ``fast``, ``paired`` or ``exact``.
        blocks: timings by the manifest's ``block_class``; empty without the backbone role. Wall
            seconds with ``threads`` threads on an idle device, a quota's throttling included.
        trainer: given if the device can own samples: with the trainer role, and without it
            where nothing is trained, which takes no PyTorch.
        handling: processor time of moving and keeping data.
        link: None where nothing slows it: processes of one machine.
        measured: the times come from this device, not from a catalogue.
        core: its speed, by a probe; None where it was not measured.
    """

    device: DeviceId
    profile: str = ""
    roles: tuple[Role, ...]
    memory_bytes: int
    base_memory_bytes: int
    storage_bytes: int
    cores: float
    threads: int = 1
    provider: str = "CPUExecutionProvider"
    kernel_class: str = "native"
    blocks: Mapping[str, tuple[BlockTiming, ...]] = dataclasses.field(default_factory=dict)
    trainer: TrainerProfile | None = None
    handling: HandlingProfile = HandlingProfile()
    link: LinkProfile | None = None
    measured: bool = True
    core: CoreSpeed | None = None

    def __post_init__(self) -> None:
        distinct = self.roles and len(set(self.roles)) == len(self.roles)
        timed = ("backbone" in self.roles) == bool(self.blocks)
        trains = "trainer" not in self.roles or self.trainer is not None
        positive = min(self.memory_bytes, self.threads) >= 1 and 0 < self.cores < math.inf
        sizes = (self.base_memory_bytes, self.storage_bytes)
        require(self.device, "device is empty")
        require(distinct, "roles must name backbone, trainer or both, each once")
        require(timed, "blocks must hold timings exactly when roles has backbone")
        require(trains, "trainer must be given when roles has trainer")
        require(all(self.blocks.values()), "blocks must hold at least one timing for each class")
        require(positive, "memory_bytes, threads and cores must be positive")
        require(min(sizes) >= 0, "base_memory_bytes and storage_bytes must not be negative")
        clean_texts(self, "profile", "provider", "kernel_class")

    def seconds_per_token(self, block_class: str, sequence_length: float) -> float:
        """Forward time of one token more of a block, at that length.

        Attention makes a token's cost grow with the length, by equal steps: between two
        timed lengths it is interpolated; beyond the longest it goes on to grow, and below the
        shortest it is that of it.

        Raises:
            KeyError: the profile lacks that class of blocks.
        """
        seconds = self._interpolated("seconds_per_token", block_class, sequence_length)
        timed = sorted(self.blocks[block_class], key=lambda timing: timing.sequence_length)
        if len(timed) < 2 or sequence_length <= timed[-1].sequence_length:
            return seconds
        rise = max(0.0, timed[-1].seconds_per_token - timed[-2].seconds_per_token)
        run = max(1, timed[-1].sequence_length - timed[-2].sequence_length)
        return seconds + rise * (sequence_length - timed[-1].sequence_length) / run

    def seconds_per_run(self, block_class: str, sequence_length: float) -> float:
        """Overhead of a block for each micro-batch, interpolated as the time of its tokens.

        Raises:
            KeyError: the profile lacks that class of blocks.
        """
        return self._interpolated("seconds_per_run", block_class, sequence_length)

    def _interpolated(self, field: str, block_class: str, length: float) -> float:
        """Linear between the timed lengths around ``length``; the nearest outside of them."""
        timings = self.blocks[block_class]
        points: list[tuple[float, float]] = [
            (timing.sequence_length, getattr(timing, field)) for timing in timings
        ]
        below = max((point for point in points if point[0] <= length), default=min(points))
        above = min((point for point in points if point[0] >= length), default=max(points))
        if above[0] <= below[0]:
            return below[1]
        part = (length - below[0]) / (above[0] - below[0])
        return below[1] + part * (above[1] - below[1])
