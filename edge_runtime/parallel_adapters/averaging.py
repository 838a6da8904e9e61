"""A running mean of the weights, which is what is evaluated, saved and used."""

from __future__ import annotations

from torch import Tensor


def update_average(average: Tensor, values: Tensor, updates: int, horizon: float) -> None:
    """Moves ``average`` towards ``values`` after update number ``updates`` (1 is the first).

    The plain mean of all values at first, an exponential one over ``horizon`` updates
    later (Polyak averaging; Izmailov et al., 2018, for why it generalises better).
    """
    average.lerp_(values, 1 / max(1.0, min(updates, horizon)))
