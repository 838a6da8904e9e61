"""Holds what devices did in a run against what they had measured of themselves. Pure.

The ratio replaces the planner's assumption of how much slower work is in a run than on its own:
see :mod:`coordinator.planner.problem.calibrate`.
"""

import collections
import dataclasses

from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import MOST_SLOWER, DeviceProfile

ENOUGH_BATCHES = 8
ENOUGH_STEPS = 16
"""Fewer say little: the first ones are slow."""


@dataclasses.dataclass(slots=True)
class _Done:
    batches: int = 0
    seconds: float = 0.0
    expected_seconds: float = 0.0
    steps: int = 0
    samples: float = 0.0
    found: int = 0


class Experience:
    """What each device has done in this session."""

    def __init__(self) -> None:
        self._done: dict[DeviceId, _Done] = collections.defaultdict(_Done)

    def served(self, device: DeviceId, seconds: float, expected_seconds: float) -> None:
        """Takes down a micro-batch, and what its device's own measurements say of it."""
        if expected_seconds > 0:
            done = self._done[device]
            done.batches += 1
            done.seconds += seconds
            done.expected_seconds += expected_seconds

    def trained(self, device: DeviceId, steps: int, samples: float, found: int = 0) -> None:
        """Takes down training steps, and the device's own samples in them.

        Of ``found`` of these, candidates had to be found.
        """
        self._done[device].found += found
        self._done[device].steps += steps
        self._done[device].samples += samples

    def learn(
        self, device: DeviceId, profile: DeviceProfile, usage: m.Usage | None
    ) -> DeviceProfile:
        """Completes a profile as measured by what was seen, where that is enough."""
        done, found = self._done[device], profile
        if done.batches >= ENOUGH_BATCHES:
            found = _with_fill(found, _bounded(done.seconds / done.expected_seconds))
        expected = _training_seconds(profile, done)
        used = usage.cpu_seconds.get("train", 0.0) if usage is not None else 0.0
        if found.trainer is not None and done.steps >= ENOUGH_STEPS and expected > 0 and used > 0:
            trainer = dataclasses.replace(found.trainer, in_run=_bounded(used / expected))
            found = dataclasses.replace(found, trainer=trainer)
        return found


def _with_fill(profile: DeviceProfile, factor: float) -> DeviceProfile:
    blocks = {
        name: tuple(dataclasses.replace(timing, in_run=factor) for timing in timings)
        for name, timings in profile.blocks.items()
    }
    return dataclasses.replace(profile, blocks=blocks)


def _training_seconds(profile: DeviceProfile, done: _Done) -> float:
    """Processor seconds that the device's own measurements say of its training."""
    trainer = profile.trainer
    if trainer is None:
        return 0.0
    wall = done.samples * trainer.seconds_per_sample + done.steps * trainer.seconds_per_step
    wall += done.found * trainer.seconds_per_new_sample
    return wall * min(1.0, profile.cores)


def _bounded(factor: float) -> float:
    return min(max(factor, 1 / MOST_SLOWER), MOST_SLOWER)
