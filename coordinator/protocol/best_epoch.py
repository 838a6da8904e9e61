"""Tells which evaluated epoch is the best: by its loss, a classifier's by its accuracy. Pure."""

import math
from collections.abc import Mapping

Evaluated = Mapping[int, Mapping[str, float]]
"""Metrics of epochs on evaluation samples, by epoch; ``loss`` is among them."""


def best_epoch(evaluated: Evaluated) -> int:
    """Chooses the epoch with the lowest loss; of equal ones the earliest.

    Where metrics have an accuracy, the highest one decides, and the loss among equal ones: a
    classifier's loss may rise, since it gets too sure, while it still gets more right. A loss that
    is no number is worse than any.

    Raises:
        ValueError: no epoch was evaluated.
    """
    return min(sorted(evaluated), key=lambda epoch: _rank(evaluated[epoch]))


def epochs_since_best(evaluated: Evaluated, *, up_to: int) -> int | None:
    """Counts evaluated epochs after the best one, up to an epoch; None if there is none."""
    seen = {epoch: metrics for epoch, metrics in evaluated.items() if epoch <= up_to}
    if not seen:
        return None
    best = best_epoch(seen)
    return sum(epoch > best for epoch in seen)


def _rank(metrics: Mapping[str, float]) -> tuple[float, float]:
    loss = metrics["loss"]
    return -metrics.get("accuracy", 0.0), math.inf if math.isnan(loss) else loss
