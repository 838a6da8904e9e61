"""What a device says of itself within tenths of a second."""

import dataclasses
import subprocess
import sys

import pytest

from edge_runtime.profiling.estimates import (
    CoreSpeed,
    core_speed,
    count_parameters,
    estimate_handling,
    estimate_training,
)
from tests.edge_runtime.parallel_adapters import samples
from tests.edge_runtime.parallel_adapters.samples import config
from tests.edge_runtime.profiling.test_training import CLASSES, REQUEST, TEXTS, TRANSFORMATIONS

SPEED = CoreSpeed(flops=1e11, slower=1.0)
SLOW = CoreSpeed(flops=1e10, slower=4.0)


def test_an_adapters_parameters_are_counted_without_pytorch() -> None:
    counted = count_parameters(CLASSES)
    assert counted == pytest.approx(samples.trainer().parameters, rel=0.25)


@pytest.mark.parametrize(
    ("request_", "adapter"), [(TEXTS, CLASSES), (REQUEST, TRANSFORMATIONS)], ids=["text", "seq2seq"]
)
def test_a_slow_core_takes_longer_for_everything(request_, adapter) -> None:
    fast, slow = (estimate_training(request_, adapter, speed) for speed in (SPEED, SLOW))
    assert slow.seconds_per_sample > 3 * fast.seconds_per_sample > 0
    assert slow.seconds_per_step > fast.seconds_per_step > 0
    assert slow.memory_bytes == fast.memory_bytes > 150e6
    handling, slower = estimate_handling(SPEED), estimate_handling(SLOW)
    for field in ("seconds_per_message", "seconds_per_byte", "seconds_per_stored_byte"):
        assert getattr(slower, field) == pytest.approx(4 * getattr(handling, field))


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


def test_the_core_is_measured() -> None:
    speed = core_speed()
    assert 1e8 < speed.flops < 1e13
    assert speed.slower > 0


def test_estimating_imports_no_pytorch() -> None:
    code = "import sys, edge_runtime.profiling.profiler; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
