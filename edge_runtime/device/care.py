"""Decides when a device asks to be relieved of its work: battery low, or too hot. Pure.

Recovering takes more than worsening (hysteresis), and must last: a processor cools within
seconds of losing its work and would be as hot again with it.
"""

import dataclasses
import math

from edge_runtime.contract.checks import require

DEFAULT_MIN_BATTERY = 0.2
BATTERY_MARGIN = 0.05
CELSIUS_MARGIN = 5.0
SETTLED_SECONDS = 30.0
"""A recovery counts once it has lasted so long."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A device's battery (0 to 1), charger and temperature; None where unknown."""

    battery: float | None = None
    charging: bool | None = None
    celsius: float | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a device wants to be spared; a battery on its charger is not."""

    min_battery: float = DEFAULT_MIN_BATTERY
    max_celsius: float = math.inf

    def __post_init__(self) -> None:
        require(0 <= self.min_battery <= 1, "min_battery must be between 0 and 1")
        require(self.max_celsius > 0, "max_celsius must be positive")


class Care:
    """Follows a device's condition.

    Attributes:
        reason: why it needs relief, in one line for the user; empty while it does not.
    """

    def __init__(self, limits: Limits, settled_seconds: float = SETTLED_SECONDS) -> None:
        self._limits, self._settled_seconds = limits, settled_seconds
        self._well_since: float | None = None
        self.reason = ""

    def judge(self, condition: Condition, now: float) -> bool:
        """Takes a condition in, at time ``now`` in seconds; true if relief begins or ends."""
        needed = bool(self.reason)
        if problem := self._problem(condition, margins=needed):
            self._well_since, self.reason = None, problem
        elif needed and self._well_since is None:
            self._well_since = now
        if self._well_since is not None and now - self._well_since >= self._settled_seconds:
            self._well_since, self.reason = None, ""
        return bool(self.reason) != needed

    def _problem(self, condition: Condition, *, margins: bool) -> str:
        """Says what is beyond its limit; with ``margins``, not yet far enough within it."""
        limits, battery, celsius = self._limits, condition.battery, condition.celsius
        enough = min(1.0, limits.min_battery + BATTERY_MARGIN)  # a full battery always is
        least = enough if margins and limits.min_battery else limits.min_battery
        if battery is not None and battery < least and not condition.charging:
            return (
                f"its battery is at {battery:.0%}; it works from {enough:.0%} on, or on a "
                f"charger (--min-battery {limits.min_battery:.0%})"
            )
        cool = limits.max_celsius - CELSIUS_MARGIN
        if celsius is not None and celsius > (cool if margins else limits.max_celsius):
            return (
                f"it is at {celsius:.0f} °C; it works from {cool:g} °C down "
                f"(--max-temperature {limits.max_celsius:g})"
            )
        return ""
