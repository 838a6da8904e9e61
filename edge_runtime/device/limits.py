"""Reads the options that spare a device, and waits until it is fit to join."""

import argparse
import logging
import math
import re
import threading
import time
from pathlib import Path

from .care import DEFAULT_MIN_BATTERY, Limits
from .condition import ConditionWatch

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.25


def parse_charge(text: str) -> float:
    """Parses ``20%`` or ``20``, as a part of 1; for argparse."""
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*%?", text.strip(), re.ASCII)
    if match is None or float(match[1]) > 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no charge; write e.g. 20%")
    return float(match[1]) / 100


def parse_celsius(text: str) -> float:
    """Parses ``80``, ``80C`` or ``80 °C``; for argparse."""
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)\s*°?[cC]?", text.strip(), re.ASCII)
    if match is None or not float(match[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no temperature; write e.g. 80")
    return float(match[1])


def watch_condition(
    min_battery: float | None, max_celsius: float | None, file: Path | None
) -> ConditionWatch:
    """Begins to watch this device, or the one that ``file`` emulates; None for the defaults.

    Warns of a limit that was asked for and that no sensor can hold this device to.
    """
    limits = Limits(
        min_battery=DEFAULT_MIN_BATTERY if min_battery is None else min_battery,
        max_celsius=math.inf if max_celsius is None else max_celsius,
    )
    if file is not None:
        return ConditionWatch.of_file(file, limits)
    watch = ConditionWatch.of_sensors(limits)
    watch.look(time.monotonic())
    if min_battery and watch.condition.battery is None:
        logger.warning("--min-battery has no effect: no battery is there, or none can be read")
    if max_celsius is not None and watch.condition.celsius is None:
        logger.warning("--max-temperature has no effect: no sensor is there, or none can be read")
    return watch


def is_fit(watch: ConditionWatch) -> bool:
    """Tells whether the device needs no relief now."""
    watch.look(time.monotonic())
    return not watch.reason


def wait_until_fit(watch: ConditionWatch, pause: threading.Event) -> None:
    """Returns once the device needs no relief; says once why it waits."""
    if not is_fit(watch):
        logger.warning("waits before it joins: %s", watch.reason)
    while not is_fit(watch):
        pause.wait(LOOK_SECONDS)
