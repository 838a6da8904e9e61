"""Stores measured profiles and links for later sessions, in ``$PACPLUS_HOME/profiles``.

A file for each device and everything that its times depend on, and a file for each device's
links. A file that cannot be read is no reason to stop: the device is measured again.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from coordinator.protocol.job import Job
from coordinator.session.link_schedule import Pair
from coordinator.session.measurements import KnownDevices, KnownLink, KnownProfile
from coordinator.session.value_checks import check_profile
from edge_runtime.contract.errors import BadInputError, DeviceFailedError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.structure import from_plain, to_plain
from edge_runtime.contract.text import one_line
from edge_runtime.transport.files import read_private, write_private

from .stage_files import profiled_shape

logger = logging.getLogger(__name__)

T = TypeVar("T")

FOLDER = "profiles"
DIGEST_LENGTH = 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _ProfileFile:
    format_version: Literal[1] = 1
    known: KnownProfile


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _LinksFile:
    """Holds one sender's links, by the name that :meth:`ProfileCache._end` gives a receiver."""

    format_version: Literal[1] = 1
    links: Mapping[str, KnownLink]


class ProfileCache:
    """Stores the measurements of one session's devices."""

    def __init__(self, home: Path, job: Job, places: Mapping[DeviceId, Any]) -> None:
        """Reads nothing yet; ``places`` has the limits of emulated devices as plain values."""
        self._folder = home / FOLDER
        self._work = [job.manifest.digest, to_plain(profiled_shape(job))]
        self._manifest, self._places = job.manifest, places
        self._read = KnownDevices()

    def read(self, devices: Sequence[DeviceId]) -> KnownDevices:
        """Reads the measurements of ``devices``."""
        profiles, links = dict(self._profiles(devices)), dict(self._links(devices))
        self._read = KnownDevices(profiles=profiles, links=links)
        return self._read

    def write(self, measured: KnownDevices) -> None:
        """Keeps what was not known when it was read."""
        try:
            for device, profile in measured.profiles.items():
                read = self._read.profiles.get(device)
                if read is None or _is_news(profile, read):
                    _store(self._profile_path(device), _ProfileFile(known=profile))
            self._write_links(measured.links)
        except BadInputError as error:
            logger.warning("what was measured is not kept: %s", error)

    def _profiles(self, devices: Sequence[DeviceId]) -> Iterator[tuple[DeviceId, KnownProfile]]:
        for device in devices:
            path = self._profile_path(device)
            if (file := _load(_ProfileFile, path)) is None:
                continue
            try:
                check_profile(device, file.known.profile, self._manifest)
            except DeviceFailedError as error:
                _discard(path, error)
            else:
                yield device, file.known

    def _links(self, devices: Sequence[DeviceId]) -> Iterator[tuple[Pair, KnownLink]]:
        ends = {self._end(device): device for device in devices}
        for sender in devices:
            file = _load(_LinksFile, self._links_path(sender))
            for end, known in file.links.items() if file is not None else ():
                if end in ends:
                    yield (sender, ends[end]), known

    def _write_links(self, links: Mapping[Pair, KnownLink]) -> None:
        fresh: dict[DeviceId, dict[str, KnownLink]] = {}
        for (sender, receiver), known in links.items():
            if self._read.links.get((sender, receiver)) != known:
                fresh.setdefault(sender, {})[self._end(receiver)] = known
        for sender, own in fresh.items():
            path = self._links_path(sender)
            file = _load(_LinksFile, path)
            _store(path, _LinksFile(links={**(file.links if file else {}), **own}))

    def _profile_path(self, device: DeviceId) -> Path:
        digest = _digest([self._places.get(device), *self._work])
        return self._folder / f"{device}-{digest}.json"

    def _links_path(self, sender: DeviceId) -> Path:
        return self._folder / f"{self._end(sender)}-links.json"

    def _end(self, device: DeviceId) -> str:
        return f"{device}-{_digest(self._places.get(device))}"


def _is_news(found: KnownProfile, read: KnownProfile) -> bool:
    surer = read.profile.brief and not found.profile.brief
    learnt = found.profile.in_run is not None and found.profile.in_run != read.profile.in_run
    return surer or learnt or found.conditions != read.conditions


def _digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:DIGEST_LENGTH]


def _load(cls: type[T], path: Path) -> T | None:
    try:
        return from_plain(cls, json.loads(read_private(path)), str(path))
    except FileNotFoundError:
        return None
    except (BadInputError, ValueError, RecursionError) as error:
        _discard(path, error)
        return None


def _discard(path: Path, error: Exception) -> None:
    """Throws a file away that would mislead every later session too."""
    logger.warning("%s is not used, so that it is measured again: %s", path, one_line(str(error)))
    with contextlib.suppress(OSError):
        path.unlink()


def _store(path: Path, value: object) -> None:
    write_private(path, json.dumps(to_plain(value), indent=2).encode("utf-8") + b"\n")
