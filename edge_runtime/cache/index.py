"""Which record holds which layer of which sample, in memory.

Layers are looked up one by one: a sample's records may hold different layers. Where two
hold the same layer the newer one counts, so a record that was recomputed replaces the
damaged one, and duplicates are harmless.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from .record import Record


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive layers of one record that are consecutive in what was asked for.

    Attributes:
        number: which of the sample's records.
        source: first layer, counted in the record.
        target: first layer, counted in the answer.
        count: how many layers.
    """

    number: int
    source: int
    target: int
    count: int


@functools.lru_cache(maxsize=1024)
def place(held: tuple[tuple[int, ...], ...], wanted: tuple[int, ...]) -> tuple[Run, ...] | None:
    """Where each wanted layer is, in records that hold ``held``; ``None`` when one is nowhere.

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
class _Entry:
    """A sample's records, newest first, and the layers of each."""

    records: tuple[Record, ...]
    layers: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Located:
    """Records of a sample and which of their layers answer a request."""

    records: tuple[Record, ...]
    runs: tuple[Run, ...]

    @property
    def tokens(self) -> int:
        """Tokens of the sample."""
        return self.records[0].tokens


class Index:
    """From a sample's key to its records."""

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}

    def __iter__(self) -> Iterator[bytes]:
        """The keys that have records."""
        return iter(self._entries)

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

    def records(self, key: bytes) -> tuple[Record, ...]:
        """The sample's records, newest first."""
        entry = self._entries.get(key)
        return entry.records if entry else ()

    def locate(self, key: bytes, layers: tuple[int, ...]) -> Located | None:
        """Where the layers are, or ``None`` when one is missing."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        runs = place(entry.layers, layers)
        return None if runs is None else Located(entry.records, runs)

    def missing(self, key: bytes, layers: tuple[int, ...]) -> tuple[int, ...]:
        """Those of ``layers`` that no record of the sample holds."""
        entry = self._entries.get(key)
        if entry is None:
            return layers
        if place(entry.layers, layers) is not None:
            return ()
        held = set().union(*entry.layers)
        return tuple(layer for layer in layers if layer not in held)

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()

    def _put(self, key: bytes, records: list[Record]) -> None:
        if records:
            self._entries[key] = _Entry(tuple(records), tuple(r.layers for r in records))
        else:
            self._entries.pop(key, None)
