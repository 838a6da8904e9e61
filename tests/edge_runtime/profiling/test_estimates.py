"""What a device says of itself within tenths of a second."""

import dataclasses
import subprocess
import sys
from collections.abc import Mapping

import pytest

from edge_runtime.contract.activations import OPTIMIZER_COPIES, STATE_COPIES, count_parameters
from edge_runtime.contract.messages import ProfileRequest
from edge_runtime.contract.profile import BlockTiming, CoreSpeed
from edge_runtime.profiling import estimates
from edge_runtime.profiling.estimates import (
    core_speed,
    estimate_blocks,
    estimate_handling,
    estimate_training,
)
from tests.edge_runtime.parallel_adapters import language_samples, samples
from tests.edge_runtime.parallel_adapters.samples import config
from tests.edge_runtime.profiling.test_training import (
    CLASSES,
    COPYING,
    EVERY,
    LINES,
    REQUEST,
    TEXTS,
    TRANSFORMATIONS,
)

SPEED = CoreSpeed(flops=1e11, slower=1.0)
SLOW = CoreSpeed(flops=1e10, slower=4.0)
WIDE = dataclasses.replace(
    TEXTS,
    batch=16,
    tokens={"encoder": 50},
    max_tokens={"encoder": 200},
    flops_per_token={"layer": 10_000_000},
    quantization="int8",
)


def test_an_adapters_parameters_are_counted_without_pytorch() -> None:
    counted = count_parameters(CLASSES)
    assert counted == pytest.approx(samples.trainer().parameters, rel=0.25)
    pointer = language_samples.pointer(layers=tuple(range(7)))
    copying = language_samples.trainer(pointer)
    vectors = ("bias", "gate_bias", "gate.weight")
    matrices = {n: g for n, g in copying.named_gradients().items() if not n.endswith(vectors)}
    assert count_parameters(pointer) == sum(each.size for each in matrices.values())
    assert count_parameters(pointer) == pytest.approx(copying.parameters, rel=0.01)


def test_a_pointer_reads_uncounted_tokens_too() -> None:
    """Its side states are of counted tokens only, but any token may be copied."""
    few, all_ = (dataclasses.replace(LINES, counted_tokens=count) for count in (1, 6))
    short = dataclasses.replace(few, tokens={"decoder": 3})
    usual, more, less = (estimate_training(each, COPYING, SPEED) for each in (few, all_, short))
    assert less.seconds_per_sample < 0.7 * usual.seconds_per_sample
    assert usual.seconds_per_sample < more.seconds_per_sample
    alone = dataclasses.replace(COPYING, kind="mlp")
    of_few, of_short = (estimate_training(each, alone, SPEED) for each in (few, short))
    assert of_few.seconds_per_sample == of_short.seconds_per_sample


def test_a_context_to_copy_makes_a_step_dearer() -> None:
    wide = dataclasses.replace(COPYING, num_outputs=30_000, hidden_size=576)
    request = dataclasses.replace(LINES, loss="candidates", counted_tokens=10)
    short, long = (
        estimates._head_flops(dataclasses.replace(request, tokens={"decoder": each}), wide, True)
        for each in (10, 1010)
    )
    products = 2 * 576 * 10  # of each token with a row of the head
    assert long - short == estimates.SMALL_PRODUCTS * products * 2 * 350


@EVERY
def test_a_slow_core_takes_longer_for_everything(request_, adapter) -> None:
    fast, slow = (estimate_training(request_, adapter, speed) for speed in (SPEED, SLOW))
    assert slow.seconds_per_sample > 3 * fast.seconds_per_sample > 0
    assert slow.seconds_per_step > fast.seconds_per_step > 0
    assert slow.memory_bytes == fast.memory_bytes > 150e6
    handling, slower = estimate_handling(SPEED), estimate_handling(SLOW)
    for field in ("seconds_per_message", "seconds_per_byte", "seconds_per_stored_byte"):
        assert getattr(slower, field) == pytest.approx(4 * getattr(handling, field))


def test_a_loss_over_candidates_costs_a_fraction_and_something_once() -> None:
    wide = dataclasses.replace(TRANSFORMATIONS, num_outputs=150_000, hidden_size=576, reduction=8)
    exact, candidates = (
        estimate_training(dataclasses.replace(REQUEST, counted_tokens=100, loss=loss), wide, SPEED)
        for loss in ("exact", "candidates")
    )
    assert candidates.seconds_per_sample < exact.seconds_per_sample / 10
    assert exact.seconds_per_new_sample == 0
    assert 0 < candidates.seconds_per_new_sample < exact.seconds_per_sample / 10


def test_longer_samples_and_larger_heads_cost_more() -> None:
    longer = dataclasses.replace(TEXTS, tokens={"encoder": 9})
    usual, more = (estimate_training(each, CLASSES, SPEED) for each in (TEXTS, longer))
    assert more.seconds_per_sample > usual.seconds_per_sample
    wide = config(
        task="seq2seq", layers=(0, 1, 2, 3), encoder_layers=2, causal=True, num_outputs=30_000
    )
    small, large = (estimate_training(REQUEST, each, SPEED) for each in (TRANSFORMATIONS, wide))
    assert large.seconds_per_sample > small.seconds_per_sample
    assert large.memory_bytes > small.memory_bytes


def test_a_large_adapter_needs_room_for_its_state_as_it_is_written() -> None:
    small, large = (
        dataclasses.replace(CLASSES, hidden_size=4096, reduction=reduction) for reduction in (4, 2)
    )
    more = count_parameters(large) - count_parameters(small)
    less, memory = (estimate_training(TEXTS, each, SPEED).memory_bytes for each in (small, large))
    assert memory - less == 4 * (OPTIMIZER_COPIES + STATE_COPIES) * more


def blocks_of(
    request: ProfileRequest = WIDE,
    speed: CoreSpeed = SPEED,
    *,
    kernel: str = "fast",
    cores: float = 1.0,
    reached: Mapping[str, float] | None = None,
) -> tuple[BlockTiming, ...]:
    found = estimate_blocks(
        request, speed, kernel=kernel, threads=2, cores=cores, reached=reached or {}
    )
    assert all(timing.source == "estimated" for timing in found["layer"])
    return found["layer"]


def test_blocks_are_estimated_by_their_products_and_by_the_kernel_that_does_them() -> None:
    (mean, longest), (slow, _) = blocks_of(), blocks_of(speed=SLOW)
    assert mean.sequence_length < longest.sequence_length
    assert mean.seconds_per_token < longest.seconds_per_token  # attention
    assert slow.seconds_per_token == pytest.approx(10 * mean.seconds_per_token)
    exact = blocks_of(kernel="exact")[0].seconds_per_token
    paired = blocks_of(kernel="paired")[0].seconds_per_token
    assert exact > paired > mean.seconds_per_token


def test_a_part_of_a_core_takes_longer_and_a_second_one_helps_where_there_is_much_to_do() -> None:
    much = dataclasses.replace(WIDE, flops_per_token={"layer": 100_000_000})
    (whole, _), (half, _), (both, _) = (blocks_of(much, cores=cores) for cores in (1.0, 0.5, 2.0))
    assert half.seconds_per_token > 1.5 * whole.seconds_per_token
    assert (whole.threads, half.threads, both.threads) == (1, 1, 2)
    assert both.seconds_per_token < whole.seconds_per_token
    little = dataclasses.replace(WIDE, flops_per_token={"layer": 1000})
    assert blocks_of(little, cores=2.0)[0].threads == 1


def test_what_stages_have_reached_before_says_more_than_the_core() -> None:
    (mean, _), (told, _) = blocks_of(), blocks_of(reached={"int8": 1e10, "none": 1e14})
    assert told.seconds_per_token > 10 * mean.seconds_per_token


def test_the_core_is_measured() -> None:
    speed = core_speed()
    assert 1e8 < speed.flops < 1e13
    assert speed.slower > 0


def test_estimating_imports_no_pytorch() -> None:
    code = "import sys, edge_runtime.profiling.profiler; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
