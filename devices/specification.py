"""Parses ``--emulate``: the devices to start, and how they differ from the catalogue.

Grammar: ``NAME[:key=value[,key=value]...]`` and commas between devices, so an item with
``=`` and without ``:`` goes on with the options of the device before it::

    jetson-nano,raspberry-pi-5:memory=400M,cpu=0.5,laptop:trainer=no

K, M, G and T are powers of 1000, as in data sheets and link rates; Ki, Mi, Gi and Ti are
powers of 1024.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.ids import DeviceId

from .catalogue import Role, load_device

MIN_MEMORY_BYTES = 40_000_000
"""The least in which Python with numpy, ONNX Runtime and ZeroMQ starts without thrashing."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A value that goes from ``first`` to ``last`` within ``seconds``, and stays there."""

    first: float
    last: float
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedDevice:
    """One device to emulate.

    Attributes:
        id: ``NAME-N``, N counting the devices of that name from 1.
        profile: its name in the catalogue.
        memory_bytes: the cap on its memory.
        cores: threads are never more than this.
        compute_cores: its speed, in cores of the reference laptop.
        link_bits_per_second: of its link, each way.
        latency_seconds: of its link, one way.
        roles: that it may take.
        battery: its charge, 0 to 1, without a charger; None for a device on the mains.
        temperature: of its processor, in degrees Celsius; None where it says none.
    """

    id: DeviceId
    profile: str
    memory_bytes: int
    cores: int
    compute_cores: float
    link_bits_per_second: float
    latency_seconds: float
    roles: tuple[Role, ...]
    battery: Course | None = None
    temperature: Course | None = None

    @property
    def condition(self) -> dict[str, Any]:
        """What its sensors say, as its process reads it (:mod:`edge_runtime.device.condition`)."""
        said = {"battery": self.battery, "celsius": self.temperature}
        values = {
            name: [course.first, course.last, course.seconds]
            for name, course in said.items()
            if course is not None
        }
        return {**values, "charging": False} if self.battery else values

    @property
    def limits(self) -> "EmulatedDevice":
        """Without battery and temperature, which change nothing of what can be measured."""
        return dataclasses.replace(self, battery=None, temperature=None)


def parse_emulate(text: str) -> tuple[EmulatedDevice, ...]:
    """Parses the value of ``--emulate``.

    Raises:
        UsageError: names the item that is wrong and says what is allowed there.
    """
    counts: collections.Counter[str] = collections.Counter()
    devices = []
    for name, options in _split_devices(text):
        counts[name] += 1
        devices.append(_device(name, counts[name], options))
    return tuple(devices)


def _split_devices(text: str) -> list[tuple[str, list[str]]]:
    devices: list[tuple[str, list[str]]] = []
    for item in (part.strip() for part in text.split(",")):
        name, colon, option = (part.strip() for part in item.partition(":"))
        if not colon and "=" in item:
            if not devices:
                raise UsageError(f"--emulate: {item!r} comes before any device; write NAME:{item}")
            devices[-1][1].append(item)
        elif not name or (colon and not option):
            raise UsageError(
                f"--emulate: {item!r} in {text[:200]!r} is no device; write NAME or NAME:key=value"
            )
        else:
            devices.append((name, [option] if colon else []))
    return devices


def _device(name: str, count: int, items: Sequence[str]) -> EmulatedDevice:
    spec = load_device(name)
    options = _options(name, items)
    cores = options.get("cores", spec.cores)
    trains = options.get("trainer", "trainer" in spec.roles)
    return EmulatedDevice(
        id=DeviceId(f"{name}-{count}"),
        profile=name,
        memory_bytes=options.get("memory", spec.memory_bytes),
        cores=cores,
        compute_cores=options.get("cpu", cores * spec.relative_speed),
        link_bits_per_second=options.get("link", spec.link_bits_per_second),
        latency_seconds=options.get("latency", spec.latency_seconds),
        roles=("backbone", "trainer") if trains else ("backbone",),
        battery=options.get("battery"),
        temperature=options.get("temperature"),
    )


def _options(name: str, items: Iterable[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in items:
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals or key not in _PARSERS:
            allowed = ", ".join(f"{key}={shape}" for key, (_, shape) in _PARSERS.items())
            raise UsageError(f"--emulate {name}: {item!r} is no option; there are: {allowed}")
        if key in options:
            raise UsageError(f"--emulate {name}: {key} is given twice")
        parse, shape = _PARSERS[key]
        parsed = parse(value)
        if parsed is None:
            raise UsageError(f"--emulate {name}: {item!r} is wrong; write {key}={shape}")
        options[key] = parsed
    return options


def parse_bytes(text: str, option: str) -> int:
    """Parses a size like ``800000``, ``500M`` or ``2Gi``, in bytes.

    Raises:
        UsageError: it is no size, or nothing at all; names ``option``.
    """
    size = _bytes(text.strip())
    if not size:
        raise UsageError(f"{option}: {text[:80]!r} is no size; write e.g. 500M or 2Gi")
    return size


def parse_rate(text: str) -> float | None:
    """Bits per second of a rate like ``940000000``, ``100M`` or ``1Gbit``; None if it is none."""
    return _scaled(text.strip(), r"([KMGT]i?|)(?:bit)?", _PREFIXES) or None


_PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_PREFIXES |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def _scaled(value: str, unit: str, factors: Mapping[str, float]) -> float | None:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)" + unit, value, re.IGNORECASE | re.ASCII)
    return float(match[1]) * factors[match[2].lower()] if match else None


def _bytes(value: str) -> int | None:
    size = _scaled(value, r"([KMGT]i?|)B?", _PREFIXES)
    return None if size is None else int(size)


def _memory(value: str) -> int | None:
    size = _bytes(value)
    return size if size is not None and size >= MIN_MEMORY_BYTES else None


def _latency(value: str) -> float | None:
    return _scaled(value, "(us|ms|s)", _SECONDS) if value.islower() else None


def _compute(value: str) -> float | None:
    return float(value) or None if re.fullmatch(r"\d+(\.\d+)?", value) else None


def _cores(value: str) -> int | None:
    return int(value) or None if re.fullmatch(r"\d{1,4}", value) else None


_COURSE = r"(\d{1,3}(?:\.\d+)?)UNIT(?:-(\d{1,3}(?:\.\d+)?)UNIT/(\d+(?:\.\d+)?)s)?"


def _course(value: str, unit: str, most: float) -> Course | None:
    match = re.fullmatch(_COURSE.replace("UNIT", unit), value, re.ASCII)
    if match is None:
        return None
    first, last, seconds = match[1], match[2] or match[1], match[3] or "1"
    whole = max(float(first), float(last)) <= most and float(seconds) > 0
    return Course(first=float(first), last=float(last), seconds=float(seconds)) if whole else None


def _battery(value: str) -> Course | None:
    percent = _course(value, "%", 100)
    return percent and Course(
        first=percent.first / 100, last=percent.last / 100, seconds=percent.seconds
    )


def _temperature(value: str) -> Course | None:
    return _course(value, "", 200)


_PARSERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "memory": (_memory, f"BYTES, e.g. 400M or 2Gi, at least {MIN_MEMORY_BYTES // 10**6}M"),
    "cpu": (_compute, "CORES of the reference laptop, e.g. 0.5"),
    "cores": (_cores, "COUNT, e.g. 4"),
    "link": (parse_rate, "BITS-PER-SECOND, e.g. 100M"),
    "latency": (_latency, "TIME, e.g. 5ms"),
    "trainer": ({"yes": True, "no": False}.get, "yes|no"),
    "battery": (_battery, "PERCENT, or FIRST-LAST/SECONDS, e.g. 12% or 30%-10%/60s"),
    "temperature": (_temperature, "CELSIUS, or FIRST-LAST/SECONDS, e.g. 85 or 60-90/60s"),
}


HOST_SHARE = 0.85
"""Part of this machine that emulated devices may take; the rest is for the coordinator and
the relays of their links, which would otherwise slow the devices at random. Measured on a
2-core virtual machine: one stream over two devices' links takes 0.17 of a core at 100 Mbit/s,
0.22 at 500 and 0.3 at 1 Gbit/s; 15 % of 2 cores are 0.3."""


def dilation(devices: Sequence[EmulatedDevice], host_cores: float) -> float:
    """Computes the factor, at least 1, by which all devices run slower than real ones.

    Above 1 when they need more together than the ``host_cores`` that they may take; compute,
    links and latencies are then stretched alike, so their proportions stay.
    """
    return max(1.0, sum(device.compute_cores for device in devices) / host_cores)


def thread_count(device: EmulatedDevice, quota_cores: float) -> int:
    """Threads to compute with: one for each begun core of the quota, at most the device's."""
    return max(1, min(device.cores, math.ceil(quota_cores)))
