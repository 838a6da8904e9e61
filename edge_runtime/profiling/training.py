"""Measures speed and memory of training or using an adapter on this device."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.backbone.encoded_states import parts_for_owners
from edge_runtime.contract.activations import answering_bytes, output_stream, training_bytes
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.cache_format.encoding import encode
from edge_runtime.contract.checks import Array
from edge_runtime.contract.manifest import Stream
from edge_runtime.contract.messages import CacheDtype, ProfileRequest
from edge_runtime.contract.profile import TrainerProfile
from edge_runtime.language_head.candidates import Candidates, find_candidates, usual_candidates
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.language_head.shortlist import USUAL_TOKENS, Shortlist
from edge_runtime.language_head.token_counts import COUNTS_PER_TOKEN
from edge_runtime.parallel_adapters import Batch, PackedBatch
from edge_runtime.parallel_adapters.batch import NOT_COUNTED
from edge_runtime.serving.onnx_adapter import AdapterSession
from edge_runtime.serving.pieces import BATCH_BYTES, EVALUATION_BATCH
from edge_runtime.system.usage import resident_bytes, usable_cores
from edge_runtime.training.allreduce import Rounding
from edge_runtime.training.replica import TRAINING_THREADS

from .data_handling import layers_of, synthetic_micro_batch, temporary_cache
from .shapes import fitting_lengths, room_bytes, usual_tokens
from .timing import processor_seconds_per_run, seconds_per_run

if TYPE_CHECKING:
    from edge_runtime.parallel_adapters import Trainer


LARGEST_BATCH = 16
ALL_REDUCE_SECONDS = 0.03
"""Of the processor's time, to measure rounding and summing for."""
HEAD_PATTERN_ROWS = 256
LINES_AT_ONCE = 4
"""Of a step, whose candidates are found in one pass over the head."""


def measure_training(request: ProfileRequest, config: AdapterConfig, home: Path) -> TrainerProfile:
    """Measures this trainer: time by mean samples, memory by the longest usual ones.

    What an outlier takes besides is estimated: nobody can say before whether it fits.

    Args:
        request: gives the lengths of samples.
        config: shape of the adapter.
        home: holds a temporary cache to read from.
    """
    before_bytes = resident_bytes()  # PyTorch itself is most of what training adds
    from edge_runtime.parallel_adapters import Trainer
    from edge_runtime.parallel_adapters.rounding import HalfPrecision

    head = synthetic_head(request, config) if config.generative else None
    trainer = Trainer(config, TrainingOptions(), 1, threads=TRAINING_THREADS, head=head)
    trainer.token_counts = _even_counts(config)
    held, room = partial(training_bytes, config), room_bytes()
    tokens = fitting_lengths(request.tokens, lambda lengths: 2 * held(lengths), room)
    # Two sizes separate the time of a sample from the overhead of a step.
    large = max(2, samples_at_once(config, tokens, LARGEST_BATCH))
    small = max(1, large // 8)
    seconds = {
        size: _step_seconds(trainer, cached_batch(request, config, tokens, size))
        for size in (small, large)
    }
    per_sample = max(
        (seconds[large] - seconds[small]) / (large - small), seconds[large] / large / 10
    )
    lengths = fitting_lengths(usual_tokens(request), held, room)
    longest = samples_at_once(config, lengths, EVALUATION_BATCH)
    widest = cached_batch(request, config, lengths, longest)
    trainer.gradients(widest)
    trainer.outputs(widest)
    gc.collect()
    outlier_bytes = max(0, held(request.max_tokens) - longest * held(lengths))
    shorter = request.tokens[output_stream(tokens)] / tokens[output_stream(tokens)]
    return TrainerProfile(
        seconds_per_sample=per_sample * shorter + reading_seconds(request, home, padded=False),
        seconds_per_new_sample=_finding_seconds(request, config, head) if head else 0.0,
        seconds_per_step=max(0.0, seconds[large] - large * per_sample),
        memory_bytes=max(0, resident_bytes() - before_bytes) + outlier_bytes,
        parameters=trainer.parameters,
        seconds_per_exchanged_value=_all_reduce_seconds(HalfPrecision(), trainer.parameters),
    )


def measure_answering(
    request: ProfileRequest, config: AdapterConfig, graph: bytes, home: Path
) -> TrainerProfile:
    """Measures the outputs of a trained adapter as ONNX; arguments as :func:`measure_training`."""
    before_bytes = resident_bytes()
    head = synthetic_head(request, config) if config.generative else None
    adapter = AdapterSession(graph, config, head, threads=TRAINING_THREADS)
    held, room = partial(answering_bytes, config), room_bytes()
    tokens = fitting_lengths(request.tokens, held, room)
    size = max(1, min(samples_at_once(config, tokens, LARGEST_BATCH), room // held(tokens)))
    batch = synthetic_batch(request, config, tokens, size)
    shorter = request.tokens[output_stream(tokens)] / tokens[output_stream(tokens)]
    seconds = _seconds_per_run(lambda: adapter.outputs(batch)) * shorter
    lengths = fitting_lengths(usual_tokens(request), held, room)
    longest = samples_at_once(config, lengths, EVALUATION_BATCH)
    longest = max(1, min(longest, room // held(lengths)))
    adapter.outputs(synthetic_batch(request, config, lengths, longest))
    outlier_bytes = max(0, held(request.max_tokens) - longest * held(lengths))
    return TrainerProfile(
        seconds_per_sample=seconds / size + reading_seconds(request, home, padded=True),
        memory_bytes=max(0, resident_bytes() - before_bytes) + outlier_bytes,
    )


def reading_seconds(request: ProfileRequest, home: Path, *, padded: bool) -> float:
    """Times reading a sample's states, of a cache that memory holds; padded ones are decoded."""
    batch, states = synthetic_micro_batch(request)
    stream = next(iter(batch.lengths))
    with temporary_cache(request, batch.keys, home) as cache:
        for _, part in parts_for_owners(batch, stream, states, request.cache_dtype):
            cache.append(part)
        read = cache.read if padded else cache.read_packed
        seconds = _seconds_per_run(lambda: read(batch.keys, stream))
    per_row = seconds / (len(batch.keys) * request.tokens[stream] * len(states))
    rows = sum(len(layers) * request.tokens[each] for each, layers in layers_of(request).items())
    return per_row * rows


def _all_reduce_seconds(rounding: Rounding, values: int) -> float:
    """Times the work of :class:`.AllReduce` on each value, between two trainers."""
    gradient = np.random.default_rng(0).standard_normal(values, np.float32)
    total, half = np.zeros_like(gradient), values // 2

    def all_reduce() -> None:
        code, scale = rounding.shrink(gradient)
        total[:] = 0
        for _ in range(2):  # the others' code of the own part, then their sums of theirs
            rounding.add(total[:half], code[:half], scale)
            rounding.add(total[half:], code[half:], scale)
        rounding.shrink(total[:half])

    return processor_seconds_per_run(all_reduce, at_least_seconds=ALL_REDUCE_SECONDS) / values


def samples_at_once(config: AdapterConfig, tokens: Mapping[Stream, int], most: int) -> int:
    """Number of samples of that length, 1 to ``most``, that are trained on at once."""
    rows = (len(config.layers) - config.encoder_layers) * tokens[output_stream(tokens)]
    rows += config.encoder_layers * tokens.get("encoder", 0)
    sample_bytes = rows * config.hidden_size * np.dtype(np.float32).itemsize
    return min(most, max(1, BATCH_BYTES // sample_bytes))


def synthetic_head(request: ProfileRequest, config: AdapterConfig) -> FrozenHead:
    """A head of the bundle's shape; every page of it is in memory."""
    shape = (config.num_outputs, config.hidden_size)
    generator = np.random.default_rng(0)
    pattern = generator.integers(-100, 100, (HEAD_PATTERN_ROWS, shape[1]))
    rows = np.arange(shape[0]) % HEAD_PATTERN_ROWS
    if request.head_dtype == "int8":
        scale = np.full((shape[0], 1), 1e-3, np.float32)
        return FrozenHead(weight=pattern.astype(np.int8)[rows], row_scale=scale)
    return FrozenHead(weight=(pattern * 1e-3).astype(np.float32)[rows])


def synthetic_batch(
    request: ProfileRequest, config: AdapterConfig, lengths: Mapping[Stream, int], size: int
) -> Batch:
    """Random states of samples that long, counted in the same part as the data's."""
    generator = np.random.default_rng(0)

    def states(layers: int, tokens: int) -> Array:
        shape = (layers, size, tokens, config.hidden_size)
        return generator.standard_normal(shape, np.float32)

    tokens = lengths[output_stream(lengths)]
    encoder_tokens = lengths["encoder"] if config.encoder_layers else 0
    own_layers = len(config.layers) - config.encoder_layers
    return Batch(
        hidden=states(own_layers, tokens),
        lengths=np.full(size, tokens, np.int64),
        second_starts=np.zeros(size, np.int64),
        targets=_targets(request, config, size, tokens),
        encoder_hidden=states(config.encoder_layers, encoder_tokens) if encoder_tokens else None,
        encoder_lengths=np.full(size, encoder_tokens, np.int64) if encoder_tokens else None,
        candidates=_candidates(request, config, size, tokens),
        tokens=_tokens(config, size, tokens),
    )


def cached_batch(
    request: ProfileRequest, config: AdapterConfig, lengths: Mapping[Stream, int], size: int
) -> PackedBatch:
    """The same as a trainer reads it, in the form of the cache."""
    batch = synthetic_batch(request, config, lengths, size).packed()
    encoder = batch.encoder_states
    return dataclasses.replace(
        batch,
        states=_as_cached(batch.states, request.cache_dtype),
        encoder_states=None if encoder is None else _as_cached(encoder, request.cache_dtype),
    )


def _as_cached(states: Array, dtype: CacheDtype) -> Array:
    if dtype == "fp32":
        return states
    encoded = encode(states, dtype)
    return encoded.view(np.float16) if dtype == "fp16" else encoded


def _tokens(config: AdapterConfig, size: int, tokens: int) -> Array | None:
    """Ids of the context; each is a candidate of its line."""
    return np.zeros((size, tokens), np.int64) if config.copies else None


def _candidates(
    request: ProfileRequest, config: AdapterConfig, size: int, tokens: int
) -> tuple[Candidates, ...] | None:
    if not config.generative or request.loss == "exact":
        return None
    counted = _counted(request, tokens)
    context = tokens - counted if config.copies else 0
    count = usual_candidates(counted, config.num_outputs, context)
    each = np.arange(count) * config.num_outputs // count
    log_rest = np.zeros(counted, np.float32)
    return (Candidates(tokens=each.astype(np.int32), log_rest=log_rest),) * size


def _finding_seconds(request: ProfileRequest, config: AdapterConfig, head: FrozenHead) -> float:
    """Times finding the candidates of a mean sample."""
    if request.loss == "exact":
        return 0.0
    counted = max(1, request.counted_tokens)
    hidden = np.random.default_rng(0).standard_normal((counted, config.hidden_size), np.float32)
    line = hidden, np.zeros(counted, np.int64)
    counts = _even_counts(config)
    counts[1, USUAL_TOKENS:] = 0  # as data have it: most tokens are not likely anywhere
    shortlist = Shortlist.of(counts)
    seconds = _seconds_per_run(
        lambda: find_candidates([line] * LINES_AT_ONCE, head, shortlist=shortlist)
    )
    return seconds / LINES_AT_ONCE


def _even_counts(config: AdapterConfig) -> Array:
    """Counts by which any token is as likely, (2, V) int64."""
    return np.full((2, config.num_outputs), COUNTS_PER_TOKEN, np.int64)


def _targets(request: ProfileRequest, config: AdapterConfig, size: int, tokens: int) -> Array:
    if not config.generative:
        return np.zeros(size, np.int64 if config.task == "classification" else np.float32)
    targets = np.full((size, tokens), NOT_COUNTED, np.int64)
    targets[:, tokens - _counted(request, tokens) :] = 0
    return targets


def _counted(request: ProfileRequest, tokens: int) -> int:
    """Counted tokens of a line of so many."""
    counted = tokens * request.counted_tokens // request.tokens["decoder"]
    return min(tokens, max(1, counted))


def _step_seconds(trainer: Trainer, batch: PackedBatch) -> float:
    def step() -> None:
        trainer.gradients(batch)
        trainer.apply(trainer.flat_gradient)

    return _seconds_per_run(step)


def _seconds_per_run(run: Callable[[], object]) -> float:
    return seconds_per_run(run, min(usable_cores(), TRAINING_THREADS))
