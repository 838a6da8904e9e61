"""Known devices: one TOML file each, with the source of every figure.

``relative_speed`` compares one core with one core of the reference laptop (Intel Core
i5-1135G7, whose median Geekbench 6 single-core score is 1702), over mixed work.
Profiling measures what a device really does; these figures are for emulating and
planning devices that are not here.
"""

import dataclasses
import importlib
import importlib.resources
import math
import sys
from typing import Any, Literal

from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.structure import from_plain

Role = Literal["backbone", "trainer"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The source of each figure: an address, or ``estimate:`` and how it was made."""

    memory_bytes: str
    cores: str
    relative_speed: str
    link_bits_per_second: str
    latency_seconds: str

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            source: str = getattr(self, field.name)
            if not source.startswith(("https://", "estimate: ")):
                raise ValueError(f"source of {field.name} is neither a page nor an 'estimate: '")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpec:
    """The hardware of one kind of device.

    Attributes:
        description: full name and the variant that is meant.
        memory_bytes: memory that is built in; the operating system takes its share of it.
        cores: cores that computing can use.
        relative_speed: of one core, against one core of the reference laptop.
        link_bits_per_second: of its usual connection at home, each way.
        latency_seconds: from the device to its router, one way.
        roles: ``backbone`` runs stages; ``trainer`` needs PyTorch.
        battery: runs on a battery.
        sources: of the figures.
    """

    description: str
    memory_bytes: int
    cores: int
    relative_speed: float
    link_bits_per_second: float
    latency_seconds: float
    roles: tuple[Role, ...]
    battery: bool
    sources: Sources

    def __post_init__(self) -> None:
        figures = (self.memory_bytes, self.cores, self.relative_speed, self.link_bits_per_second)
        if not all(math.isfinite(figure) and figure > 0 for figure in figures):
            raise ValueError("memory_bytes, cores, relative_speed and the link must be positive")
        if not 0 <= self.latency_seconds < math.inf:
            raise ValueError("latency_seconds must not be negative")
        if not self.roles:
            raise ValueError("roles is empty")


def device_names() -> tuple[str, ...]:
    """Names of the devices in the catalogue, in alphabetical order."""
    names = (file.name for file in importlib.resources.files(__name__).iterdir())
    return tuple(sorted(name[: -len(".toml")] for name in names if name.endswith(".toml")))


def load_device(name: str) -> DeviceSpec:
    """Reads the device called ``name``.

    Raises:
        UsageError: no such device; the message lists those that there are.
        BadInputError: its file is damaged.
    """
    if name not in device_names():
        known = ", ".join(device_names())
        raise UsageError(f"unknown device {name[:80]!r}; the catalogue has: {known}")
    file = importlib.resources.files(__name__).joinpath(f"{name}.toml")
    return from_plain(DeviceSpec, _parse_toml(file.read_text("utf-8")), f"{name}.toml")


def _parse_toml(text: str) -> dict[str, Any]:
    # The standard library reads TOML from Python 3.11 on; 3.10 has the same under another name.
    module = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    parsed: dict[str, Any] = module.loads(text)
    return parsed
