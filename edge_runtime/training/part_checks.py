"""Judges what other trainers send for a step: shape, finite values, counts and size that can be."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import GradientPart, ReducedPart

Part: TypeAlias = GradientPart | ReducedPart

IMPLAUSIBLE = 1e4
"""A trainer's mean gradient is refused where it is so many times as large as any of the others'
and as 1. Samples differ by far less; what is scaled wrong on purpose may differ by less too, which
nobody can tell from an odd sample."""

MAX_SCALE = 2.0**120

MOST_TOKENS = 1 << 20
"""Of a sample: more than any model reads."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one trainer can put into a step.

    Attributes:
        samples: at most, of a whole step.
        counts_tokens: whether tokens are counted, and not samples.
    """

    samples: int
    counts_tokens: bool


class PartChecks:
    """Remembers how large everybody's gradients were."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._largest: dict[DeviceId, float] = {}
        """Largest value of a sample's mean gradient, by trainer."""

    def note(self, trainer: DeviceId, part: GradientPart) -> None:
        """Compares later parts of others with this one, too."""
        mean = _largest(part) / max(1, part.count)
        self._largest[trainer] = max(self._largest.get(trainer, 0.0), mean)

    def check(self, sender: DeviceId, part: Part, size: int) -> None:
        """Checks a part that is to have ``size`` values.

        Raises:
            RemoteError: it cannot be what a trainer sends.
        """
        if part.values.shape != (size,):
            raise RemoteError(f"gradient part of {part.values.shape} values")
        if part.values.dtype != np.float16 or not _is_scale(part.scale):
            raise RemoteError("gradient part of another dtype or without a scale")
        if not math.isfinite(_largest(part)):
            raise RemoteError(f"gradient part of step {part.step} that is not finite")
        if isinstance(part, GradientPart):
            self._check_counts(part)
            self._check_size(sender, part)

    def _check_counts(self, part: GradientPart) -> None:
        fewest = most = part.samples
        if self._limits.counts_tokens:
            fewest, most = 0, part.samples * MOST_TOKENS
        if part.samples > self._limits.samples or not fewest <= part.count <= most:
            raise RemoteError(
                f"gradient part of {part.samples} samples that count as {part.count}, "
                f"where a step has {self._limits.samples} samples"
            )
        if part.loss_sum < 0:
            raise RemoteError(f"gradient part of a loss of {part.loss_sum:g}")

    def _check_size(self, sender: DeviceId, part: GradientPart) -> None:
        """Compares a part with all that the other trainers have had so far."""
        others = (size for trainer, size in self._largest.items() if trainer != sender)
        mean = _largest(part) / max(1, part.count)
        if mean > IMPLAUSIBLE * max(1.0, *others, 0.0):
            raise RemoteError(f"gradient part of step {part.step} with values of {mean:.3g}")


def liars(samples: Mapping[DeviceId, int], total: int, me: DeviceId) -> list[DeviceId]:
    """Names those who said a wrong number of ``samples``, if they are not ``total`` together.

    Empty if they are, or if nobody can tell who it is.
    """
    if sum(samples.values()) == total:
        return []
    rest = total - samples[me]
    others = [name for name in samples if name != me]
    return [name for name in others if samples[name] > rest or len(others) == 1]


def _is_scale(scale: float) -> bool:
    """Tells whether ``scale`` is a power of two that a trainer may have rounded with."""
    return 1 / MAX_SCALE <= scale <= MAX_SCALE and math.frexp(scale)[0] == 0.5


def _largest(part: Part) -> float:
    """The largest magnitude of a part; infinite if a value is not finite."""
    # As integers: the bits of magnitudes are in their order, and numpy compares them faster.
    bits = np.bitwise_and(part.values.view(np.uint16), np.uint16(0x7FFF)).max(initial=0)
    largest = float(np.uint16(bits).view(np.float16))
    return largest / part.scale if math.isfinite(largest) else math.inf
