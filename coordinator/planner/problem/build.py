"""Builds the planner's problem from a bundle, data and measured profiles, and its plan."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from coordinator.samples.samples import SampleTable
from edge_runtime.contract.activations import block_bytes
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.cache_format import row_bytes
from edge_runtime.contract.manifest import Manifest, Stream
from edge_runtime.contract.messages import CacheDtype, SampleSet
from edge_runtime.contract.profile import (
    DeviceProfile,
)

from .calibrate import calibrated, with_every_block
from .lengths import micro_batch_budget, micro_batch_starts, usual_length
from .problem import MICRO_BATCH_SIZES, Array, Padded, Problem, Tokens


def measured_problem(problem: Problem, profiles: Sequence[DeviceProfile]) -> Problem:
    """Adds devices whose times were measured each on its own."""
    return with_devices(problem, [calibrated(profile) for profile in profiles])


def with_devices(problem: Problem, profiles: Sequence[DeviceProfile]) -> Problem:
    """Adds devices whose times are those of a run."""
    trainers = [profile.trainer for profile in profiles if profile.trainer]
    return dataclasses.replace(
        problem,
        profiles=tuple(with_every_block(problem.manifest, profile) for profile in profiles),
        adapter_parameters=max((trainer.parameters for trainer in trainers), default=0),
    )


def unmeasured_problem(
    manifest: Manifest,
    config: AdapterConfig,
    options: TrainingOptions,
    tables: Mapping[SampleSet, SampleTable],
    cache_dtype: CacheDtype,
) -> Problem:
    """Builds all of the problem that is known before any device is measured."""
    keys = np.concatenate([table.samples.keys for table in tables.values()])
    worked_through = tables.get("train") or tables["eval"]
    return Problem(
        manifest=manifest,
        profiles=(),
        num_samples=len(worked_through),
        fill_samples=len(np.unique(keys, axis=0)),
        tokens=padded_tokens(tables, manifest, options),
        epochs=options.epochs if "train" in tables else 1,
        batch_size=options.batch_size,
        num_blocks=config.layers[-1] + 1,
        cached_layers=config.layers,
        cache_row_bytes=row_bytes(cache_dtype, manifest.hidden_size),
        adapter=config,
        longest_line=_longest_line(tables, manifest),
        trains="train" in tables,
    )


def _longest_line(tables: Mapping[SampleSet, SampleTable], manifest: Manifest) -> str:
    """Names the sample that takes most memory."""
    costs = micro_batch_costs(tables, manifest, 1)
    which = max(costs, key=lambda which: costs[which].max(initial=0.0))
    return tables[which].line_name(int(costs[which].argmax()))


def micro_batch_costs(
    tables: Mapping[SampleSet, SampleTable], manifest: Manifest, size: int
) -> dict[SampleSet, Array]:
    """Counts (N,) what each sample holds, as a part of what a micro-batch of ``size`` may."""
    tokens = tokens_of(tables, manifest.streams)
    budget = micro_batch_budget(
        {stream: each.usual for stream, each in tokens.items()},
        {stream: each.max for stream, each in tokens.items()},
        *(manifest, size),
    )
    found = {}
    for which, table in tables.items():
        lengths = {stream: table.samples.lengths_of[stream] for stream in manifest.streams}
        held = block_bytes(lengths, hidden_size=manifest.hidden_size, num_heads=manifest.num_heads)
        found[which] = np.maximum.reduce([held[stream] / budget[stream] for stream in held])
    return found


def tokens_of(
    tables: Mapping[SampleSet, SampleTable], streams: Iterable[Stream]
) -> dict[Stream, Tokens]:
    """Summarizes the lengths of all samples in each of their sequences."""
    found = [table.samples.lengths_of for table in tables.values()]
    lengths = {stream: np.concatenate([each[stream] for each in found]) for stream in streams}
    return {
        stream: Tokens(mean=float(each.mean()), max=int(each.max()), usual=usual_length(each))
        for stream, each in lengths.items()
    }


def padded_tokens(
    tables: Mapping[SampleSet, SampleTable], manifest: Manifest, options: TrainingOptions
) -> dict[Stream, Tokens]:
    """Summarizes as :func:`tokens_of`, with the padded lengths of the fill's micro-batches."""
    orders = {
        which: table.fill_order(options.batch_size, options.seed) for which, table in tables.items()
    }
    starts = {}
    for size in MICRO_BATCH_SIZES:
        costs = micro_batch_costs(tables, manifest, size)
        starts[size] = [micro_batch_starts(costs[w][order], size) for w, order in orders.items()]
    lengths = {which: table.samples.lengths_of for which, table in tables.items()}
    return {
        stream: dataclasses.replace(
            tokens,
            padded=paddings([lengths[w][stream][order] for w, order in orders.items()], starts),
        )
        for stream, tokens in tokens_of(tables, manifest.streams).items()
    }


def paddings(lengths: Sequence[Array], starts: Mapping[int, Sequence[Array]]) -> dict[int, Padded]:
    """Finds the padded lengths of micro-batches of every size.

    Args:
        lengths: of each data set's samples, in the order of its fill.
        starts: by size, where each data set's micro-batches begin.
    """
    found = {}
    for size, every in starts.items():
        longest, counts = [], []
        for each, begins in zip(lengths, every, strict=True):
            longest.append(np.maximum.reduceat(each, begins))
            counts.append(np.diff(np.append(begins, len(each))))
        padded, samples = np.concatenate(longest), np.concatenate(counts)
        tokens = float((padded * samples).sum())
        found[size] = Padded(
            per_sample=tokens / int(samples.sum()),
            length=float((padded * padded * samples).sum()) / tokens,
        )
    return found
