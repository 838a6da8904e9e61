"""Index of records by sample and layer, in memory.

Layers are looked up one by one: a sample's records may hold different layers. Where two
hold the same layer the newer one counts, so a record that was recomputed replaces the
damaged one, and duplicates are harmless.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from .record import Record


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive layers of one record that are consecutive in the request.

    Attributes:
        number: of the record among the sample's.
        source: first of ``count`` layers, counted in the record.
        target: the same, counted in the answer.
    """

    number: int
    source: int
    target: int
    count: int

    @property
    def targets(self) -> slice:
        """Their places in the answer."""
        return slice(self.target, self.target + self.count)


@functools.lru_cache(maxsize=1024)
def place(held: tuple[tuple[int, ...], ...], wanted: tuple[int, ...]) -> tuple[Run, ...] | None:
    """Finds each wanted layer in records that hold ``held``; ``None`` when one is missing.

    Records are asked in order. Few distinct arguments occur, hence the cache.
    """
    runs: list[Run] = []
    for target, layer in enumerate(wanted):
        number = next((at for at, layers in enumerate(held) if layer in layers), None)
        if number is None:
            return None
        source = held[number].index(layer)
        last = runs[-1] if runs else None
        if last and last.number == number and last.source + last.count == source:
            runs[-1] = Run(number, last.source, last.target, last.count + 1)
        else:
            runs.append(Run(number, source, target, 1))
    return tuple(runs)


@dataclass(frozen=True, slots=True)
class Located:
    """Records of a sample, and the runs of their layers that answer a request."""

    records: tuple[Record, ...]
    runs: tuple[Run, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the sample."""
        return self.records[0].tokens


class Index:
    """From a sample's key to its records."""

    def __init__(self) -> None:
        self._records: dict[bytes, tuple[Record, ...]] = {}

    def __iter__(self) -> Iterator[bytes]:
        """The keys that have records."""
        return iter(self._records)

    def add(self, key: bytes, record: Record) -> None:
        """Puts a record in front; forgets those that it covers or contradicts."""
        records = [record]
        covered = set(record.layers)
        for older in self.records(key):
            if older.tokens == record.tokens and not covered.issuperset(older.layers):
                records.append(older)
                covered.update(older.layers)
        self._put(key, records)

    def drop(self, key: bytes, record: Record) -> None:
        """Forgets a record."""
        self._put(key, [other for other in self.records(key) if other is not record])

    def drop_behind(self, segment: int, offset: int) -> None:
        """Forgets the records of a segment from ``offset`` on."""
        for key, records in list(self._records.items()):
            kept = [each for each in records if each.segment != segment or each.offset < offset]
            if len(kept) < len(records):
                self._put(key, kept)

    def records(self, key: bytes) -> tuple[Record, ...]:
        """The sample's records, newest first."""
        return self._records.get(key, ())

    def locate(self, key: bytes, layers: tuple[int, ...]) -> Located | None:
        """Finds the layers; ``None`` when one is missing."""
        records = self.records(key)
        runs = place(tuple(record.layers for record in records), layers) if records else None
        return None if runs is None else Located(records, runs)

    def missing(self, key: bytes, layers: tuple[int, ...]) -> tuple[int, ...]:
        """Those of ``layers`` that no record of the sample holds."""
        held = {layer for record in self.records(key) for layer in record.layers}
        return tuple(layer for layer in layers if layer not in held)

    def clear(self) -> None:
        """Forgets everything."""
        self._records.clear()

    def _put(self, key: bytes, records: list[Record]) -> None:
        if records:
            self._records[key] = tuple(records)
        else:
            self._records.pop(key, None)
