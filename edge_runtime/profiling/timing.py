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

import dataclasses
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What measuring may cost.

    Attributes:
        seconds: wall seconds of each thing that is timed.
        enough_runs: a device with a small quota gets on longer, up to three times as long, until
            it has so many and their median means something.
        longest_seconds: bound on one timed run: a slow device is given smaller micro-batches.
        handling_seconds: processor seconds to time each cost of handling data for.
    """

    seconds: float
    enough_runs: int
    longest_seconds: float
    handling_seconds: float


THOROUGH = Effort(
    seconds=MEASURE_SECONDS, enough_runs=12, longest_seconds=0.5, handling_seconds=0.03
)
SHAPES = 3
"""At which a block is timed."""


def within(budget_seconds: float, blocks: int) -> Effort:
    """What may be spent on each thing if all blocks are to take so long together.

    A block and a pair of it take turns at each shape.
    """
    return Effort(
        seconds=budget_seconds / (2 * SHAPES * max(1, blocks)),
        enough_runs=3,
        longest_seconds=0.05,
        handling_seconds=0.003,
    )


CACHE_BYTES = 8 << 20
"""More than the caches that a core has to itself: at most 2 MB on today's processors."""


def seconds_per_run(run: Callable[[], object], cores: float, effort: Effort = THOROUGH) -> float:
    """Wall seconds of ``run`` when it is repeated for long; arguments as for :func:`compare`."""
    return compare((run,), cores, effort)[0]


def compare(
    runs: Sequence[Callable[[], object]], cores: float, effort: Effort = THOROUGH
) -> list[float]:
    """Wall seconds of each of ``runs`` when it is repeated for long.

    They take turns, so that other load of the machine slows all of them equally.

    Args:
        runs: the work to repeat.
        cores: that they can use at most: one for each thread, within the CPU quota.
        effort: how long it may take.
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
        enough = count >= effort.enough_runs or elapsed >= 3 * effort.seconds
        if elapsed >= effort.seconds and enough:
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
