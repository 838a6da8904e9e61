"""Reads how warm the processor is: Linux's thermal zones, or psutil where that is installed."""

import re
from collections.abc import Iterable
from pathlib import Path

from .cgroups import read_text
from .power import ROOT
from .psutil_sensors import psutil_temperatures

THERMAL_ZONES = Path("sys/class/thermal")

_PROCESSOR = re.compile("cpu|soc|pkg|core|tsens|k10temp", re.IGNORECASE)
"""In the names of processors' zones, e.g. ``x86_pkg_temp``, ``cpu-0-1-usr``, ``mtktscpu``."""

_PLAUSIBLE_CELSIUS = (1.0, 130.0)
"""What is outside of it is a sensor that is off: 0, -273, -40."""

_MILLI = 1000


def read_celsius(root: Path = ROOT) -> float | None:
    """Temperature of the hottest processor sensor, or of any where none is named so."""
    zones = ((read_text(zone / "type"), read_text(zone / "temp")) for zone in _zones(root))
    found = hottest([(kind, _celsius(text)) for kind, text in zones])
    return hottest(psutil_temperatures()) if found is None and root == ROOT else found


def hottest(zones: Iterable[tuple[str, float | None]]) -> float | None:
    """The highest plausible temperature: of processors, if some of the zones are theirs."""
    coldest, warmest = _PLAUSIBLE_CELSIUS
    known = [(kind, value) for kind, value in zones if value and coldest <= value <= warmest]
    processors = [value for kind, value in known if _PROCESSOR.search(kind)]
    return max(processors or [value for _, value in known], default=None)


def _celsius(text: str) -> float | None:
    """Of a zone's file: thousandths of a degree, though some phones' kernels say degrees."""
    if not re.fullmatch(r"-?\d{1,9}", text, re.ASCII):
        return None
    value = int(text)
    return float(value) if abs(value) <= _PLAUSIBLE_CELSIUS[1] else value / _MILLI


def _zones(root: Path) -> list[Path]:
    try:
        return sorted((root / THERMAL_ZONES).glob("thermal_zone*"))
    except OSError:
        return []
