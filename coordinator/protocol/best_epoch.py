"""Tells which evaluated epoch is the best, by the rule of ``HeldOut``. Pure."""

from collections.abc import Mapping

from edge_runtime.contract.held_out import HeldOut

Evaluated = Mapping[int, Mapping[str, float]]
"""Metrics of epochs on evaluation samples, by epoch; ``loss`` is among them."""


def best_epoch(evaluated: Evaluated) -> int:
    """Chooses the best epoch; of equal ones the earliest.

    Raises:
        ValueError: no epoch was evaluated.
    """
    return min(sorted(evaluated), key=lambda epoch: HeldOut.of(evaluated[epoch]).rank)


def epochs_since_best(evaluated: Evaluated, *, up_to: int) -> int | None:
    """Counts evaluated epochs after the best one, up to an epoch; None if there is none."""
    seen = {epoch: metrics for epoch, metrics in evaluated.items() if epoch <= up_to}
    if not seen:
        return None
    best = best_epoch(seen)
    return sum(epoch > best for epoch in seen)
