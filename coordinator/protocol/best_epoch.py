"""Tells which evaluated epoch is the best: the earliest of those with the lowest loss. Pure."""

import math
from collections.abc import Mapping

Evaluated = Mapping[int, Mapping[str, float]]
"""Metrics of epochs on evaluation samples, by epoch; ``loss`` is among them."""


def best_epoch(evaluated: Evaluated) -> int:
    """Chooses the epoch with the lowest loss; of equal ones the earliest.

    A loss that is no number is worse than any.

    Raises:
        ValueError: no epoch was evaluated.
    """
    return min(sorted(evaluated), key=lambda epoch: _loss(evaluated[epoch]))


def epochs_since_best(evaluated: Evaluated, *, up_to: int) -> int | None:
    """Counts evaluated epochs after the best one, up to an epoch; None if there is none."""
    seen = {epoch: metrics for epoch, metrics in evaluated.items() if epoch <= up_to}
    if not seen:
        return None
    best = best_epoch(seen)
    return sum(epoch > best for epoch in seen)


def _loss(metrics: Mapping[str, float]) -> float:
    loss = metrics["loss"]
    return math.inf if math.isnan(loss) else loss
