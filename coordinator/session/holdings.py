"""Keeps which states every device has cached. Pure.

A fact for each sample and layer: what an owner has stored stays stored, whatever becomes of the
micro-batch, the plan or the term in which it was computed.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from edge_runtime.contract import messages as m
from edge_runtime.contract.checks import Array
from edge_runtime.contract.ids import DeviceId


@dataclasses.dataclass(frozen=True, slots=True)
class _Item:
    """Distinct samples that each owner will store; ``computed`` by the backbone, or moved."""

    stored_by: Mapping[DeviceId, Array]
    computed: bool


class Holdings:
    """What is where, of K distinct samples and the cached layers."""

    def __init__(self, num_samples: int, layers: tuple[int, ...]) -> None:
        self._num_samples, self._columns = num_samples, {layer: i for i, layer in enumerate(layers)}
        self._on_disk: dict[DeviceId, Array] = {}
        self._in_memory: dict[DeviceId, Array] = {}
        self._last: dict[DeviceId, Array] = {}
        self._items: dict[int, _Item] = {}

    def opened(self, device: DeviceId, held: Array) -> None:
        """Takes down what a device's cache holds, (K,) bool: nothing else of it is known."""
        self._on_disk[device] = self._all_layers(held)
        self._in_memory[device] = self._all_layers(np.zeros(self._num_samples, bool))

    def lost(self, device: DeviceId) -> None:
        """Takes down that a device's cache is out of reach."""
        if (had := self._on_disk.pop(device, None)) is not None:
            self._last[device] = had
        self._in_memory.pop(device, None)

    def lacks(self, device: DeviceId, distinct: Array) -> None:
        """Takes down that samples are not in a device's cache after all."""
        self._on_disk[device][distinct] = False

    def holds_for_now(self, device: DeviceId, distinct: Array) -> None:
        """Takes down what a device can read of samples that it is to hold, and of no others."""
        readable = np.zeros(self._num_samples, bool)
        readable[distinct] = True
        self._in_memory[device] = self._all_layers(readable)

    def _all_layers(self, samples: Array) -> Array:
        return np.repeat(samples.astype(bool)[:, None], len(self._columns), axis=1)

    def expect(self, number: int, stored_by: Mapping[DeviceId, Array], *, computed: bool) -> None:
        """Takes down which samples the owners will store of a work item."""
        self._items[number] = _Item(stored_by, computed)

    def settle(self, numbers: Iterable[int]) -> None:
        """Expects nothing more of work items that every owner has stored."""
        for number in numbers:
            self._items.pop(number, None)

    def stored(self, device: DeviceId, message: m.Stored, *, held_now: bool) -> Array | None:
        """Takes down what an owner has stored; None if nobody asked it to.

        What is in memory is a fact only while it is ``held_now``, for the portion in work.

        Returns:
            Distinct samples that the backbone computed and that the device now has whole.
        """
        item = self._items.get(message.number)
        if item is None or device not in item.stored_by or device not in self._on_disk:
            return None
        distinct = item.stored_by[device]
        if message.samples != len(distinct) or not self._columns.keys() >= set(message.layers):
            return None
        columns = np.array([self._columns[layer] for layer in message.layers], np.int64)
        kept = message.kept if message.kept is not None else np.full(len(distinct), m.ON_DISK)
        self._on_disk[device][np.ix_(distinct[kept == m.ON_DISK], columns)] = True
        if held_now:
            self._in_memory[device][np.ix_(distinct[kept == m.IN_MEMORY], columns)] = True
        whole = self._readable(device)[distinct]
        return distinct[whole] if item.computed else distinct[:0]

    def held(self) -> dict[DeviceId, Array]:
        """(K,) bool for every device with a cache: samples with all their layers on the disk."""
        return {device: np.asarray(has.all(axis=1)) for device, has in self._on_disk.items()}

    def expected(self, device: DeviceId) -> Array:
        """(K,) bool: what a device holds or, if that is not known now, was last known to hold."""
        known = self._on_disk.get(device, self._last.get(device))
        if known is None:
            return np.zeros(self._num_samples, bool)
        return np.asarray(known.all(axis=1))

    def readable(self) -> dict[DeviceId, Array]:
        """(K,) bool for every device with a cache: samples that it can read now."""
        return {device: self._readable(device) for device in self._on_disk}

    def _readable(self, device: DeviceId) -> Array:
        return np.asarray((self._on_disk[device] | self._in_memory[device]).all(axis=1))
