import time
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import usage
from edge_runtime.usage import CpuClock


class Processor:
    """A processor clock that is set by hand."""

    def __init__(self, monkeypatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(time, "process_time", lambda: self.seconds)


def test_processor_time_is_split_by_phase_and_counts_the_start_from_zero(monkeypatch):
    processor = Processor(monkeypatch)
    processor.seconds = 1.5
    clock = CpuClock()
    assert clock.seconds() == {}
    assert clock.begin("profile") == "start"
    processor.seconds = 2.0
    assert clock.begin("fill") == "profile"
    assert clock.seconds() == {"start": 1.5, "profile": 0.5}


def test_a_phase_that_comes_again_adds_up(monkeypatch):
    processor = Processor(monkeypatch)
    clock = CpuClock()
    for phase in ("train", "eval", "train", "train", "eval"):
        clock.begin(phase)
        processor.seconds += 1.0
    assert clock.seconds() == {"start": 0.0, "train": 3.0, "eval": 1.0}


def test_the_sum_of_the_phases_is_the_time_of_the_process(monkeypatch):
    processor = Processor(monkeypatch)
    clock = CpuClock()
    for i, phase in enumerate(("profile", "fill", "eval", "train")):
        processor.seconds += 0.25 * i
        clock.begin(phase)
    assert sum(clock.seconds().values()) == pytest.approx(processor.seconds)


def test_resident_memory_grows_with_what_is_touched_and_its_peak_stays():
    before = usage.resident_bytes()
    block = np.ones(8 << 20, np.float64)  # 64 MB
    during = usage.resident_bytes()
    assert during - before > 0.9 * block.nbytes
    del block
    assert usage.peak_resident_bytes() >= during - (1 << 20)
    assert usage.resident_bytes() < during


def test_the_limit_is_no_more_than_the_machine_has():
    meminfo = Path("/proc/meminfo").read_text().split()
    total = int(meminfo[meminfo.index("MemTotal:") + 1]) * 1024
    assert 0 < usage.memory_limit_bytes() <= 1.01 * total


def test_free_storage_is_that_of_the_file_system(tmp_path):
    assert usage.free_storage_bytes(tmp_path) > 0


@pytest.mark.parametrize(
    ("text", "limits"), [("123\n", [123]), ("max\n", []), ("", []), (None, [])]
)
def test_a_control_groups_limit_may_be_absent(tmp_path, text, limits):
    path = tmp_path / "memory.max"
    if text is not None:
        path.write_text(text)
    assert usage._read_limit(path) == limits


def test_at_least_one_processor_is_usable():
    assert usage.usable_threads() >= 1
