"""The plan: which device computes which blocks; saved as ``plan.json``."""

import dataclasses
import math
from collections.abc import Mapping

from .checks import require
from .ids import DeviceId


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageDevice:
    """A device of a stage and its share of the stage's micro-batches."""

    device: DeviceId
    share: float = 1.0

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "share must be above 0 and at most 1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Blocks ``[first, last)`` and the devices that run them, each all of them."""

    first: int
    last: int
    devices: tuple[StageDevice, ...]

    def __post_init__(self) -> None:
        name, shares = f"stage [{self.first}, {self.last})", [one.share for one in self.devices]
        require(0 <= self.first < self.last, f"{name} holds no blocks")
        require(shares, f"{name} has no device")
        require(math.isclose(sum(shares), 1, abs_tol=1e-6), f"shares of {name} do not sum to 1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A trainer and the logical shards whose samples it caches and trains on."""

    device: DeviceId
    shards: tuple[int, ...]

    def __post_init__(self) -> None:
        require(self.shards, f"owner {self.device!r} has no shards")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DevicePrediction:
    """The load of one device under the plan: peak memory, cache on disk, busy seconds.

    Attributes:
        sent_bytes: to peers during the fill.
        received_bytes: from peers during the fill.
        fill_parts: seconds of the fill by purpose: ``compute``, ``handling``, ``sending``,
            ``receiving``. They overlap where the device's cores and its link allow, so their
            sum is not ``fill_seconds``.
        epoch_parts: likewise of an epoch: ``compute``, ``exchange``.
    """

    memory_bytes: int
    storage_bytes: int
    fill_seconds: float
    epoch_seconds: float
    sent_bytes: float = 0.0
    received_bytes: float = 0.0
    fill_parts: Mapping[str, float] = dataclasses.field(default_factory=dict)
    epoch_parts: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Times from the start of the fill, and every device's part.

    ``total_seconds`` = ``fill_seconds`` + epochs x ``epoch_seconds``. ``bound_seconds`` is a
    lower bound for every plan in the search; where it equals ``total_seconds``, this plan is
    optimal; 0 where no bound was proved. ``in_flight`` micro-batches must be in flight, between
    lease and storage, for the bottleneck device never to wait.
    """

    total_seconds: float
    fill_seconds: float
    epoch_seconds: float
    devices: Mapping[DeviceId, DevicePrediction]
    bound_seconds: float = 0.0
    in_flight: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Stages, owners and predictions.

    Attributes:
        stages: in order; together they cover blocks 0 up to the last one needed.
        owners: together they own each of the ``num_shards`` shards once.
        num_shards: logical shards S, the global batch size.
        micro_batch_size: samples of mean length in a micro-batch of the fill: it has more short
            ones, or fewer long ones.
        predicted: None when the plan was written by hand.
    """

    stages: tuple[Stage, ...]
    owners: tuple[Owner, ...]
    num_shards: int
    micro_batch_size: int
    predicted: Prediction | None = None

    def __post_init__(self) -> None:
        require(self.stages, "stages is empty")
        expected = 0
        for stage in self.stages:
            starts = stage.first == expected
            require(starts, f"a stage starts at block {stage.first}, not at {expected}")
            expected = stage.last
        staged = [member.device for stage in self.stages for member in stage.devices]
        _check_once(staged, "a stage")
        _check_once([owner.device for owner in self.owners], "owners")
        owned = sorted(shard for owner in self.owners for shard in owner.shards)
        once = owned == list(range(self.num_shards))
        require(once, f"each of the {self.num_shards} shards must be owned exactly once")
        require(self.micro_batch_size >= 1, "micro_batch_size must be positive")

    @property
    def num_blocks(self) -> int:
        """Blocks that the stages cover."""
        return self.stages[-1].last

    @property
    def devices(self) -> tuple[DeviceId, ...]:
        """Every device that the plan uses, once: by stage, then the owners."""
        staged = [member.device for stage in self.stages for member in stage.devices]
        return tuple(dict.fromkeys(staged + [owner.device for owner in self.owners]))

    def stage_of(self, device: DeviceId) -> Stage | None:
        """The stage that the device runs."""
        holders = (
            stage for stage in self.stages for member in stage.devices if member.device == device
        )
        return next(holders, None)

    def shards_of(self, device: DeviceId) -> tuple[int, ...]:
        """The shards that the device owns."""
        return next((owner.shards for owner in self.owners if owner.device == device), ())

    def share_of(self, device: DeviceId) -> float:
        """Part of the samples that the device owns."""
        return len(self.shards_of(device)) / self.num_shards


def _check_once(devices: list[DeviceId], where: str) -> None:
    twice = [device for device in devices if devices.count(device) > 1]
    if twice:
        raise ValueError(f"device {twice[0]!r} is in {where} more than once")
