"""Keeps which states every device has cached. Pure.

A fact for each sample and layer: what an owner has stored stays stored, whatever becomes of the
micro-batch, the plan or the term in which it was computed.
"""

import dataclasses
from collections.abc import Mapping

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
    """What is cached where, of K distinct samples and the cached layers."""

    def __init__(self, num_samples: int, layers: tuple[int, ...]) -> None:
        self._num_samples, self._columns = num_samples, {layer: i for i, layer in enumerate(layers)}
        self._has: dict[DeviceId, Array] = {}
        self._items: dict[int, _Item] = {}

    def opened(self, device: DeviceId, held: Array) -> None:
        """Takes down what a device's cache holds, (K,) bool: nothing else of it is known."""
        self._has[device] = np.repeat(held.astype(bool)[:, None], len(self._columns), axis=1)

    def lost(self, device: DeviceId) -> None:
        """Takes down that a device's cache is out of reach."""
        self._has.pop(device, None)

    def lacks(self, device: DeviceId, distinct: Array) -> None:
        """Takes down that samples are not in a device's cache after all."""
        self._has[device][distinct] = False

    def expect(self, number: int, stored_by: Mapping[DeviceId, Array], *, computed: bool) -> None:
        """Takes down which samples the owners will store of a work item."""
        self._items[number] = _Item(stored_by, computed)

    def stored(self, device: DeviceId, message: m.Stored) -> Array | None:
        """Takes down what an owner has stored; None if nobody asked it to.

        Returns:
            Distinct samples that the backbone computed and that the device now has whole.
        """
        item = self._items.get(message.number)
        if item is None or device not in item.stored_by or device not in self._has:
            return None
        distinct = item.stored_by[device]
        if message.samples != len(distinct) or not self._columns.keys() >= set(message.layers):
            return None
        columns = np.array([self._columns[layer] for layer in message.layers], np.int64)
        has = self._has[device]
        has[np.ix_(distinct, columns)] = True
        return distinct[has[distinct].all(axis=1)] if item.computed else distinct[:0]

    def held(self) -> dict[DeviceId, Array]:
        """(K,) bool for every device with a cache: samples with all their layers."""
        return {device: np.asarray(has.all(axis=1)) for device, has in self._has.items()}
