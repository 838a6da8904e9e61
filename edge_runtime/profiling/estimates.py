"""Estimates what nobody has timed, from how fast matrices are multiplied or from earlier runs.

Good enough to plan with until the run itself says more: owners are chosen by the order of the
devices' speeds, which one matrix product tells as well as another.
"""

import time
from collections.abc import Callable, Mapping

import numpy as np

from edge_runtime.contract.activations import (
    FLOAT_BYTES,
    OPTIMIZER_COPIES,
    STATE_COPIES,
    answering_bytes,
    count_parameters,
    count_recognizing,
    output_stream,
    training_bytes,
)
from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.manifest import Stream
from edge_runtime.contract.messages import ProfileRequest
from edge_runtime.contract.profile import (
    BlockTiming,
    CoreSpeed,
    HandlingProfile,
    TrainerProfile,
    pace_of,
)
from edge_runtime.language_head.candidates import usual_candidates
from edge_runtime.language_head.shortlist import usually_searched
from edge_runtime.language_head.tail_sample import SAMPLED_TOKENS
from edge_runtime.serving.pieces import EVALUATION_BATCH
from edge_runtime.side_gradients.network import is_by_hand
from edge_runtime.system.usage import usable_cores
from edge_runtime.training.replica import TRAINING_THREADS

from .shapes import usual_tokens
from .training import samples_at_once

REFERENCE_VALUES_PER_SECOND = 8.7e9
"""Values a second that numpy multiplies on the core on which the constants below were measured."""

SECONDS_PER_FLOP = {"by hand": 1.2e-11, "autograd": 3e-11}
"""Of a sample's part of a step besides its matrix products: element-wise work, reading states,
dispatch. Measured on MiniLM (reduction 8, 19 tokens) with autograd: 0.85 ms in all, a quarter of it
products; by hand on another core, with 13 tokens: half of 0.3 ms."""

STEP_SECONDS = {"by hand": 0.002, "autograd": 0.004}
"""Dispatch and optimizer of a step."""

PYTORCH_BYTES = 195 << 20
"""Resident once it is imported without its compiler, and has trained a step; measured 170 MB after
the import."""

ANSWERING_BYTES = 24 << 20
"""Resident for an adapter's graph in ONNX Runtime."""

RUNS = 200
"""Of a few microseconds each."""

EXCHANGED_SECONDS = 3.5e-9
"""For each value of a gradient, to round and sum it; as ``--measure`` found it."""

FLOAT_EFFICIENCY = 0.6
_EFFICIENCY = {
    ("none", ""): FLOAT_EFFICIENCY,
    ("int8", "fast"): 3.0,
    ("int8", "paired"): 0.85,
    ("int8", ""): 0.65,
    ("int4", ""): 0.5,
}
"""FLOPs a second of a block over those of a small float32 product, by quantization and kernel."""

ATTENTION_FLOPS = 4
"""For each token that a token attends to and each channel: scores, and the mean of values."""

BLOCK_RUN_SECONDS = 1.3e-4
"""Of a block in each micro-batch, whatever its size."""

WORTH_THREADS_SECONDS = 30e-3
"""Threads pay for a micro-batch that takes longer in a block. They wait for each other at every
operator: with two, MiniLM's blocks were 1.04 times as fast at 5 ms and took 1.38 times the
processor time; 1.21 at 12 ms, 1.30 at 24, 1.51 at 49 (then 1.06 times the processor time)."""

FINDING = 1.9
"""Finding candidates, over the product of all tokens with the part of the head that is searched:
the largest, and the sum of exponentials. Measured on SmolLM2, int8: 1.4 to 1.9 with the whole
head, 2.1 with a shortlist."""

SMALL_PRODUCTS = 2
"""Time of a loss over candidates, over that of its products, which are small."""

HANDLING = {
    "seconds_per_stage_run": 1e-4,
    "seconds_per_stage_token": 5e-7,
    "seconds_per_message": 2e-4,
    "seconds_per_byte": 1.6e-9,
    "seconds_per_encoded_byte": 1e-9,
    "seconds_per_stored_byte": 1.9e-9,
}
"""As ``--measure`` found them, see :class:`.HandlingProfile`."""


def core_speed() -> CoreSpeed:
    """Measures this device, for some milliseconds of one core's time."""
    matrix = np.ones((64, 64), np.float32)  # so small that it is not shared among threads
    values = np.ones(1 << 14, np.float32)
    product = _fastest(lambda: matrix @ matrix)
    multiplied = _fastest(lambda: np.multiply(values, values, out=values))
    return CoreSpeed(
        flops=2 * matrix.size * len(matrix) / product,
        slower=REFERENCE_VALUES_PER_SECOND * multiplied / values.size,
    )


def _fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs: what others do on the core does not count."""
    walls = []
    for _ in range(RUNS):
        began = time.perf_counter()
        run()
        walls.append(time.perf_counter() - began)
    return max(1e-9, min(walls))


def estimate_handling(speed: CoreSpeed) -> HandlingProfile:
    """Costs of data, a stage's own apart."""
    costs = {name: speed.slower * seconds for name, seconds in HANDLING.items()}
    return HandlingProfile(**costs)


def estimate_blocks(
    request: ProfileRequest,
    speed: CoreSpeed,
    *,
    kernel: str,
    threads: int,
    cores: float,
    reached: Mapping[str, float],
) -> dict[str, tuple[BlockTiming, ...]]:
    """Times of blocks by their FLOPs, at the mean length and at the longest usual one.

    Args:
        request: the blocks, and the shape of data.
        speed: of one core.
        kernel: of integer products on this device.
        threads: the most that a stage may use.
        cores: CPU quota in cores.
        reached: FLOPs a second that stages have reached with a thread before, by quantization.
    """
    quantized = request.quantization
    of_core = speed.flops * _EFFICIENCY.get((quantized, kernel), _EFFICIENCY[quantized, ""])
    products = reached.get(quantized, of_core * min(1.0, cores))
    stream = output_stream(request.tokens)
    lengths = sorted({request.tokens[stream], usual_tokens(request)[stream]})
    return {
        block_class: tuple(
            _estimated(request, flops, products, speed, length, min(threads, int(max(1, cores))))
            for length in lengths
        )
        for block_class, flops in request.flops_per_token.items()
    }


def _estimated(
    request: ProfileRequest,
    flops: int,
    flops_per_second: float,
    speed: CoreSpeed,
    length: int,
    threads: int,
) -> BlockTiming:
    """Adds attention, whose products are of float32 and grow with the length."""
    attention = ATTENTION_FLOPS * length * request.hidden_size
    seconds = max(flops, 1) / flops_per_second + attention / (FLOAT_EFFICIENCY * speed.flops)
    if seconds * request.batch * length < WORTH_THREADS_SECONDS:
        threads = 1
    return BlockTiming(
        batch_size=request.batch,
        sequence_length=length,
        seconds_per_token=seconds / pace_of(threads),
        seconds_per_run=speed.slower * BLOCK_RUN_SECONDS,
        threads=threads,
        source="estimated",
    )


def estimate_training(
    request: ProfileRequest, config: AdapterConfig, speed: CoreSpeed
) -> TrainerProfile:
    """Training or, with a trained adapter, answering.

    Times are of the mean sample, memory is that of the longest usual ones.
    """
    trains = request.adapter_graph is None
    parameters, cores = count_parameters(config), min(usable_cores(), TRAINING_THREADS)
    passes = 3 if trains else 1  # forward; backward to activations and to weights
    tokens = request.tokens[output_stream(request.tokens)]
    for_all, counted = parameters, max(1, min(tokens, request.counted_tokens))
    if trains and config.generative and config.reads_each_token_alone:
        for_all = count_recognizing(config)  # nobody asks for uncounted tokens' side states
    work = 2 * passes * (for_all * tokens + (parameters - for_all) * counted)
    products = (work + _head_flops(request, config, trains)) / speed.flops
    by_candidates = trains and config.generative and request.loss == "candidates"
    by_hand = trains and is_by_hand(config) and not config.pair
    way = "by hand" if by_hand else "autograd"
    searched = usually_searched(config.num_outputs)
    finding = FINDING * _products_flops(request, config, searched) / speed.flops
    return TrainerProfile(
        source="estimated",
        seconds_per_sample=(products + speed.slower * SECONDS_PER_FLOP[way] * work) / cores,
        seconds_per_new_sample=finding / cores if by_candidates else 0.0,
        seconds_per_step=speed.slower * STEP_SECONDS[way] / cores if trains else 0.0,
        memory_bytes=_memory_bytes(request, config, parameters, trains=trains),
        parameters=parameters if trains else 0,
        seconds_per_exchanged_value=speed.slower * EXCHANGED_SECONDS if trains else 0.0,
    )


def _head_flops(request: ProfileRequest, config: AdapterConfig, trains: bool) -> int:
    """Of a language model's frozen head, on each counted token: logits, and their gradient."""
    if not config.generative:
        return 0
    vocabulary = config.num_outputs
    if not trains or request.loss == "exact":
        return (2 if trains else 1) * _products_flops(request, config, vocabulary)
    tokens = request.tokens[output_stream(request.tokens)]
    context = max(0, tokens - request.counted_tokens) if config.copies else 0
    candidates = usual_candidates(request.counted_tokens, vocabulary, context)
    rows = 2 * candidates + 3 * SAMPLED_TOKENS
    return SMALL_PRODUCTS * _products_flops(request, config, rows)


def _products_flops(request: ProfileRequest, config: AdapterConfig, rows: int) -> int:
    """Of each counted token's product with so many rows of the head."""
    return 2 * config.hidden_size * rows * request.counted_tokens


def _memory_bytes(
    request: ProfileRequest, config: AdapterConfig, parameters: int, *, trains: bool
) -> int:
    held = training_bytes if trains else answering_bytes
    lengths: Mapping[Stream, int] = usual_tokens(request)
    widest = samples_at_once(config, lengths, EVALUATION_BATCH) * held(config, lengths)
    head = 0
    if config.generative:
        width = 1 if request.head_dtype == "int8" else 4
        head = width * config.hidden_size * config.num_outputs
    fixed = PYTORCH_BYTES if trains else ANSWERING_BYTES
    copy = FLOAT_BYTES * parameters
    saving = STATE_COPIES * copy if trains else 0
    at_once = max(widest, held(config, request.max_tokens), saving)
    return fixed + OPTIMIZER_COPIES * copy + at_once + head
