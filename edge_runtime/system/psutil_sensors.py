"""Asks psutil for battery and temperatures, where it is installed; it is no dependency."""

import importlib
from collections.abc import Iterator
from typing import Any


def psutil_battery() -> dict[str, Any]:
    """Battery (0 to 1) and charger as psutil knows them; empty where it knows neither."""
    found = _ask("sensors_battery")
    if found is None:
        return {}
    return {
        "battery": min(1.0, max(0.0, found.percent / 100)),
        "charging": found.power_plugged,
    }


def psutil_temperatures() -> Iterator[tuple[str, float]]:
    """Names of sensors' chips and degrees Celsius."""
    for chip, sensors in (_ask("sensors_temperatures") or {}).items():
        yield from ((chip, sensor.current) for sensor in sensors)


def _ask(name: str) -> Any:
    """What a function of psutil says; None without psutil or where it has no such function."""
    try:
        function = getattr(importlib.import_module("psutil"), name, None)
        return function() if function is not None else None
    except Exception:  # psutil reads a system's files too, each in a way of its own
        return None
