"""Times work that can be repeated, after a warm-up: its wall time in the long run.

A quota gives a process some processor time in each period and stops it for the rest. Runs
that fit in what is left of a period are faster than that, runs that do not are slower; in
the long run, work takes its processor seconds / quota, and never less than a run that
nothing has stopped. Other processes stop a run too, but use no processor seconds of this
one. So both are measured: the processor's seconds, and the fastest run, which includes the
waiting that belongs to the work, of threads for each other for instance.

Repeated on its own, work finds its weights in the processor's cache. In a session other
blocks, samples and threads use the cache in between, so it is overwritten before every
timed run.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np


def _chosen_seconds(usual: float) -> float:
    """``$PACPLUS_MEASURE_SECONDS``, if that is a time."""
    try:
        chosen = float(os.environ["PACPLUS_MEASURE_SECONDS"])
    except (KeyError, ValueError):
        return usual
    return chosen if 0 < chosen < math.inf else usual


MEASURE_SECONDS = _chosen_seconds(1.0)
"""Wall seconds of each thing that is timed. Processors that others share change their pace
from one second to the next, so less starts sooner and predicts worse."""
MAX_RUNS = 400

ENOUGH_RUNS = 12
MOST_SECONDS = 3 * MEASURE_SECONDS
"""A device with a small quota gets on longer, up to this, until its median means something."""

CACHE_BYTES = 8 << 20
"""More than the caches that a core has to itself: at most 2 MB on today's processors."""


def seconds_per_run(run: Callable[[], object], cores: float) -> float:
    """Wall seconds of ``run`` when it is repeated for long; arguments as for :func:`compare`."""
    return compare((run,), cores)[0]


def compare(runs: Sequence[Callable[[], object]], cores: float) -> list[float]:
    """Wall seconds of each of ``runs`` when it is repeated for long.

    They take turns, so that other load of the machine slows all of them equally.

    Args:
        runs: the work to repeat.
        cores: that they can use at most: one for each thread, within the CPU quota.
    """
    walls: list[list[float]] = [[] for _ in runs]
    processor: list[list[float]] = [[] for _ in runs]
    others = np.ones(CACHE_BYTES // 4, np.float32)
    for run in runs:
        run()
    began = time.perf_counter()
    for count in range(1, MAX_RUNS + 1):
        for i, run in enumerate(runs):
            np.negative(others, out=others)
            started, processor_started = time.perf_counter(), time.process_time()
            run()
            processor[i].append(time.process_time() - processor_started)
            walls[i].append(time.perf_counter() - started)
        elapsed = (time.perf_counter() - began) / len(runs)
        if elapsed >= MEASURE_SECONDS and (count >= ENOUGH_RUNS or elapsed >= MOST_SECONDS):
            break
    return [
        max(min(wall), statistics.median(busy) / cores)
        for wall, busy in zip(walls, processor, strict=True)
    ]


def processor_seconds_per_run(
    run: Callable[[], object], *, at_least_seconds: float, most_runs: int = MAX_RUNS
) -> float:
    """Processor seconds of ``run``, all threads of this process together.

    Args:
        run: the work to repeat.
        at_least_seconds: of the processor's time to measure for.
        most_runs: the measurement ends after so many, however short they are.
    """
    run()
    began, busy, runs = time.process_time(), 0.0, 0
    while busy < at_least_seconds and runs < most_runs:
        run()
        runs += 1
        busy = time.process_time() - began
    return busy / runs
