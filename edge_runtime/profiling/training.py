"""Measures how fast this device trains or uses an adapter, and what memory that takes."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from edge_runtime.backbone.role import parts_for_owners
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.manifest import Stream
from edge_runtime.contract.messages import ProfileRequest
from edge_runtime.contract.profile import TrainerProfile
from edge_runtime.parallel_adapters import Batch
from edge_runtime.parallel_adapters.batch import NOT_COUNTED
from edge_runtime.parallel_adapters.frozen_head import FrozenHead
from edge_runtime.serving.onnx_adapter import AdapterSession
from edge_runtime.system.usage import resident_bytes, usable_cores
from edge_runtime.training.allreduce import Rounding
from edge_runtime.training.role import EVALUATION_BATCH, TRAINING_THREADS
from edge_runtime.training.samples import BATCH_BYTES

from .data_handling import layers_of, made_up_micro_batch, temporary_cache
from .timing import processor_seconds_per_run, seconds_per_run

if TYPE_CHECKING:
    from edge_runtime.parallel_adapters import Trainer

Array: TypeAlias = np.ndarray[Any, Any]

LARGEST_BATCH = 16
EXCHANGE_SECONDS = 0.03
"""Of the processor's time, to measure rounding and summing for."""
HEAD_PATTERN_ROWS = 256


def measure_training(request: ProfileRequest, config: AdapterConfig, home: Path) -> TrainerProfile:
    """The profile of this trainer: time by mean samples, memory by the longest ones.

    Args:
        request: says what samples are like.
        config: shape of the adapter.
        home: a folder there holds a cache to read from, for as long as it takes.
    """
    before_bytes = resident_bytes()  # PyTorch itself is most of what training adds
    from edge_runtime.parallel_adapters import Trainer
    from edge_runtime.parallel_adapters.rounding import HalfPrecision

    head = made_up_head(request, config) if config.generative else None
    trainer = Trainer(config, TrainingOptions(), 1, threads=TRAINING_THREADS, head=head)
    # Two sizes separate what a sample costs from what a step costs whatever its size.
    large = max(2, fitting(config, request.tokens, LARGEST_BATCH))
    small = max(1, large // 8)
    seconds = {
        size: _step_seconds(trainer, made_up_batch(request, config, request.tokens, size))
        for size in (small, large)
    }
    per_sample = max(
        (seconds[large] - seconds[small]) / (large - small), seconds[large] / large / 10
    )
    longest = fitting(config, request.max_tokens, EVALUATION_BATCH)
    widest = made_up_batch(request, config, request.max_tokens, longest)
    trainer.gradients(widest)
    trainer.outputs(widest)
    gc.collect()
    return TrainerProfile(
        seconds_per_sample=per_sample + reading_seconds(request, home),
        seconds_per_step=max(0.0, seconds[large] - large * per_sample),
        memory_bytes=max(0, resident_bytes() - before_bytes),
        parameters=trainer.parameters,
        seconds_per_exchanged_value=_all_reduce_seconds(HalfPrecision(), trainer.parameters),
    )


def measure_answering(
    request: ProfileRequest, config: AdapterConfig, graph: bytes, home: Path
) -> TrainerProfile:
    """As :func:`measure_training`, of a trained adapter as ONNX: nothing but its outputs."""
    before_bytes = resident_bytes()
    head = made_up_head(request, config) if config.generative else None
    adapter = AdapterSession(graph, config, head, threads=TRAINING_THREADS)
    size = fitting(config, request.tokens, LARGEST_BATCH)
    batch = made_up_batch(request, config, request.tokens, size)
    seconds = seconds_per_run(lambda: adapter.outputs(batch), min(usable_cores(), TRAINING_THREADS))
    longest = fitting(config, request.max_tokens, EVALUATION_BATCH)
    adapter.outputs(made_up_batch(request, config, request.max_tokens, longest))
    return TrainerProfile(
        seconds_per_sample=seconds / size + reading_seconds(request, home),
        memory_bytes=max(0, resident_bytes() - before_bytes),
    )


def reading_seconds(request: ProfileRequest, home: Path) -> float:
    """Wall seconds to read and decode a sample's states, of a cache that memory holds."""
    batch, states = made_up_micro_batch(request)
    stream = next(iter(batch.lengths))
    with temporary_cache(request, batch.keys, home) as cache:
        for _, part in parts_for_owners(batch, stream, states, request.cache_dtype):
            cache.append(part)
        seconds = seconds_per_run(
            lambda: cache.read(batch.keys, stream), min(usable_cores(), TRAINING_THREADS)
        )
    per_row = seconds / (len(batch.keys) * request.tokens[stream] * len(states))
    rows = sum(len(layers) * request.tokens[each] for each, layers in layers_of(request).items())
    return per_row * rows


def _all_reduce_seconds(rounding: Rounding, values: int) -> float:
    """What :class:`.exchange.AllReduce` does to each value, between two trainers."""
    gradient = np.random.default_rng(0).standard_normal(values, np.float32)
    total, half = np.zeros_like(gradient), values // 2

    def exchange() -> None:
        code, scale = rounding.shrink(gradient)
        total[:] = 0
        for _ in range(2):  # the others' code of the own part, then their sums of theirs
            rounding.add(total[:half], code[:half], scale)
            rounding.add(total[half:], code[half:], scale)
        rounding.shrink(total[:half])

    return processor_seconds_per_run(exchange, at_least_seconds=EXCHANGE_SECONDS) / values


def fitting(config: AdapterConfig, tokens: Mapping[Stream, int], most: int) -> int:
    """Samples of that length, 1 to ``most``, that are trained on at once."""
    rows = (len(config.layers) - config.encoder_layers) * tokens[_output_stream(tokens)]
    rows += config.encoder_layers * tokens.get("encoder", 0)
    sample_bytes = rows * config.hidden_size * np.dtype(np.float32).itemsize
    return min(most, max(1, BATCH_BYTES // sample_bytes))


def made_up_head(request: ProfileRequest, config: AdapterConfig) -> FrozenHead:
    """A head of the bundle's shape; every page of it is in memory."""
    shape = (config.num_outputs, config.hidden_size)
    generator = np.random.default_rng(0)
    pattern = generator.integers(-100, 100, (HEAD_PATTERN_ROWS, shape[1]))
    rows = np.arange(shape[0]) % HEAD_PATTERN_ROWS
    if request.head_dtype == "int8":
        scale = np.full((shape[0], 1), 1e-3, np.float32)
        return FrozenHead(weight=pattern.astype(np.int8)[rows], row_scale=scale)
    return FrozenHead(weight=(pattern * 1e-3).astype(np.float32)[rows])


def made_up_batch(
    request: ProfileRequest, config: AdapterConfig, lengths: Mapping[Stream, int], size: int
) -> Batch:
    """Random states of samples that long, counted in the same part as the data's."""
    generator = np.random.default_rng(0)

    def states(layers: int, tokens: int) -> Array:
        shape = (layers, size, tokens, config.hidden_size)
        return generator.standard_normal(shape, np.float32)

    tokens = lengths[_output_stream(lengths)]
    encoder_tokens = lengths["encoder"] if config.encoder_layers else 0
    own_layers = len(config.layers) - config.encoder_layers
    return Batch(
        hidden=states(own_layers, tokens),
        lengths=np.full(size, tokens, np.int64),
        second_starts=np.zeros(size, np.int64),
        targets=_targets(request, config, size, tokens),
        encoder_hidden=states(config.encoder_layers, encoder_tokens) if encoder_tokens else None,
        encoder_lengths=np.full(size, encoder_tokens, np.int64) if encoder_tokens else None,
    )


def _targets(request: ProfileRequest, config: AdapterConfig, size: int, tokens: int) -> Array:
    if not config.generative:
        return np.zeros(size, np.int64 if config.task == "classification" else np.float32)
    targets = np.full((size, tokens), NOT_COUNTED, np.int64)
    counted = tokens * request.counted_tokens // request.tokens["decoder"]
    targets[:, tokens - min(tokens, max(1, counted)) :] = 0
    return targets


def _output_stream(lengths: Mapping[Stream, int]) -> Stream:
    return "decoder" if "decoder" in lengths else "encoder"


def _step_seconds(trainer: Trainer, batch: Batch) -> float:
    def step() -> None:
        trainer.gradients(batch)
        trainer.apply(trainer.flat_gradient)

    return seconds_per_run(step, min(usable_cores(), TRAINING_THREADS))
