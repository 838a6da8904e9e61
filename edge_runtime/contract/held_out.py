"""Tells which of several adapters is the best on held-out samples: the one rule for it. Pure.

The epoch of a training alone and the adapter of a tuning are chosen by it, on devices and by the
coordinator.
"""

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """What an adapter comes to on held-out samples.

    Attributes:
        loss: mean; not finite for one that diverges.
        accuracy: share of samples that are given their class; None where there are no classes.
    """

    loss: float
    accuracy: float | None = None

    @classmethod
    def of(cls, metrics: Mapping[str, float]) -> "HeldOut":
        """Takes what counts of an evaluation's metrics; ``loss`` is among them."""
        return cls(loss=metrics["loss"], accuracy=metrics.get("accuracy"))

    @property
    def finite(self) -> bool:
        """True for one that has not diverged."""
        return math.isfinite(self.loss)

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Sorts: the best adapter has the lowest rank.

        Where there is an accuracy, the highest one decides, and the loss among equal ones: a
        classifier's loss may rise, since it gets too sure, while it still gets more right. A loss
        that is not finite is worse than any.
        """
        if not self.finite:
            return True, 0.0, 0.0
        return False, -(self.accuracy or 0.0), self.loss
