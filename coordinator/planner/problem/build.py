"""Builds the planner's problem from a bundle, data and measured profiles, and its plan."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from coordinator.samples.samples import SampleTable
from edge_runtime.contract.activations import block_bytes
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.cache_format import CANDIDATE_TOKEN_BYTES, CONTEXT_TOKEN_BYTES, row_bytes
from edge_runtime.contract.manifest import Manifest, Stream
from edge_runtime.contract.messages import CacheDtype, SampleSet
from edge_runtime.contract.profile import (
    DeviceProfile,
)

from .calibrate import calibrated, with_every_block
from .lengths import cut_micro_batches, micro_batch_budget, usual_length
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
        tokens=padded_tokens(tables, manifest),
        epochs=options.epochs if "train" in tables else 1,
        batch_size=options.batch_size,
        num_blocks=config.layers[-1] + 1,
        cached_layers=config.layers,
        cache_row_bytes=row_bytes(cache_dtype, manifest.hidden_size),
        loss_bytes=_loss_bytes(config, options, tables),
        adapter=config,
        longest_line=_longest_line(tables, manifest),
        trains="train" in tables,
    )


def _loss_bytes(
    config: AdapterConfig, options: TrainingOptions, tables: Mapping[SampleSet, SampleTable]
) -> float:
    """Counts what a loss over candidates keeps of a training sample."""
    train = tables.get("train")
    if train is None or not config.generative or options.loss == "exact":
        return 0.0
    context = train.mean_uncounted_tokens if config.copies else 0.0
    return CANDIDATE_TOKEN_BYTES * train.mean_counted_tokens + CONTEXT_TOKEN_BYTES * context


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


def micro_batches(
    tables: Mapping[SampleSet, SampleTable],
    manifest: Manifest,
    size: int,
    which: SampleSet,
    lines: Array,
) -> list[Array]:
    """Cuts ``lines`` of a data set into micro-batches as large as ``size`` mean samples.

    Returns:
        Places in ``lines`` of each micro-batch's.
    """
    tokens = tokens_of(tables, manifest.streams)
    samples = tables[which].samples
    lengths = [samples.lengths_of[stream][lines] for stream in manifest.streams]
    costs = micro_batch_costs(tables, manifest, size)[which][lines]
    return cut_micro_batches(lengths, costs, size * sum(each.mean for each in tokens.values()))


def padded_tokens(
    tables: Mapping[SampleSet, SampleTable], manifest: Manifest
) -> dict[Stream, Tokens]:
    """Summarizes as :func:`tokens_of`, with the padded lengths of the fill's micro-batches."""
    cut = {
        size: {
            which: micro_batches(tables, manifest, size, which, np.arange(len(table)))
            for which, table in tables.items()
        }
        for size in MICRO_BATCH_SIZES
    }
    return {
        stream: dataclasses.replace(
            tokens,
            padded={
                size: paddings(
                    [(table.samples.lengths_of[stream], batches[w]) for w, table in tables.items()]
                )
                for size, batches in cut.items()
            },
        )
        for stream, tokens in tokens_of(tables, manifest.streams).items()
    }


def paddings(data_sets: Sequence[tuple[Array, Sequence[Array]]]) -> Padded:
    """Finds the padded lengths of micro-batches.

    Args:
        data_sets: lengths of each one's samples, and the places of each micro-batch's.
    """
    padded, samples = [np.zeros(0)], [np.zeros(0, np.int64)]
    for lengths, batches in data_sets:
        counts = np.array([len(places) for places in batches], np.int64)
        if len(counts):
            starts = np.cumsum(counts) - counts
            padded.append(np.maximum.reduceat(lengths[np.concatenate(batches)], starts))
            samples.append(counts)
    longest, every = np.concatenate(padded), np.concatenate(samples)
    tokens = float((longest * every).sum())
    return Padded(
        per_sample=tokens / int(every.sum()),
        length=float((longest * longest * every).sum()) / tokens,
    )
