import math
import mmap
import resource
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_runtime.system import cgroups, usage
from edge_runtime.system.cgroups import MemoryLimit
from edge_runtime.system.usage import CpuClock


class Processor:
    """Processor clocks of this process and of its children, set by hand."""

    def __init__(self, monkeypatch) -> None:
        self.seconds = self.children_seconds = 0.0
        monkeypatch.setattr(time, "process_time", lambda: self.seconds)
        monkeypatch.setattr(usage.resource, "getrusage", self._of_children)

    def _of_children(self, who: int) -> SimpleNamespace:
        assert who == resource.RUSAGE_CHILDREN
        return SimpleNamespace(
            ru_utime=0.75 * self.children_seconds, ru_stime=0.25 * self.children_seconds
        )


def test_what_children_took_counts_too(monkeypatch):
    processor = Processor(monkeypatch)
    clock = CpuClock()
    clock.begin("profile")
    processor.seconds, processor.children_seconds = 1.0, 4.0
    clock.begin("fill")
    assert clock.seconds()["profile"] == 5.0


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
    before, size = usage.resident_bytes(), 64 << 20
    with mmap.mmap(-1, size) as block:  # given back for certain, other than an allocator's
        block.write(bytes(size))
        during = usage.resident_bytes()
        assert during - before > 0.9 * size
    assert usage.peak_resident_bytes() >= during - (1 << 20)
    assert usage.resident_bytes() < during


def test_usable_memory_is_what_the_process_has_and_what_is_free():
    meminfo = Path("/proc/meminfo").read_text().split()
    total = int(meminfo[meminfo.index("MemTotal:") + 1]) * 1024
    assert usage.resident_bytes() < usage.usable_memory_bytes() <= total


def test_what_others_hold_in_a_capped_group_is_not_usable(monkeypatch):
    def capped(held_bytes):
        limit = MemoryLimit(limit_bytes=200 << 20, held_bytes=held_bytes)
        monkeypatch.setattr(cgroups, "memory_limits", lambda: [limit])
        return usage.usable_memory_bytes()

    status = Path("/proc/self/status").read_text().split()
    own = int(status[status.index("RssAnon:") + 1]) * 1024
    assert capped(own) == pytest.approx(200 << 20, abs=8 << 20)
    assert capped(own + (150 << 20)) == pytest.approx(50 << 20, abs=8 << 20)
    assert capped(own + (500 << 20)) == 1


def test_free_storage_is_that_of_the_file_system(tmp_path):
    assert usage.free_storage_bytes(tmp_path) > 0


def test_at_least_one_processor_is_usable():
    assert usage.usable_threads() >= 1


def test_a_quota_allows_part_of_the_processors(monkeypatch):
    monkeypatch.setattr(cgroups, "quota_cores", lambda: 0.25)
    assert usage.usable_cores() == 0.25
    monkeypatch.setattr(cgroups, "quota_cores", lambda: math.inf)
    assert usage.usable_cores() == usage.usable_threads()
