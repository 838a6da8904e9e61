"""The store: whole micro-batches in, padded batches out.

Opening scans the record headers; there is no separate index on disk that could disagree
with the records. Appending and closing belong to one thread at a time; other threads may
read meanwhile (a prefetcher, say).

Shapes: N or B samples, L layers, T padded tokens, d channels, R bytes of an encoded row.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_runtime.contract.cache_format import row_bytes
from edge_runtime.contract.cache_format.encoding import Encoded, Hidden, check_encoded, decode_into
from edge_runtime.contract.errors import BadInputError, PacplusError
from edge_runtime.contract.messages import CacheDtype

from .folder_names import folder_name
from .index import Index, Located, Run
from .packing import MicroBatch, Pending, pack
from .plain_format import PlainFormat
from .record import KEY_BYTES, MAGIC_BYTES, Buffer, Record, RecordFormat
from .refusals import FULL, explaining
from .sealed_format import SealedFormat
from .segments import CacheLock, Segments
from .streams import Keys, count_samples, split_keys

logger = logging.getLogger(__name__)

Lengths = npt.NDArray[np.int64]

SEGMENT_BYTES = 256 << 20

_DAMAGED = "a record of the activation cache is damaged; it is dropped and made again"


class CacheMiss(PacplusError):  # noqa: N818 - an event to react to, not a failure
    """Layers of some samples are not in the cache, or their record was damaged.

    Attributes:
        keys: (M, 32) uint8, the samples to compute again.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        super().__init__(f"{len(keys)} samples are not in the activation cache")
        self.keys = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)


class ActivationCache:
    """Hidden states of one backbone in one dtype, under ``root``.

    Args:
        root: folder of all caches of this device.
        backbone_digest: 64 hexadecimal digits.
        dtype: of encoded states.
        hidden_size: channels of a state.
        quota_bytes: most bytes on disk; ``None`` for no limit. Samples that do not fit, or
            for which the disk has no room, are not stored, and nothing fails.
        numerics: runtime and kernel of this device, e.g. ``ort-1.31/vnni``.
        segment_bytes: a file that has reached this size is not appended to.
        key: 32 bytes that everything is encrypted with, in a folder of its own; ``None`` for a
            plain cache.

    Raises:
        BadInputError: the folder cannot be used, another process uses it, or it was encrypted
            with another key.
        MissingExtraError: a key is given, but cryptography is not installed.
    """

    def __init__(
        self,
        root: Path,
        backbone_digest: str,
        dtype: CacheDtype,
        hidden_size: int,
        *,
        quota_bytes: int | None = None,
        numerics: str,
        segment_bytes: int = SEGMENT_BYTES,
        key: bytes | None = None,
    ) -> None:
        self.dtype: CacheDtype = dtype
        self.hidden_size = hidden_size
        self.quota_bytes = quota_bytes
        self.numerics = numerics
        self.row_bytes = row_bytes(dtype, hidden_size)
        self._form: RecordFormat = PlainFormat() if key is None else SealedFormat(key)
        self.folder = root / folder_name(backbone_digest, dtype, encrypted=key is not None)
        self._index = Index()
        self._writing = threading.Lock()
        self._told_full = False
        with explaining(self.folder, "open"):
            self._lock = CacheLock(self.folder)
            self._segments = Segments(self.folder, segment_bytes, self._form)
            try:
                self._segments.open()
                self._load()
            except BaseException:
                self._segments.close()
                self._lock.release()
                raise

    def __enter__(self) -> ActivationCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def bytes_used(self) -> int:
        """Bytes on disk."""
        return self._segments.bytes_used

    @property
    def samples(self) -> int:
        """Samples that have at least one record."""
        return count_samples(self._index)

    def numerics_of(self, key: bytes) -> tuple[str, ...]:
        """Numerics of the sample's states, newest record first, each once."""
        return tuple(dict.fromkeys(record.numerics for record in self._index.records(key)))

    def held(self, keys: Keys, layers: Sequence[int]) -> npt.NDArray[np.bool_]:
        """(N,) bool: every one of ``layers`` of the sample is there."""
        wanted = tuple(layers)
        found = (self._index.locate(key, wanted) is not None for key in split_keys(keys))
        return np.fromiter(found, np.bool_, len(keys))

    def append(
        self,
        keys: Keys,
        lengths: npt.NDArray[np.integer],
        layers: Sequence[int],
        encoded: Encoded,
        numerics: str | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Stores a micro-batch; layers already held are skipped.

        Args:
            keys: (N, 32) uint8.
            lengths: (N,) tokens of each sample, unpadded.
            layers: indices of the hidden states, L of them.
            encoded: (L, lengths.sum(), R) uint8, the samples' rows one after another.
            numerics: that computed them; this device's by default.

        Returns:
            (N,) bool, true where all of the sample's layers are held now; false where the
            quota or the disk left no room.

        Raises:
            ValueError: the arguments do not belong together, or a state is not finite.
            BadInputError: the disk cannot be written; nothing was stored.
        """
        wanted = tuple(int(layer) for layer in layers)
        tag = self.numerics if numerics is None else numerics
        batch = MicroBatch(split_keys(keys), lengths.tolist(), wanted, encoded, tag)
        batch.check(self.row_bytes)
        check_encoded(encoded, self.dtype, self.hidden_size)
        with self._writing, explaining(self.folder, "write"):
            missing = functools.partial(self._index.missing, layers=wanted)
            pending = pack(batch, self._form, missing, self._room_bytes())
            if pending:
                self._write_what_fits(pending)
        held = self.held(keys, wanted)
        if not held.all():
            self._tell_full()
        return held

    def read_batch(self, keys: Keys, layers: Sequence[int]) -> tuple[Hidden, Lengths]:
        """Decodes a batch.

        Args:
            keys: (B, 32) uint8.
            layers: indices of the hidden states, L of them, in the order wanted.

        Returns:
            hidden (L, B, T, d) float32, zero after each sample's end, T the longest length;
            lengths (B,) int64.

        Raises:
            CacheMiss: samples are missing or, when none is, damaged; it names all of those.
        """
        located, lengths = self._locate(keys, layers)
        longest = int(lengths.max(initial=0))
        hidden = np.empty((len(layers), len(located), longest, self.hidden_size), np.float32)
        for at, tokens in enumerate(lengths.tolist()):
            hidden[:, at, tokens:] = 0
        read = self._segments.read_into

        def decode(at: int, record: Record, run: Run) -> bool:
            rows = self._form.rows(read, record, run.source, run.count)
            if rows is not None:
                decode_into(rows, hidden[run.targets, at, : record.tokens], self.dtype)
            return rows is not None

        self._visit(located, decode)
        return hidden, lengths

    def read_encoded(self, keys: Keys, layers: Sequence[int]) -> tuple[Lengths, Encoded]:
        """Rows as they were appended, for another device.

        Returns:
            lengths (N,) int64; encoded (L, lengths.sum(), R) uint8.

        Raises:
            CacheMiss: as for :meth:`read_batch`.
        """
        located, lengths = self._locate(keys, layers)
        encoded = np.empty((len(layers), int(lengths.sum()), self.row_bytes), np.uint8)
        ends = np.cumsum(lengths).tolist()
        read = self._segments.read_into

        def fetch(at: int, record: Record, run: Run) -> bool:
            rows = encoded[run.targets, ends[at] - record.tokens : ends[at]]
            return self._form.read_rows(read, record, run.source, rows)

        self._visit(located, fetch)
        return lengths, encoded

    def flush(self) -> None:
        """Makes appended records survive a power cut. A killed process loses nothing.

        A disk may find only now that it has no room for what it took: that is forgotten.
        """
        with self._writing, explaining(self.folder, "write"):
            try:
                self._segments.sync()
            except OSError as error:
                if error.errno not in FULL:
                    raise
                self._give_up_unsynced()

    def _give_up_unsynced(self) -> None:
        for segment, size in self._segments.revert().items():
            self._index.drop_behind(segment, size)
        # It would take the same again, and lose it again.
        self.quota_bytes = self.bytes_used
        self._tell_full()

    def clear(self) -> None:
        """Removes every record."""
        with self._writing, explaining(self.folder, "clear"):
            self._index.clear()
            self._segments.clear()

    def close(self) -> None:
        """Flushes, and lets another process open the cache; twice does no harm."""
        try:
            self.flush()
        finally:
            self._segments.close()
            self._lock.release()

    def _room_bytes(self) -> float:
        if self.quota_bytes is None:
            return math.inf
        return self.quota_bytes - self.bytes_used - self._segments.next_preamble_bytes

    def _load(self) -> None:
        self._refuse_unrecognized()
        for number, file, size in self._segments:
            end = self._form.preamble_bytes
            for key, record in self._form.scan(number, file, size):
                start = record.offset - self._header_bytes(record)
                if start > end:
                    self._pass_over(number, file, end)
                end = record.end
                if record.row_bytes == self.row_bytes:
                    self._index.add(key, record)
            if end < size and number == self._segments.last:
                logger.warning("the activation cache ends in a damaged record, which is dropped")
                self._segments.truncate(number, end)
            elif end < size:
                self._pass_over(number, file, end)

    def _refuse_unrecognized(self) -> None:
        """Removes files that are damaged from their beginning.

        Raises:
            BadInputError: all are unreadable, so it is the key that is wrong.
        """
        wrong = [
            number for number, file, _ in self._segments if not self._form.recognizes(number, file)
        ]
        # A process that was killed while it made a file has left less than its preamble.
        begun = [n for n, _, size in self._segments if size < self._form.preamble_bytes]
        known = len(list(self._segments)) - len(wrong)
        if not known and len(wrong) > len(begun):
            raise BadInputError(
                f"the activation cache {self.folder} was encrypted with another key or passphrase; "
                "start the device with that one (--cache-passphrase-file), or remove the cache: "
                f"pacplus-device cache --remove {self.folder.name[:16]}"
            )
        for number in wrong:
            if number not in begun:
                logger.warning("a file of the activation cache is damaged; it is made again")
            self._segments.remove(number)

    def _pass_over(self, number: int, file: int, offset: int) -> None:
        """Says that a record's header is damaged, once: such a record is voided."""
        if any(os.pread(file, MAGIC_BYTES, offset)):
            logger.warning(_DAMAGED)
            self._segments.void(number, offset, MAGIC_BYTES)

    def _write_what_fits(self, pending: list[Pending]) -> None:
        """Writes all records at once or, on a disk that is nearly full, one after the other."""
        try:
            self._write(pending)
        except OSError as error:
            if error.errno not in FULL:
                raise
            if len(pending) > 1:
                half = len(pending) // 2
                self._write_what_fits(pending[:half])
                self._write_what_fits(pending[half:])

    def _tell_full(self) -> None:
        if not self._told_full:
            self._told_full = True
            logger.warning(
                "the activation cache has no room for all of its samples (disk or --cache-quota): "
                "what does not fit must be computed again when it is needed"
            )

    def _write(self, pending: list[Pending]) -> None:
        segment, start = self._segments.place()
        first = pending[0].record
        start -= first.offset - self._header_bytes(first)  # these may be the end of a batch
        buffers: list[Buffer] = []
        try:
            for item in pending:
                item.record.segment = segment
                item.record.offset += start
                buffers.extend(self._form.buffers(item.key, item.record, item.payload))
            self._segments.append(buffers)
        except BaseException:
            for item in pending:
                item.record.offset -= start
            raise
        for item in pending:
            self._index.add(item.key, item.record)

    def _header_bytes(self, record: Record) -> int:
        return self._form.header_bytes(len(record.layers), record.numerics)

    def _locate(
        self, keys: Keys, layers: Sequence[int]
    ) -> tuple[list[tuple[bytes, Located]], Lengths]:
        wanted = tuple(layers)
        located: list[tuple[bytes, Located]] = []
        misses: list[bytes] = []
        for key in split_keys(keys):
            sample = self._index.locate(key, wanted)
            if sample is None:
                misses.append(key)
            else:
                located.append((key, sample))
        if misses:
            raise CacheMiss(misses)
        return located, np.array([sample.tokens for _, sample in located], np.int64)

    def _visit(
        self, located: list[tuple[bytes, Located]], take: Callable[[int, Record, Run], bool]
    ) -> None:
        """Has every run of every sample taken; those where that fails are damaged."""
        misses: list[bytes] = []
        for at, (key, sample) in enumerate(located):
            for run in sample.runs:
                record = sample.records[run.number]
                if not take(at, record, run):
                    self._drop_damaged(key, record)
                    misses.append(key)
                    break
        if misses:
            raise CacheMiss(list(dict.fromkeys(misses)))

    def _drop_damaged(self, key: bytes, record: Record) -> None:
        logger.warning(_DAMAGED)
        logger.info(
            "record of sample %s in segment %d at byte %d of %s is damaged",
            key.hex()[:16],
            record.segment,
            record.offset,
            self.folder.name,
        )
        self._index.drop(key, record)
        start = record.offset - self._header_bytes(record)
        self._segments.void(record.segment, start, MAGIC_BYTES)
