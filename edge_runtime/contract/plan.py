"""Who computes what: the planner's output, saved as ``plan.json``."""

import dataclasses
import math
from collections.abc import Mapping

from .ids import DeviceId


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageDevice:
    """A device of a stage and its share of the stage's micro-batches."""

    device: DeviceId
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError("share must be above 0 and at most 1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Blocks ``[first, last)`` and the devices that run them, each all of them."""

    first: int
    last: int
    devices: tuple[StageDevice, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.first < self.last:
            raise ValueError(f"stage [{self.first}, {self.last}) holds no blocks")
        if not self.devices:
            raise ValueError(f"stage [{self.first}, {self.last}) has no device")
        if not math.isclose(sum(member.share for member in self.devices), 1, abs_tol=1e-6):
            raise ValueError(f"shares of stage [{self.first}, {self.last}) do not sum to 1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A trainer and the logical shards whose samples it caches and trains on."""

    device: DeviceId
    shards: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.shards:
            raise ValueError(f"owner {self.device!r} has no shards")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DevicePrediction:
    """What the plan asks of one device.

    Attributes:
        memory_bytes: peak resident bytes.
        storage_bytes: cache on disk.
        fill_seconds: busy during the fill.
        epoch_seconds: busy during one adapter epoch.
        sent_bytes: to peers during the fill.
        received_bytes: from peers during the fill.
        fill_parts: seconds of the fill by what they are for: ``compute``, ``handling``,
            ``sending``, ``receiving``. They overlap where the device's cores and its link allow,
            so their sum is not ``fill_seconds``.
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

    ``total_seconds`` = ``fill_seconds`` + epochs x ``epoch_seconds``. No plan that was looked
    for can take less than ``bound_seconds``; where that equals ``total_seconds``, this is the
    best one; 0 where nobody proved anything. ``under_way`` are the micro-batches that must be
    between lease and storage at a time for the busiest device never to wait.
    """

    total_seconds: float
    fill_seconds: float
    epoch_seconds: float
    devices: Mapping[DeviceId, DevicePrediction]
    bound_seconds: float = 0.0
    under_way: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Stages, owners and predictions.

    Attributes:
        stages: in order; together they cover blocks 0 up to the last one needed.
        owners: together they own each of the ``num_shards`` shards once.
        num_shards: logical shards S, the global batch size.
        micro_batch_size: samples of a micro-batch in the fill.
        predicted: None when the plan was written by hand.
    """

    stages: tuple[Stage, ...]
    owners: tuple[Owner, ...]
    num_shards: int
    micro_batch_size: int
    predicted: Prediction | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("stages is empty")
        expected = 0
        for stage in self.stages:
            if stage.first != expected:
                raise ValueError(f"a stage starts at block {stage.first}, not at {expected}")
            expected = stage.last
        staged = [member.device for stage in self.stages for member in stage.devices]
        _check_once(staged, "a stage")
        _check_once([owner.device for owner in self.owners], "owners")
        owned = sorted(shard for owner in self.owners for shard in owner.shards)
        if owned != list(range(self.num_shards)):
            raise ValueError(f"each of the {self.num_shards} shards must be owned exactly once")
        if self.micro_batch_size < 1:
            raise ValueError("micro_batch_size must be positive")

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
        for stage in self.stages:
            if any(member.device == device for member in stage.devices):
                return stage
        return None

    def shards_of(self, device: DeviceId) -> tuple[int, ...]:
        """The shards that the device owns."""
        for owner in self.owners:
            if owner.device == device:
                return owner.shards
        return ()

    def owner_of(self, shard: int) -> DeviceId:
        """The device that owns the shard.

        Raises:
            KeyError: there is no such shard.
        """
        for owner in self.owners:
            if shard in owner.shards:
                return owner.device
        raise KeyError(shard)

    def share_of(self, device: DeviceId) -> float:
        """Part of the samples that the device owns."""
        return len(self.shards_of(device)) / self.num_shards


def _check_once(devices: list[DeviceId], where: str) -> None:
    twice = [device for device in devices if devices.count(device) > 1]
    if twice:
        raise ValueError(f"device {twice[0]!r} is in {where} more than once")
