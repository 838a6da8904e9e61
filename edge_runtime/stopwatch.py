"""Wall time of something that can be repeated, after a warm-up.

Wall time over a stretch long enough to span a quota's throttling, since that is what the
planner's sums are made of.
"""

from __future__ import annotations

import time
from collections.abc import Callable

MEASURE_SECONDS = 0.25
MAX_RUNS = 50


def seconds_per_run(run: Callable[[], object]) -> float:
    """Mean seconds of ``run``."""
    run()
    runs, began = 0, time.perf_counter()
    while True:
        run()
        runs += 1
        elapsed = time.perf_counter() - began
        if elapsed >= MEASURE_SECONDS or runs >= MAX_RUNS:
            return elapsed / runs
