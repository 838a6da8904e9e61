"""Makes the messages of a fill: moves between owners and micro-batches for the pipeline."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from coordinator.planner.dispatch import Router
from coordinator.protocol.actions import Send
from coordinator.samples.samples import Catalogue, Move, SampleTable, Work
from edge_runtime.contract import messages as m
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.sample import Samples

from .leases import WorkItem

Lines: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

MOVE_SAMPLES = 32


def int32_lengths(samples: Samples) -> m.Lengths:
    """Tokens of every sample in each of its sequences, as messages have them."""
    return {stream: lengths.astype(np.int32) for stream, lengths in samples.lengths_of.items()}


def make_items(
    catalogue: Catalogue,
    which: m.SampleSet,
    work: Work,
    *,
    layers: tuple[int, ...],
    router: Router,
    batches: Sequence[Lines],
    first_number: int,
) -> list[WorkItem]:
    """Moves first, since they need no backbone; then micro-batches.

    Args:
        catalogue: the samples.
        which: the data set.
        work: what is to be moved and computed.
        layers: that owners store.
        router: is asked when a micro-batch is leased.
        batches: places in ``work.lines`` of each micro-batch's.
        first_number: of the items.
    """
    items: list[WorkItem] = []
    for move in work.moves:
        for start in range(0, len(move.distinct), MOVE_SAMPLES):
            part = move.distinct[start : start + MOVE_SAMPLES]
            number = first_number + len(items)
            items.append(_move_item(catalogue, move, part, layers, number))
    table = catalogue.tables[which]
    for places in batches:
        number = first_number + len(items)
        lines, owners = work.lines[places], [work.wanted_by[place] for place in places.tolist()]
        distinct = catalogue.distinct[which][lines]
        items.append(_batch_item(table, lines, distinct, owners, router, number))
    return items


def _move_item(
    catalogue: Catalogue, move: Move, part: Lines, layers: tuple[int, ...], number: int
) -> WorkItem:
    message = m.MoveSamples(number=number, keys=catalogue.keys[part], layers=layers, to=move.owner)
    return WorkItem(
        number=number,
        send=lambda: Send(device=move.source, message=message),
        samples=len(part),
        stored_by={move.owner: part},
        computed=False,
    )


def _batch_item(
    table: SampleTable,
    lines: Lines,
    distinct: Lines,
    wanted_by: Sequence[tuple[DeviceId, ...]],
    router: Router,
    number: int,
) -> WorkItem:
    positions: dict[DeviceId, list[int]] = {}
    for position, owners in enumerate(wanted_by):
        for owner in owners:
            positions.setdefault(owner, []).append(position)

    def send() -> Send:
        samples = table.samples.take(lines)
        batch = m.MicroBatch(
            number=number,
            route=router.route(),
            keys=samples.keys,
            lengths=int32_lengths(samples),
            destinations=tuple(
                m.Destination(device=owner, positions=np.asarray(places, np.int32))
                for owner, places in positions.items()
            ),
        )
        inputs = {name: ragged.values for name, ragged in samples.inputs.items()}
        return Send(device=batch.route[0], message=m.RunBatch(batch=batch, inputs=inputs))

    lengths = table.samples.lengths_of
    return WorkItem(
        number=number,
        send=send,
        samples=len(lines),
        stored_by={owner: distinct[places] for owner, places in positions.items()},
        computed=True,
        longest={stream: int(each[lines].max()) for stream, each in lengths.items()},
    )
