"""Files of paired peers: one on the coordinator, another one on each device."""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeVar

from edge_runtime.contract.checks import require
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.structure import from_plain, to_plain

from .files import read_private, write_private
from .keys import PublicKey, check_public_key

_DEVICE_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LONGEST_NAME = 48  # leaves room for a number behind it

MAX_ADDRESSES = 12
"""Of a coordinator's machine, that a device remembers besides the one that it uses."""

T = TypeVar("T")


def device_name(wanted: str) -> str:
    """Turns the name that a device gives itself into one that is safe in paths and tables."""
    name = re.sub(r"[^a-z0-9]+", "-", wanted.lower())[:_LONGEST_NAME].strip("-")
    return name or "device"


def is_device_id(text: str) -> bool:
    """Tells whether ``text`` is a name that :func:`device_name` makes, or one with a number."""
    return _DEVICE_ID.fullmatch(text) is not None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PairedDevice:
    """A device that a coordinator trusts.

    Attributes:
        device_id: its name, unique at this coordinator.
        public_key: by which its connections are recognized.
        paired_at: seconds since the epoch.
    """

    device_id: DeviceId
    public_key: PublicKey
    paired_at: float

    def __post_init__(self) -> None:
        check_public_key(self.public_key)
        is_name = is_device_id(self.device_id)
        require(is_name, "device_id must be lower-case letters, digits and inner dashes")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _PairedDevicesFile:
    format_version: Literal[1] = 1
    devices: tuple[PairedDevice, ...] = ()

    def __post_init__(self) -> None:
        for field in ("device_id", "public_key"):
            values = {getattr(device, field) for device in self.devices}
            require(len(values) == len(self.devices), f"a {field} occurs twice")


class PairedDevices:
    """The coordinator's file of trusted devices (0600); every change is on disk at once.

    A change reads the file again first, so that ``pacplus pair`` and a running
    ``pacplus train`` do not undo each other's.

    Raises:
        BadInputError: the file is broken, or others may read it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._devices: dict[DeviceId, PairedDevice] = {}
        self.reload()

    def __iter__(self) -> Iterator[PairedDevice]:
        return iter(tuple(self._devices.values()))

    def __len__(self) -> int:
        return len(self._devices)

    def get(self, device: DeviceId) -> PairedDevice | None:
        """The entry of ``device``, if it is paired."""
        return self._devices.get(device)

    def reload(self) -> None:
        """Reads the changes of other processes."""
        stored = _load(_PairedDevicesFile, self._path) or _PairedDevicesFile()
        self._devices = {device.device_id: device for device in stored.devices}

    def add(self, name: str, public_key: PublicKey, *, paired_at: float) -> PairedDevice:
        """Trusts ``public_key`` from now on.

        Args:
            name: that the device asks for; taken names get ``-2``, ``-3``, ...
            public_key: a key that is known already keeps its device id.
            paired_at: seconds since the epoch.

        Raises:
            ValueError: it is no public key.
            BadInputError: the file is broken or cannot be written.
        """
        self.reload()
        known = next((device for device in self if device.public_key == public_key), None)
        device_id = known.device_id if known else self._free_id(device_name(name))
        entry = PairedDevice(device_id=device_id, public_key=public_key, paired_at=paired_at)
        self._save({**self._devices, device_id: entry})
        return entry

    def remove(self, device: DeviceId) -> bool:
        """Trusts ``device`` no longer; returns whether it was trusted.

        Raises:
            BadInputError: the file is broken or cannot be written.
        """
        self.reload()
        if device not in self._devices:
            return False
        self._save({key: entry for key, entry in self._devices.items() if key != device})
        return True

    def _free_id(self, name: str) -> DeviceId:
        numbered = (DeviceId(f"{name}-{number}") for number in itertools.count(2))
        candidates = itertools.chain([DeviceId(name)], numbered)
        return next(device for device in candidates if device not in self._devices)

    def _save(self, devices: dict[DeviceId, PairedDevice]) -> None:
        _store(_PairedDevicesFile(devices=tuple(devices.values())), self._path)
        self._devices = devices


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KnownCoordinator:
    """A coordinator that this device trusts.

    Attributes:
        address: its control socket, ``HOST:PORT``, where it answered last.
        public_key: by which it is recognized.
        device_id: the name that it gave this device.
        others: where it may be as well: other addresses and names of its machine.
    """

    address: str
    public_key: PublicKey
    device_id: DeviceId
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_public_key(self.public_key)
        require(len(self.others) <= MAX_ADDRESSES, f"more than {MAX_ADDRESSES} others")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _KnownCoordinatorsFile:
    format_version: Literal[1] = 1
    coordinators: tuple[KnownCoordinator, ...] = ()


class KnownCoordinators:
    """The device's file of trusted coordinators (0600), the latest paired one last.

    Raises:
        BadInputError: the file is broken, or others may read it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        stored = _load(_KnownCoordinatorsFile, path)
        self._coordinators = stored.coordinators if stored else ()

    def __iter__(self) -> Iterator[KnownCoordinator]:
        return iter(self._coordinators)

    def add(self, coordinator: KnownCoordinator) -> None:
        """Remembers ``coordinator``; one with the same key is replaced (its address moved).

        Raises:
            BadInputError: the file cannot be written.
        """
        others = tuple(c for c in self._coordinators if c.public_key != coordinator.public_key)
        coordinators = (*others, coordinator)
        _store(_KnownCoordinatorsFile(coordinators=coordinators), self._path)
        self._coordinators = coordinators

    def latest(self) -> KnownCoordinator | None:
        """The coordinator that was paired last."""
        return self._coordinators[-1] if self._coordinators else None


def _load(cls: type[T], path: Path) -> T | None:
    try:
        content = read_private(path)
    except FileNotFoundError:
        return None
    try:
        return from_plain(cls, json.loads(content), str(path))
    except (ValueError, RecursionError) as error:
        raise BadInputError(
            f"{path}: not valid JSON ({error}); mend it, or delete it and pair again"
        ) from None


def _store(value: object, path: Path) -> None:
    write_private(path, json.dumps(to_plain(value), indent=2).encode("utf-8") + b"\n")
