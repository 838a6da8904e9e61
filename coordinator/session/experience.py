"""Holds what devices did in a run against what they had measured of themselves. Pure.

The ratio replaces the planner's assumption of how much slower work is in a run than on its own:
see :mod:`coordinator.planner.problem.calibrate`.
"""

import collections
import dataclasses
from collections.abc import Iterable

from coordinator.planner.problem.calibrate import exchange_factor, run_factors
from coordinator.protocol.record import Compared
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import MOST_SLOWER, DeviceProfile

ENOUGH_BATCHES = 8
ENOUGH_STEPS = 16
"""Fewer say little: the first ones are slow."""

NOISE = 1.1
"""Factor by which two runs of the same work may differ."""


@dataclasses.dataclass(slots=True)
class _Done:
    """Work of a kind: pieces, what they took, and what measurements alone say of them."""

    pieces: int = 0
    seconds: float = 0.0
    expected_seconds: float = 0.0

    def add(self, pieces: int, seconds: float, expected_seconds: float) -> None:
        if seconds > 0 and expected_seconds > 0:
            self.pieces += pieces
            self.seconds += seconds
            self.expected_seconds += expected_seconds

    def factor(self, enough: int) -> float | None:
        if self.pieces < enough:
            return None
        return min(max(self.seconds / self.expected_seconds, 1 / MOST_SLOWER), MOST_SLOWER)

    def compared(self, factor: float) -> Compared:
        return Compared(predicted_seconds=factor * self.expected_seconds, seconds=self.seconds)


@dataclasses.dataclass(slots=True)
class _Device:
    fill: _Done = dataclasses.field(default_factory=_Done)
    train: _Done = dataclasses.field(default_factory=_Done)
    exchange: _Done = dataclasses.field(default_factory=_Done)
    assumed: DeviceProfile | None = None


class Experience:
    """What each device has done in this session."""

    def __init__(self) -> None:
        self._of: dict[DeviceId, _Device] = collections.defaultdict(_Device)

    def assume(self, profile: DeviceProfile) -> None:
        """Takes down what the first plan was made with, to hold it against what comes."""
        seen = self._of[profile.device]
        seen.assumed = seen.assumed or profile

    def served(self, device: DeviceId, seconds: float, expected_seconds: float) -> None:
        """Takes down a micro-batch, and what its device's own measurements say of it."""
        self._of[device].fill.add(1, seconds, expected_seconds)

    def trained(
        self,
        profile: DeviceProfile,
        steps: int,
        samples: float,
        own_seconds: float,
        found: int = 0,
    ) -> None:
        """Takes down what training steps took a device by itself, and its own samples in them.

        Of ``found`` of these, candidates had to be found.
        """
        trainer = profile.trainer
        if trainer is not None:
            expected = samples * trainer.seconds_per_sample + steps * trainer.seconds_per_step
            expected += found * trainer.seconds_per_new_sample
            self._of[profile.device].train.add(steps, own_seconds, expected)

    def exchanged(
        self, devices: Iterable[DeviceId], steps: int, seconds: float, expected_seconds: float
    ) -> None:
        """Takes down what all-reduces took a group, and what links and handling say of them."""
        for device in devices:
            self._of[device].exchange.add(steps, seconds, expected_seconds)

    def learn(self, profile: DeviceProfile) -> DeviceProfile:
        """Completes a profile as measured by what was seen, where that is enough."""
        seen, found = self._of[profile.device], profile
        if (fill := seen.fill.factor(ENOUGH_BATCHES)) is not None:
            found = _with_fill(found, fill)
        if found.trainer is None:
            return found
        trainer = found.trainer
        if (train := seen.train.factor(ENOUGH_STEPS)) is not None:
            trainer = dataclasses.replace(trainer, in_run=train)
        if (exchange := seen.exchange.factor(ENOUGH_STEPS)) is not None:
            trainer = dataclasses.replace(trainer, exchange_in_run=exchange)
        return found if trainer is found.trainer else dataclasses.replace(found, trainer=trainer)

    def compare(self, device: DeviceId) -> dict[str, Compared]:
        """Holds what a device did against what the first plan was made with, by phase."""
        seen = self._of[device]
        if seen.assumed is None:
            return {}
        fill, train = run_factors(seen.assumed)
        phases = {
            "fill": seen.fill.compared(fill),
            "training": seen.train.compared(train),
            "exchange": seen.exchange.compared(exchange_factor(seen.assumed)),
        }
        return {phase: compared for phase, compared in phases.items() if compared.seconds}


def _with_fill(profile: DeviceProfile, factor: float) -> DeviceProfile:
    blocks = {
        name: tuple(dataclasses.replace(timing, in_run=factor) for timing in timings)
        for name, timings in profile.blocks.items()
    }
    return dataclasses.replace(profile, blocks=blocks)


def differ(one: DeviceProfile, other: DeviceProfile) -> bool:
    """True if what runs have found of two profiles differs by more than noise."""
    ones, others = ((*run_factors(each), exchange_factor(each)) for each in (one, other))
    pairs = zip(ones, others, strict=True)
    return any(max(a / b, b / a) > NOISE for a, b in pairs)
