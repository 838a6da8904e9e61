"""Finds stragglers, and shares their stage's micro-batches anew.

Every micro-batch that a device serves says how long it computed. That, over what the cost
model expects of such a micro-batch there, is the device's *factor*: 2 is half the planned
speed. A device is a straggler when the median of its recent factors (:data:`WINDOW`) is off
by a quarter; its stage is then shared anew, each device by its planned share over its factor.

What a device computes takes longer while it sends, encodes and stores, as far as these share
its cores. The cost model counts both, and how they fall together is chance, so anything from
the computing alone to both one after the other is as planned: factor 1.

Why this settles: a factor is about single micro-batches, so it does not depend on how many
of them a device gets, and shares depend on nothing but factors. The window begins anew after
each change, and each change needs another quarter. A device that slowed down keeps being
measured by the micro-batches that it still gets, so it gets more when it recovers.

Pure: seconds come with messages.
"""

import collections
import dataclasses
import statistics
from collections.abc import Mapping

from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest, Stream
from edge_runtime.contract.plan import Plan, Stage
from edge_runtime.contract.profile import DeviceProfile

TOLERANCE = 1.25
"""By which factor, up or down, a device may differ from what its share is based on."""

WINDOW = 8
"""Least micro-batches that a median is taken of: it sees through three that something else on
the device disturbed."""

WINDOW_SECONDS = 3.0
"""Least time that they were computed in: what is over sooner is not for long."""

MAX_FACTOR = 100.0
"""A share is never less than this part of the planned one, nor more than this multiple."""

NOTABLE = 0.05
"""Part by which some share has to change for a change to be worth it: when all devices of a
stage are slow alike, their shares are right."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """Describes a device that is not as fast as was planned.

    Attributes:
        stage: number of its stage.
        device: the one that was noticed.
        factor: its seconds over the predicted ones.
        shares: how the stage is shared from now on; None where that changes nothing, as in a
            stage of one device.
    """

    stage: int
    device: DeviceId
    factor: float
    shares: Mapping[DeviceId, float] | None


class Pace:
    """Compares what devices do with what a plan expects of them."""

    def __init__(self, plan: Plan) -> None:
        self._planned = [
            {member.device: member.share for member in stage.devices} for stage in plan.stages
        ]
        self._shares = [dict(shares) for shares in self._planned]
        everyone = [device for shares in self._planned for device in shares]
        self._assumed = dict.fromkeys(everyone, 1.0)
        self._recent = {device: _Recent() for device in everyone}

    def served(
        self,
        stage: int,
        device: DeviceId,
        *,
        seconds: float,
        predicted_seconds: float,
        handling: float = 0.0,
    ) -> Straggler | None:
        """Takes down one micro-batch of a stage; says so when the device is a straggler.

        ``handling`` is the time for handling data, as a fraction of that for computing.
        """
        if predicted_seconds <= 0:
            return None
        recent = self._recent[device]
        recent.add(_factor(seconds / predicted_seconds, 1 + handling), seconds)
        if not recent.long_enough:
            return None
        factor = recent.median
        if 1 / TOLERANCE <= factor / self._assumed[device] <= TOLERANCE:
            return None
        return Straggler(stage=stage, device=device, factor=factor, shares=self._rebalance(stage))

    def _rebalance(self, stage: int) -> dict[DeviceId, float] | None:
        """Bases a stage's shares on what its devices were seen to do last."""
        planned, before = self._planned[stage], self._shares[stage]
        for device in planned:
            if self._recent[device].count >= WINDOW // 2:
                self._assumed[device] = self._recent[device].median
                self._recent[device] = _Recent()
        speeds = {device: share / self._assumed[device] for device, share in planned.items()}
        total = sum(speeds.values())
        shares = {device: speed / total for device, speed in speeds.items()}
        if all(abs(shares[device] / before[device] - 1) < NOTABLE for device in shares):
            return None
        self._shares[stage] = shares
        return shares


def _factor(ratio: float, most: float) -> float:
    """Measures how far a ratio is from the interval from 1 to ``most``."""
    factor = ratio / most if ratio > most else min(ratio, 1.0)
    return min(max(factor, 1 / MAX_FACTOR), MAX_FACTOR)


class _Recent:
    """The last factors of a device: as few as make a window."""

    def __init__(self) -> None:
        self._entries: collections.deque[tuple[float, float]] = collections.deque()
        self._seconds = 0.0

    def add(self, factor: float, seconds: float) -> None:
        self._entries.append((factor, seconds))
        self._seconds += seconds
        while len(self._entries) > WINDOW and self._seconds - self._entries[0][1] >= WINDOW_SECONDS:
            self._seconds -= self._entries.popleft()[1]

    @property
    def count(self) -> int:
        return len(self._entries)

    @property
    def long_enough(self) -> bool:
        return self.count >= WINDOW and self._seconds >= WINDOW_SECONDS

    @property
    def median(self) -> float:
        """One of the factors: halfway through a change, a mean of two would be neither."""
        return statistics.median_low(factor for factor, _ in self._entries)


def compute_seconds(
    manifest: Manifest,
    profile: DeviceProfile,
    stage: Stage,
    samples: int,
    longest: Mapping[Stream, int],
) -> float:
    """Predicts a stage's forward on one micro-batch by the times that the device measured.

    Compares with ``BatchServed.seconds``: neither counts messages, and both count the tokens
    that a micro-batch is padded with, ``longest`` in each sequence. 0 where the profile lacks
    one of the stage's blocks.
    """
    blocks = manifest.blocks[stage.first : stage.last]
    if not all(block.block_class in profile.blocks for block in blocks):
        return 0.0
    handling = profile.handling  # entering and leaving the stage is in what is served, too
    seconds = handling.seconds_per_stage_run
    for stream in {block.stream for block in blocks}:
        seconds += samples * longest[stream] * handling.seconds_per_stage_token
    for block in blocks:
        tokens = longest[block.stream]
        seconds += profile.seconds_per_run(block.block_class, tokens)
        seconds += samples * tokens * profile.seconds_per_token(block.block_class, tokens)
    return seconds
