"""Computes as fast as it may, and says how fast that was: the emulation checks itself with it.

Run as a script: ``probe.py WINDOWS WINDOW_SECONDS THREADS``. Prints JSON: ``blocks_per_second``
of the best window and ``cpu_seconds_per_block``. A *block* here is the two matrix products of
a small transformer layer's feed-forward on 64 tokens.
"""

import json
import os
import sys
import threading
import time

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main(windows: int, window_seconds: float, threads: int) -> None:
    """Measures; everything else on the machine can only make a window slower, so the best counts.

    Args:
        windows: how many.
        window_seconds: each takes; many periods of a quota.
        threads: that compute at the same time, each blocks of its own.
    """
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))  # numpy reads them when it is loaded
    import numpy as np

    generator = np.random.default_rng(0)
    tokens, up, down = (
        generator.standard_normal(shape).astype(np.float32)
        for shape in ((64, 384), (384, 1536), (1536, 384))
    )
    done = [0] * threads
    over = threading.Event()

    def compute(number: int) -> None:
        while not over.is_set():
            (tokens @ up) @ down
            done[number] += 1

    workers = [threading.Thread(target=compute, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    began, cpu, best = sum(done), time.process_time(), 0.0
    for _ in range(windows):
        wall, before = time.perf_counter(), sum(done)
        over.wait(window_seconds)
        best = max(best, (sum(done) - before) / (time.perf_counter() - wall))
    blocks, seconds = sum(done) - began, time.process_time() - cpu
    over.set()
    for worker in workers:
        worker.join()
    result = {"blocks_per_second": best, "cpu_seconds_per_block": seconds / max(1, blocks)}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
