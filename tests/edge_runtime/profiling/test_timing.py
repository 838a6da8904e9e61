"""What the stopwatch makes of clocks that are set by hand."""

import itertools
import time

import pytest

from edge_runtime.profiling import timing as stopwatch


class Clocks:
    """Wall and processor time; a run moves them on."""

    def __init__(self, monkeypatch):
        self.wall = self.processor = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.wall)
        monkeypatch.setattr(time, "process_time", lambda: self.processor)

    def run(self, walls, processor):
        walls = itertools.cycle(walls)

        def run():
            self.wall += next(walls)
            self.processor += processor

        return run


@pytest.fixture
def clocks(monkeypatch):
    return Clocks(monkeypatch)


def test_runs_inside_a_quotas_burst_are_not_taken_for_its_long_run(clocks):
    run = clocks.run([0.002], 0.002)
    assert stopwatch.seconds_per_run(run, cores=0.25) == pytest.approx(0.008)
    assert stopwatch.seconds_per_run(run, cores=2.0) == pytest.approx(0.002)


def test_a_pause_in_some_runs_counts_no_more_than_a_quota_says(clocks):
    run = clocks.run([0.002, 0.002, 0.017], 0.002)
    assert stopwatch.seconds_per_run(run, cores=0.5) == pytest.approx(0.004)


def test_other_processes_that_stop_a_run_do_not_count(clocks):
    run = clocks.run([0.009, 0.003, 0.02, 0.012], 0.003)
    assert stopwatch.seconds_per_run(run, cores=1.0) == pytest.approx(0.003)


def test_work_that_waits_is_as_slow_as_it_is(clocks):
    assert stopwatch.seconds_per_run(clocks.run([0.05], 0.001), 1.0) == pytest.approx(0.05)


def test_two_threads_use_up_a_quota_twice_as_fast(clocks):
    assert stopwatch.seconds_per_run(clocks.run([0.003], 0.006), 1.5) == pytest.approx(0.004)


def test_runs_that_take_turns_are_told_apart(clocks):
    runs = clocks.run([0.001], 0.001), clocks.run([0.01], 0.004)
    assert stopwatch.compare(runs, 1.0) == pytest.approx([0.001, 0.01])


def test_a_measurement_ends_whether_runs_are_slow_or_for_nothing(clocks):
    assert stopwatch.seconds_per_run(clocks.run([40.0], 1.0), 1.0) == pytest.approx(40)
    assert clocks.wall <= 80
    assert stopwatch.seconds_per_run(clocks.run([0.0], 0.0), 1.0) == 0


def test_processor_time_leaves_waiting_out(clocks):
    run = clocks.run([1.0], 0.01)
    assert stopwatch.processor_seconds_per_run(run, at_least_seconds=0.1) == pytest.approx(0.01)
