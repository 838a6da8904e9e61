"""Devices that are not here, described in a TOML file: what ``--profiles`` reads.

::

    [[device]]
    name = "nano"
    like = "jetson-nano"     # a name in the catalogue of devices
    count = 4                # nano-1 .. nano-4
    memory_bytes = 2_000_000_000

    [[device]]
    name = "desktop"         # without "like", the catalogue's fields are given here
    memory_bytes = 16_000_000_000
    cores = 8
    relative_speed = 1.2
    link_bits_per_second = 940_000_000
    latency_seconds = 0.0002
    roles = ["backbone", "trainer"]

Times come from a reference, one core of the machine that plans, unless the file has
measured ones. ``docs/planning.md`` explains every field.
"""

import dataclasses
import importlib
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from devices.catalogue import DeviceSpec, load_device
from edge_runtime.contract.errors import BadInputError, UsageError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.profile import DeviceProfile, LinkProfile
from edge_runtime.contract.structure import from_plain

from .described_device import DeviceEntry, GivenDevice, scaled_profile
from .described_links import read_links

MAX_DEVICES = 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProfilesFile:
    """A file that was read and checked."""

    path: Path
    devices: tuple[GivenDevice, ...]

    def profiles(self, manifest: Manifest, reference: DeviceProfile) -> tuple[DeviceProfile, ...]:
        """The devices' profiles for a bundle.

        Args:
            manifest: of the bundle.
            reference: measured with one thread on a core of relative speed 1.

        Raises:
            BadInputError: measured times are of no block of this bundle; or a device trains,
                and neither the file nor the reference says how fast.
        """
        classes = {block.block_class for block in manifest.blocks}
        for device in self.devices:
            unknown = sorted(set(device.entry.blocks or ()) - classes)
            if unknown:
                raise self._wrong(
                    device.device,
                    f"blocks: {unknown[0]!r} is no class of blocks of this bundle; "
                    f"there are: {', '.join(sorted(classes))}",
                )
            if "trainer" in device.roles and not (device.entry.trainer or reference.trainer):
                raise self._wrong(
                    device.device,
                    "trainer: is missing, and nothing can be trained here to measure it; "
                    "install pacplus[train] here, or give the times",
                )
        return tuple(scaled_profile(device, reference) for device in self.devices)

    def _wrong(self, device: DeviceId, problem: str) -> BadInputError:
        return BadInputError(f"{_where(self.path, device)}.{problem}")


def read_profiles(path: Path) -> ProfilesFile:
    """Reads and checks a file of devices.

    Raises:
        BadInputError: it cannot be read, or a field is missing or wrong; the message names
            the file, the device and the field.
    """
    content = _read_toml(path)
    unknown = sorted(set(content) - {"device", "links"})
    if unknown:
        raise BadInputError(
            f"{path}: unknown table {unknown[0][:80]!r}; there are [[device]] and [links]"
        )
    tables = content.get("device", [])
    if not isinstance(tables, list) or not tables:
        raise BadInputError(f"{path}: has no device; add a [[device]] table with a name")
    matrix = content.get("links")
    given = [
        device
        for number, table in enumerate(tables, 1)
        for device in _devices(path, number, table, linked=matrix is not None)
    ]
    names = [device.device for device in given]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadInputError(f"{path}: device {twice[0]!r}.name: two devices are called so")
    if matrix is not None:
        links = read_links(str(path), given, matrix)
        given = [dataclasses.replace(device, link=links[device.device]) for device in given]
    return ProfilesFile(path=path, devices=tuple(given))


def _read_toml(path: Path) -> dict[str, Any]:
    # The standard library reads TOML from Python 3.11 on; 3.10 has the same under another name.
    module = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        content: dict[str, Any] = module.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such file") from None
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadInputError(f"{path}: is no TOML: {error}") from None
    return content


def _where(path: Path, device: str) -> str:
    return f"{path}: device {device[:80]!r}"


# One [[device]].


def _devices(path: Path, number: int, table: Any, *, linked: bool) -> list[GivenDevice]:
    name = table.get("name") if isinstance(table, Mapping) else None
    if not isinstance(name, str):
        raise BadInputError(f"{path}: device {number}.name: is missing, or no string")
    where = _where(path, name)
    if not _NAME.fullmatch(name):
        raise BadInputError(f"{where}.name: only letters, digits, '.', '_' and '-' are allowed")
    entry = from_plain(DeviceEntry, table, where)
    _check(where, entry)
    spec = _spec(where, entry.like)
    count = 1 if entry.count is None else entry.count
    names = [name] if entry.count is None else [f"{name}-{i}" for i in range(1, count + 1)]
    first = _resolved(where, entry, spec, linked=linked)
    return [dataclasses.replace(first, device=DeviceId(each)) for each in names]


def _spec(where: str, like: str | None) -> DeviceSpec | None:
    if like is None:
        return None
    try:
        return load_device(like)
    except UsageError as error:
        raise BadInputError(f"{where}.like: {error}") from None


_POSITIVE = (
    *("count", "memory_bytes", "cores", "relative_speed", "link_bits_per_second"),
    *("trainer.seconds_per_sample",),
)
_NOT_NEGATIVE = (
    *("storage_bytes", "latency_seconds", "base_memory_bytes"),
    *("trainer.seconds_per_step", "trainer.memory_bytes"),
)


def _check(where: str, entry: DeviceEntry) -> None:
    for name in (*_POSITIVE, *_NOT_NEGATIVE):
        value: Any = entry
        for step in name.split("."):
            value = getattr(value, step, None)
        if value is None:
            continue
        if not math.isfinite(value) or value < 0 or (value == 0 and name in _POSITIVE):
            bound = "must be positive" if name in _POSITIVE else "must not be negative"
            raise BadInputError(f"{where}.{name}: {bound}, not {value}")
    if (entry.count or 1) > MAX_DEVICES:
        raise BadInputError(f"{where}.count: at most {MAX_DEVICES} devices are planned for")
    if entry.roles is not None and not 0 < len(set(entry.roles)) == len(entry.roles):
        raise BadInputError(f"{where}.roles: name backbone, trainer or both, each once")
    for block_class, seconds in (entry.blocks or {}).items():
        if not 0 < seconds < math.inf:
            raise BadInputError(f"{where}.blocks.{block_class}: must be positive, not {seconds}")
    if entry.blocks is not None and not entry.blocks:
        raise BadInputError(f"{where}.blocks: is empty; give a time, or leave it out")


def _resolved(
    where: str, entry: DeviceEntry, spec: DeviceSpec | None, *, linked: bool
) -> GivenDevice:
    def value(name: str, *, needed: bool = True) -> Any:
        found = getattr(entry, name)
        found = getattr(spec, name, None) if found is None else found
        if found is None and needed:
            raise BadInputError(
                f"{where}.{name}: is missing; give it, or a device of the catalogue as 'like'"
            )
        return found

    # Its own link is not asked for where the matrix has all of them.
    rate = value("link_bits_per_second", needed=not linked)
    return GivenDevice(
        device=DeviceId(entry.name),
        entry=entry,
        memory_bytes=value("memory_bytes"),
        cores=value("cores"),
        relative_speed=value("relative_speed"),
        roles=value("roles"),
        link=LinkProfile(
            up_bits_per_second=rate or math.inf,
            down_bits_per_second=rate or math.inf,
            latency_seconds=value("latency_seconds", needed=not linked) or 0.0,
        ),
    )
