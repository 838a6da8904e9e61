"""Watches this device's condition: its sensors, or a file in their place where it is emulated.

An emulated device's file is JSON, e.g. ``{"battery": 0.12, "celsius": 85}``. A value may be
``[first, last, seconds]``, counted from the file's last modification: it goes from one to the
other in that time. Whoever rewrites the file changes the device's condition while it runs.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from edge_runtime.system.power import read_power
from edge_runtime.system.temperature import read_celsius

from .care import Care, Condition, Limits

READ_SECONDS = 10.0
"""Some sensors take a while to answer, and batteries change slowly."""

EMULATED_SECONDS = 0.5
"""A file answers at once, and who rewrites it does not want to wait."""


class ConditionWatch:
    """Reads the condition every few seconds. Of a process: it outlives sessions.

    Attributes:
        condition: the newest.
    """

    def __init__(self, read: Callable[[], Condition], care: Care, every_seconds: float) -> None:
        """Reads nothing yet."""
        self._read, self._care, self._every_seconds = read, care, every_seconds
        self._next = 0.0
        self.condition = Condition()

    @classmethod
    def of_sensors(cls, limits: Limits) -> "ConditionWatch":
        """Watches this machine."""
        return cls(read_sensors, Care(limits), READ_SECONDS)

    @classmethod
    def of_file(cls, path: Path, limits: Limits) -> "ConditionWatch":
        """Watches an emulated device."""
        return cls(partial(read_file, path), Care(limits, EMULATED_SECONDS), EMULATED_SECONDS)

    @property
    def reason(self) -> str:
        """Why this device needs relief, in one line; empty while it does not."""
        return self._care.reason

    def look(self, now: float) -> bool:
        """Reads if it is time, by a monotonic clock; true if relief begins or ends."""
        if now < self._next:
            return False
        self._next = now + self._every_seconds
        self.condition = self._read()
        return self._care.judge(self.condition, now)


def read_sensors() -> Condition:
    """Reads this machine's battery, charger and temperature."""
    power = read_power()
    return Condition(battery=power.battery, charging=power.charging, celsius=read_celsius())


def read_file(path: Path) -> Condition:
    """Reads an emulated condition; nothing is known while the file is not whole."""
    try:
        said, age = json.loads(path.read_text()), time.time() - path.stat().st_mtime
        return Condition(
            battery=_value(said.get("battery"), age),
            charging=said.get("charging"),
            celsius=_value(said.get("celsius"), age),
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return Condition()


def _value(said: Any, age_seconds: float) -> float | None:
    """A number, or where it is on its way from a first to a last one."""
    if not isinstance(said, list):
        return None if said is None else float(said)
    first, last, seconds = map(float, said)
    return first + (last - first) * min(1.0, max(0.0, age_seconds / seconds))
