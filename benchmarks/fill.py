"""Computes and caches the hidden states of SST-2, with micro-batches as cut now and as before.

Example: python -m benchmarks.fill --data ../shared/data/sst2/train.jsonl --bundle minilm-int8

Now they have a budget of tokens, and alike lengths are together; before, 32 samples were one as the
first epoch visits them, which is two of its batches. A device's parts do the work in this process:
the stage of all blocks, and an empty cache for each fill. What is counted are CPU-seconds of a fill
alone; both ways take turns (A B B A). First of all each way's states are computed once as float32,
uncounted, and compared to the last bit.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.one_device import (
    SIZE,
    Batches,
    Fill,
    arguments_of_data,
    micro_batches_of,
    prepared,
    visited,
)
from coordinator.api.inputs import Prepared
from edge_runtime.inference.session import numerics
from edge_runtime.system.allocator import tune_allocator
from edge_runtime.system.usage import usable_threads

NOW, BEFORE = "token budget", "fixed count"


def main() -> None:
    arguments = _arguments()
    tune_allocator()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        inputs = prepared(arguments, work)
        ways = _ways(inputs, arguments.size)
        fill = Fill(inputs, arguments.threads, work, "fp16")
        equal = _same_states(fill, ways)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for way in (NOW, BEFORE, BEFORE, NOW) * arguments.rounds:
            seconds[way].append(fill.cpu_seconds(ways[way]))
            print(json.dumps({"cut": way, "cpu_seconds": seconds[way][-1]}), flush=True)
    _print_table(inputs, ways, seconds)
    print(f"\n{inputs.bundle.manifest.quantization} weights, {numerics()}: states are", end=" ")
    print("equal to the last bit" if equal else "NOT EQUAL")
    if not equal:
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    arguments_of_data(parser)
    parser.add_argument("--size", type=int, default=SIZE, help="mean samples of a micro-batch")
    parser.add_argument("--threads", type=int, default=usable_threads())
    parser.add_argument("--rounds", type=int, default=1, help="of A B B A")
    return parser.parse_args()


def _ways(inputs: Prepared, size: int) -> dict[str, Batches]:
    """Cuts the distinct lines into micro-batches in both ways; each is an array of lines."""
    lines = visited(inputs)
    return {
        NOW: micro_batches_of(inputs, size),
        BEFORE: np.split(lines, range(size, len(lines), size)),
    }


def _same_states(fill: Fill, ways: dict[str, Batches]) -> bool:
    now, before = fill.digests(ways[NOW]), fill.digests(ways[BEFORE])
    differ = [key for key in now.keys() | before.keys() if now.get(key) != before.get(key)]
    if differ:
        layers = sorted({layer for _, layer in differ})
        print(f"{len(differ)} of {len(now)} states differ, of layers {layers}")
    return not differ


def _print_table(
    inputs: Prepared, ways: dict[str, Batches], seconds: dict[str, list[float]]
) -> None:
    tokens = inputs.tables["train"].samples.lengths
    print("\n| micro-batches | count | padded tokens a token | CPU-s of a fill | mean |")
    print("|---|---|---|---|---|")
    for way, batches in ways.items():
        padded = sum(len(lines) * int(tokens[lines].max()) for lines in batches)
        padding = padded / int(tokens[np.concatenate(batches)].sum())
        taken = ", ".join(f"{each:.2f}" for each in seconds[way])
        mean = sum(seconds[way]) / len(seconds[way])
        print(f"| {way} | {len(batches)} | {padding:.2f} | {taken} | {mean:.2f} |")
    ratio = sum(seconds[NOW]) / sum(seconds[BEFORE])
    print(f"\nCPU-seconds now against before: {ratio:.3f} ({100 * (ratio - 1):+.1f} %)")


if __name__ == "__main__":
    main()
