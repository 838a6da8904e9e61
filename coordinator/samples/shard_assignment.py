"""Assigns shards to owners: as many as the plan says, those that they have cached first.

Pure. Whoever owns a shard, its samples meet the same samples of the other shards, so results
do not depend on this; only what has to be moved between devices does.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from edge_runtime.contract.checks import Array
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.plan import Owner, Plan

from .samples import Catalogue


def assign_shards(catalogue: Catalogue, plan: Plan, held: Mapping[DeviceId, Array]) -> Plan:
    """Assigns shards to owners that have most of their samples' tokens cached already.

    Every owner keeps its number of shards. No other choice leaves more tokens in place, and
    where none is better than the plan's own, that is kept. ``held`` has (K,) bool for each
    device with a cache.
    """
    values_OS = np.stack([_held_tokens(catalogue, plan, held[o.device]) for o in plan.owners])
    owner_of = np.empty(plan.num_shards, np.int64)
    for number, owner in enumerate(plan.owners):
        owner_of[list(owner.shards)] = number
    while circle := _better(values_OS, owner_of):
        for shard, taker in circle:
            owner_of[shard] = taker
    owners = (
        Owner(device=owner.device, shards=tuple(np.flatnonzero(owner_of == number).tolist()))
        for number, owner in enumerate(plan.owners)
    )
    return dataclasses.replace(plan, owners=tuple(owners))


def _held_tokens(catalogue: Catalogue, plan: Plan, holds: Array) -> Array:
    """(S,) int64: tokens of each shard's samples, in all data sets, that one device holds."""
    tokens = np.zeros(plan.num_shards, np.int64)
    for which, table in catalogue.tables.items():
        distinct = catalogue.distinct[which]
        _, firsts = np.unique(table.shards * len(holds) + distinct, return_index=True)
        there = firsts[holds[distinct[firsts]]]
        np.add.at(tokens, table.shards[there], table.samples.lengths[there])
    return tokens


def _better(values_OS: Array, owner_of: Array) -> list[tuple[int, int]]:
    """Owners that each give a shard to the next one in a circle, so that more stays in place.

    A choice without such a circle is the best there is (cycle cancelling, Klein 1967). The
    circle is a negative cycle among the owners, found with Bellman and Ford's algorithm.

    Returns:
        (shard, its new owner) of each; empty when nothing is to be gained.
    """
    count = len(values_OS)
    losses_OO, shards_OO = _cheapest_moves(values_OS, owner_of)
    distance, before = np.zeros(count), np.full(count, -1)
    last = -1
    for _ in range(count):
        last = -1
        for giver in range(count):
            through = distance[giver] + losses_OO[giver]
            nearer = np.flatnonzero(through < distance)
            if len(nearer):
                distance[nearer], before[nearer], last = through[nearer], giver, int(nearer[0])
    if last < 0:
        return []
    for _ in range(count):  # from anywhere behind the cycle into it
        last = int(before[last])
    circle: list[tuple[int, int]] = []
    taker = last
    while not circle or taker != last:
        giver = int(before[taker])
        circle.append((int(shards_OO[giver, taker]), taker))
        taker = giver
    return circle


def _cheapest_moves(values_OS: Array, owner_of: Array) -> tuple[Array, Array]:
    """For each giver and taker the least tokens that a shard's move takes out of place.

    Returns:
        (O, O) float64 tokens, negative where the move brings more into place than it takes out
        of it, infinite where there is nothing to give; and (O, O) int64, which shard it is.
    """
    givers_O11 = np.arange(len(values_OS))[:, None, None]
    lost_OS = (np.take_along_axis(values_OS, owner_of[None], 0) - values_OS).astype(np.float64)
    lost_OOS = np.where(owner_of == givers_O11, lost_OS, np.inf)
    losses_OO = lost_OOS.min(axis=2)
    np.fill_diagonal(losses_OO, np.inf)
    return losses_OO, lost_OOS.argmin(axis=2)
