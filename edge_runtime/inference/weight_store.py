"""Weight files on a device: kept by content, fetched in chunks, verified before use."""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edge_runtime.contract.errors import BadInputError, RemoteError
from edge_runtime.contract.manifest import FileSpec, uint8_name
from edge_runtime.contract.messages import FileChunk, FileRequest

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 20
CHUNKS_IN_FLIGHT = 4
DIGEST_DIGITS = 12
WEIGHTS_FOLDER = "weights"


class WeightStore:
    """A flat folder of weight files; graphs are written beside them.

    ONNX Runtime takes external data only from the graph's own folder, hence the one folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, spec: FileSpec) -> Path:
        """Path of the file in the store, there or not.

        Stage graphs refer to weight files by their base names, which contain their digests.
        Other files have the same name in every bundle.
        """
        name = Path(spec.path)
        if name.parent.name == WEIGHTS_FOLDER:
            return self.folder / name.name
        return self.folder / f"{name.stem}-{spec.sha256[:DIGEST_DIGITS]}{name.suffix}"

    def has(self, spec: FileSpec) -> bool:
        """True if the file is there and its content is right; a broken one is removed."""
        path = self.path(spec)
        try:
            if path.stat().st_size == spec.bytes and file_sha256(path) == spec.sha256:
                return True
        except FileNotFoundError:
            return False
        logger.warning("%s is damaged and will be fetched again", path.name)
        path.unlink(missing_ok=True)
        return False

    def write_graph(self, data: bytes) -> Path:
        """Writes a stage graph under a name made from its content."""
        path = self.folder / f"stage-{hashlib.sha256(data).hexdigest()[:16]}.onnx"
        write_private(path, [data])
        return path

    def write_uint8(self, spec: FileSpec) -> None:
        """Writes the file that :func:`uint8_name` names beside a weight file, if it lacks.

        ONNX Runtime maps that file as it maps the others. Weights converted when a graph is
        loaded would be held in memory, and their int32 intermediates with them.
        """
        source = self.path(spec)
        target = self.folder / uint8_name(source.name)
        if _is_uint8_of(target, source):
            return
        write_private(target, map(_flip_top_bits, _blocks(source)))


@dataclasses.dataclass(frozen=True, slots=True)
class FileStates:
    """Tells by what the file system says whether files were written or replaced since."""

    states: Mapping[Path, tuple[int, ...] | None]

    @classmethod
    def of(cls, paths: Iterable[Path]) -> "FileStates":
        """Reads the states of files; some may not be there."""
        return cls({path: _state(path) for path in paths})

    def are_the_same(self) -> bool:
        """True if no file was changed, taken away or put there."""
        return all(_state(path) == state for path, state in self.states.items())


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


class FileFetch:
    """Fetches missing files one after another, a few chunks in flight. Does no network I/O.

    Chunks go straight to disk, so a device needs no memory for the file that it fetches.
    """

    def __init__(self, store: WeightStore, files: Sequence[FileSpec]) -> None:
        self._store = store
        missing = [spec for spec in dict.fromkeys(files) if not store.has(spec)]
        for spec in missing:
            if not spec.bytes:  # no chunk will ever come for it
                _Part(store.path(spec), spec).finish()
        self._todo = [spec for spec in missing if spec.bytes]
        self._part: _Part | None = None
        self._asked = 0
        self.received_bytes = 0

    @property
    def done(self) -> bool:
        """True when every file is in the store."""
        return not self._todo

    def requests(self) -> list[FileRequest]:
        """Requests that may be sent now."""
        if not self._todo:
            return []
        spec = self._todo[0]
        if self._part is None:
            self._part, self._asked = _Part(self._store.path(spec), spec), 0
        asked = []
        window = self._part.size + CHUNKS_IN_FLIGHT * CHUNK_BYTES
        while self._asked < min(spec.bytes, window):
            length = min(CHUNK_BYTES, spec.bytes - self._asked)
            asked.append(FileRequest(sha256=spec.sha256, offset=self._asked, length=length))
            self._asked += length
        return asked

    def receive(self, chunk: FileChunk) -> None:
        """Appends a chunk; the last one completes the file.

        Raises:
            RemoteError: not the chunk that was asked for, or the digest is wrong.
        """
        part = self._part
        if part is None or chunk.sha256 != part.spec.sha256 or chunk.offset != part.size:
            raise RemoteError("a file chunk came that was not asked for")
        if not 0 < chunk.data.nbytes <= part.spec.bytes - part.size:
            raise RemoteError(f"a chunk of {part.spec.path} has the wrong size")
        part.append(chunk.data.data)
        self.received_bytes += chunk.data.nbytes
        if part.size == part.spec.bytes:
            self._part = None
            part.finish()
            self._todo.pop(0)

    def close(self) -> None:
        """Gives up a file that is not complete."""
        if self._part is not None:
            self._part.discard()
            self._part = None


class _Part:
    """A file in transfer: written beside its place, renamed when its digest is right."""

    def __init__(self, path: Path, spec: FileSpec) -> None:
        self.spec, self.size = spec, 0
        self._path, self._temporary = path, path.with_name(path.name + ".part")
        self._digest = hashlib.sha256()
        self._file = open_private(self._temporary)

    def append(self, data: memoryview) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise BadInputError(
                f"{self._temporary}: cannot be written: {error.strerror}; free space there"
            ) from None
        self._digest.update(data)
        self.size += data.nbytes

    def discard(self) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def finish(self) -> None:
        self._file.close()
        if self._digest.hexdigest() != self.spec.sha256:
            self._temporary.unlink()
            raise RemoteError(f"{self.spec.path} arrived with a wrong sha256")
        self._temporary.replace(self._path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal digits."""
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            yield block


def _flip_top_bits(block: bytes) -> bytes:
    """Adds 128 to int8 values: in two's complement that flips the top bit."""
    flipped: bytes = (np.frombuffer(block, np.uint8) ^ np.uint8(0x80)).tobytes()
    return flipped


def _is_uint8_of(target: Path, source: Path) -> bool:
    if not target.is_file() or target.stat().st_size != source.stat().st_size:
        return False
    pairs = zip(_blocks(source), _blocks(target), strict=True)
    return all(_flip_top_bits(block) == flipped for block, flipped in pairs)


def open_private(path: Path) -> BinaryIO:
    """Opens ``path`` for writing, readable by its owner only."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def write_private(path: Path, blocks: Iterable[bytes]) -> None:
    """Writes a 0600 file so that it is either whole or absent."""
    temporary = path.with_name(path.name + ".part")
    with open_private(temporary) as file:
        file.writelines(blocks)
    temporary.replace(path)
