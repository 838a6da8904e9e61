"""Reads the battery and the charger: Linux's sysfs, or psutil where that is installed.

Files of phones are missing, unreadable or odd, so that everything may be unknown.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from .cgroups import read_text
from .psutil_sensors import psutil_battery

ROOT = Path("/")
POWER_SUPPLIES = Path("sys/class/power_supply")

Supply: TypeAlias = Mapping[str, str]
"""The files of a power supply that matter here, by name; empty where one cannot be read."""

_FILES = ("type", "scope", "present", "status", "online", "capacity")
_PAIRS = (("charge_now", "charge_full"), ("energy_now", "energy_full"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """The battery's charge, from 0 to 1, and whether a charger feeds it; None where unknown."""

    battery: float | None = None
    charging: bool | None = None


def read_power(root: Path = ROOT) -> Power:
    """Reads battery and charger; all is unknown where there is neither."""
    names = (*_FILES, *(name for pair in _PAIRS for name in pair))
    found = power_of(
        [{name: read_text(folder / name) for name in names} for folder in _folders(root)]
    )
    if found == Power() and root == ROOT:
        return Power(**psutil_battery())
    return found


def power_of(supplies: Sequence[Supply]) -> Power:
    """Judges the files of all power supplies. Batteries of mice and headsets do not count."""
    own = [each for each in supplies if each["scope"] != "Device"]
    batteries = [each for each in own if each["type"] == "Battery" and each["present"] != "0"]
    charges = [charge for each in batteries if (charge := _charge(each)) is not None]
    states = {each["status"] for each in batteries}
    online = [each["online"] for each in own if each["type"] not in ("Battery", "UPS", "")]
    return Power(
        battery=sum(charges) / len(charges) if charges else None,
        charging=_charging(states, [each != "0" for each in online if each]),
    )


def _charging(states: set[str], online: Sequence[bool]) -> bool | None:
    """A charger too weak for the load does not help, so the battery's word comes first."""
    if "Discharging" in states:
        return False
    if "Charging" in states:
        return True
    if online:
        return any(online)
    # Kept below its limit, which only a charger allows.
    return True if states & {"Full", "Not charging"} else None


def _charge(battery: Supply) -> float | None:
    """From 0 to 1. Gauges that are not calibrated say more than 100 %."""
    if (capacity := _number(battery["capacity"])) is not None:
        return min(1.0, max(0.0, capacity / 100))
    for now, full in _PAIRS:
        held, most = _number(battery[now]), _number(battery[full])
        if held is not None and most:
            return min(1.0, max(0.0, held / most))
    return None


def _number(text: str) -> float | None:
    value = float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text, re.ASCII) else math.nan
    return value if math.isfinite(value) else None


def _folders(root: Path) -> list[Path]:
    try:
        return sorted((root / POWER_SUPPLIES).iterdir())
    except OSError:  # Android hides them from apps
        return []
