"""Stores devices' times and links for later sessions, in ``$PACPLUS_HOME/profiles``.

A file for each device with what is known of its pace: times of blocks by their kind, whatever
bundle and data they were first met with, and times of training by adapter and shape of data. And
a file for each device's links. A file that cannot be read is no reason to stop: the device is
measured again.
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
from coordinator.session.value_checks import check_times
from edge_runtime.contract.errors import BadInputError, DeviceFailedError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import KnownTimes, TrainerProfile
from edge_runtime.contract.structure import from_plain, to_plain
from edge_runtime.contract.text import one_line
from edge_runtime.transport.files import read_private, write_private

from .stage_files import profiled_shape

logger = logging.getLogger(__name__)

T = TypeVar("T")

FOLDER = "profiles"
DIGEST_LENGTH = 16


FARTHEST = 2
"""Times of blocks say nothing of samples that are more times as long as the longest timed."""

MOST_TRAINERS = 32
MOST_BLOCKS = 256
"""Times that are kept of a device: the latest."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _ProfileFile:
    """Holds a device's times; those of training by what they are of, the latest last."""

    format_version: Literal[2] = 2
    known: KnownProfile
    trainers: Mapping[str, TrainerProfile] = dataclasses.field(default_factory=dict)


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
        shape = profiled_shape(job)
        self._training = _digest([job.manifest.hidden_size, to_plain(shape)])
        self._lengths = shape.tokens
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
            for device, known in measured.profiles.items():
                if self._read.profiles.get(device) != known:
                    self._write_times(device, known)
            self._write_links(measured.links)
        except BadInputError as error:
            logger.warning("what was measured is not kept: %s", error)

    def _write_times(self, device: DeviceId, known: KnownProfile) -> None:
        """Adds to what is kept of the device as it is now."""
        path, times = self._times_path(device), known.times
        kept = _load(_ProfileFile, path)
        if kept is not None and kept.known.conditions != known.conditions:
            kept = None
        before = kept.known.times if kept is not None else times
        trainers = dict(kept.trainers) if kept is not None else {}
        if times.trainer is not None:
            trainers.pop(self._training, None)
            trainers[self._training] = times.trainer
        blocks = {name: each for name, each in before.blocks.items() if name not in times.blocks}
        merged = dataclasses.replace(
            times,
            trainer=None,
            training=times.training or before.training,
            blocks=_latest({**blocks, **times.blocks}, MOST_BLOCKS),
            reached={
                kind: max(each.reached.get(kind, 0.0) for each in (before, times))
                for kind in before.reached.keys() | times.reached.keys()
            },
        )
        file = _ProfileFile(
            known=dataclasses.replace(known, times=merged),
            trainers=_latest(trainers, MOST_TRAINERS),
        )
        _store(path, file)

    def _profiles(self, devices: Sequence[DeviceId]) -> Iterator[tuple[DeviceId, KnownProfile]]:
        for device in devices:
            path = self._times_path(device)
            if (file := _load(_ProfileFile, path)) is None:
                continue
            times = dataclasses.replace(file.known.times, trainer=file.trainers.get(self._training))
            try:
                check_times(device, times)
            except DeviceFailedError as error:
                _discard(path, error)
            else:
                yield device, dataclasses.replace(file.known, times=self._of_bundle(times))

    def _of_bundle(self, times: KnownTimes) -> KnownTimes:
        """Keeps the blocks of this bundle that were timed at about such lengths."""
        layers = {block.block_class: block for block in self._manifest.blocks}
        blocks = {
            name: timings
            for name, timings in times.blocks.items()
            if name in layers
            and self._lengths[layers[name].stream]
            <= FARTHEST * max(timing.sequence_length for timing in timings)
        }
        return dataclasses.replace(times, blocks=blocks)

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

    def _times_path(self, device: DeviceId) -> Path:
        return self._folder / f"{self._end(device)}-times.json"

    def _links_path(self, sender: DeviceId) -> Path:
        return self._folder / f"{self._end(sender)}-links.json"

    def _end(self, device: DeviceId) -> str:
        return f"{device}-{_digest(self._places.get(device))}"


def _latest(kept: Mapping[str, T], most: int) -> dict[str, T]:
    return dict(list(kept.items())[-most:])


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
