"""The files of one cache folder: appended to, read at offsets, locked against a second writer.

Reading uses ``preadv``, not a mapping: mapped pages would count as the process's resident
memory (its cap on a small device), a mapping must be renewed as the file grows, and a
failing SD card would raise SIGBUS instead of an error.
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from edge_runtime.contract.cache_format.encoding import Encoded
from edge_runtime.contract.errors import BadInputError
from edge_runtime.transport.files import sync_folder

from .record import Buffer, RecordFormat

_LOCK_NAME = "lock"
_SEGMENT_NAME = re.compile(r"([0-9]{6,9})\.records")
_MAX_BUFFERS = 512
"""Buffers a call; POSIX systems take 1,024."""


class CacheLock:
    """An exclusive claim on a cache folder. Its file's time says when the cache was last used."""

    def __init__(self, folder: Path) -> None:
        """Creates the folder where needed.

        Raises:
            BadInputError: another process has the claim.
            OSError: the folder cannot be written.
        """
        path = folder / _LOCK_NAME
        while True:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._file)
                raise BadInputError(
                    f"the activation cache {folder} is in use by another process; "
                    "wait for it to end or stop it"
                ) from None
            # A file that was removed between opening and locking excludes nobody.
            if os.fstat(self._file).st_nlink:
                break
            os.close(self._file)
        os.utime(path)

    def release(self) -> None:
        """Gives the claim up; twice does no harm."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def segment_files(folder: Path) -> list[tuple[int, Path]]:
    """Number and path of each segment, oldest first."""
    matches = [(_SEGMENT_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted((int(match[1]), path) for match, path in matches if match)


def bytes_within(folder: Path) -> int:
    """Bytes of the records in a cache folder, and in the folders within it."""
    return sum(path.stat().st_size for path in folder.rglob("*.records"))


def last_used_seconds(folder: Path) -> float:
    """Time of the last opening, seconds since the epoch; 0 when that is not known."""
    try:
        return (folder / _LOCK_NAME).stat().st_mtime
    except FileNotFoundError:
        return 0.0


class Segments:
    """Append-only files with a size limit each. The caller holds the folder's lock."""

    def __init__(self, folder: Path, limit_bytes: int, form: RecordFormat) -> None:
        self._folder, self._form = folder, form
        self._limit_bytes = limit_bytes
        self._files: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        # Files with what was appended since the last sync, and their sizes before that.
        self._unsynced: dict[int, int] = {}

    def open(self) -> None:
        """Opens the files that are there."""
        for number, path in segment_files(self._folder):
            self._files[number] = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self._sizes[number] = os.fstat(self._files[number]).st_size

    @property
    def bytes_used(self) -> int:
        """Sizes of the files together."""
        return sum(self._sizes.values())

    @property
    def last(self) -> int | None:
        """Number of the newest file."""
        return max(self._sizes, default=None)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Number, descriptor and size of each file, oldest first."""
        return iter([(number, self._files[number], size) for number, size in self._sizes.items()])

    @property
    def next_preamble_bytes(self) -> int:
        """Bytes that the next append writes before its own: of a new file's preamble."""
        return 0 if self._has_room() else self._form.preamble_bytes

    def truncate(self, number: int, size: int) -> None:
        """Cuts off the bytes that follow the last whole record."""
        if size < self._sizes[number]:
            os.ftruncate(self._files[number], size)
            self._sizes[number] = size

    def place(self) -> tuple[int, int]:
        """Number of the file and offset where the next append goes; opens a new file if needed.

        Raises:
            OSError: no file can be made.
        """
        number = self._writable()
        return number, self._sizes[number]

    def append(self, buffers: Sequence[Buffer]) -> None:
        """Writes the buffers one after another to :meth:`place`.

        Raises:
            OSError: not written; the part that had been written is cut off again.
        """
        number, start = self.place()
        position = start
        try:
            for first in range(0, len(buffers), _MAX_BUFFERS):
                some = buffers[first : first + _MAX_BUFFERS]
                position += _write(self._files[number], some, position)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(self._files[number], start)
            raise
        self._sizes[number] = position
        self._unsynced.setdefault(number, start)

    def read_into(self, number: int, offset: int, buffers: Sequence[Encoded]) -> bool:
        """Fills contiguous buffers one after another.

        Returns:
            False when the file ends before that or cannot be read.
        """
        for first in range(0, len(buffers), _MAX_BUFFERS):
            some = [each.data for each in buffers[first : first + _MAX_BUFFERS]]
            wanted = sum(each.nbytes for each in some)
            try:
                got = os.preadv(self._files[number], some, offset)
            except OSError:
                return False
            if got < wanted and not self._read_rest(number, offset, some, got):
                return False
            offset += wanted
        return True

    def _read_rest(self, number: int, offset: int, buffers: list[memoryview], got: int) -> bool:
        """Reads on behind the first ``got`` bytes, which a system may stop at."""
        for buffer in buffers:
            view, got = buffer.cast("B")[got:], max(0, got - buffer.nbytes)
            offset += buffer.nbytes
            while view:
                try:
                    count = os.preadv(self._files[number], [view], offset - len(view))
                except OSError:
                    return False
                if count == 0:
                    return False
                view = view[count:]
        return True

    def void(self, number: int, offset: int, count: int) -> None:
        """Zeroes bytes, so that the record there is not found when the file is opened again."""
        # A disk that refuses this too has lost the record already.
        with contextlib.suppress(OSError):
            os.pwrite(self._files[number], bytes(count), offset)

    def sync(self) -> None:
        """Waits until everything appended is on the disk."""
        if not self._unsynced:
            return
        for number in sorted(self._unsynced):
            os.fsync(self._files[number])
        sync_folder(self._folder)
        self._unsynced.clear()

    def revert(self) -> dict[int, int]:
        """Cuts off what was appended since the last :meth:`sync`; returns these files' sizes."""
        reverted, self._unsynced = self._unsynced, {}
        for number, size in reverted.items():
            with contextlib.suppress(OSError):
                self.truncate(number, size)
        return reverted

    def remove(self, number: int) -> None:
        """Removes a file."""
        os.close(self._files.pop(number))
        self._unsynced.pop(number, None)
        del self._sizes[number]
        (self._folder / _name(number)).unlink()

    def clear(self) -> None:
        """Removes every file."""
        self.close()
        for _, path in segment_files(self._folder):
            path.unlink()
        self._sizes.clear()

    def close(self) -> None:
        """Closes the files; twice does no harm."""
        while self._files:
            os.close(self._files.popitem()[1])
        self._unsynced.clear()

    def _writable(self) -> int:
        """Number of the file to append to: the last one, or a new one when that is full."""
        last = self.last or 0
        if self._has_room():
            return last
        path = self._folder / _name(last + 1)
        preamble = self._form.preamble(last + 1)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.open(path, flags, 0o600)
        try:
            _write(file, [preamble], 0)
        except BaseException:
            os.close(file)
            path.unlink()
            raise
        self._files[last + 1], self._sizes[last + 1] = file, len(preamble)
        return last + 1

    def _has_room(self) -> bool:
        last = self.last
        return last is not None and self._sizes[last] < self._limit_bytes


def _name(number: int) -> str:
    return f"{number:06d}.records"


def _write(file: int, buffers: Sequence[Buffer], position: int) -> int:
    """Writes all buffers at ``position``; returns their bytes."""
    views = [memoryview(buffer) for buffer in buffers]
    total = sum(view.nbytes for view in views)
    written = os.pwritev(file, views, position)
    if written < total:
        # Rare (a disk that is nearly full): the rest goes out from one joined buffer.
        rest = memoryview(b"".join(views))
        while written < total:
            written += os.pwrite(file, rest[written:], position + written)
    return total


def remove_folder(folder: Path) -> int:
    """Deletes a cache folder that nobody uses; returns the bytes freed.

    Raises:
        BadInputError: a process uses it.
        OSError: it cannot be deleted.
    """
    lock = CacheLock(folder)
    try:
        freed = bytes_within(folder)
        shutil.rmtree(folder)
    finally:
        lock.release()
    return freed
