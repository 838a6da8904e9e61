"""Trains epochs of classification from a filled cache, and says where their CPU-seconds go.

Example: python -m benchmarks.epoch --data ../shared/data/sst2/train.jsonl --bundle minilm-int8

A device's parts do the work in this process, with one thread of PyTorch: the cache on disk, the
batches that are read from it, gradients and updates. Each round trains the first epoch of a new
adapter twice: with batches read in turn, whose parts are counted, and with the next one read
ahead. Their losses and adapters are compared to the last bit. ``--cache`` keeps what was filled.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.one_device import Fill, arguments_of_data, micro_batches_of, own_all, prepared
from coordinator.api.inputs import Prepared
from edge_runtime.cache.keys import CacheKeys
from edge_runtime.cache.session_cache import SampleCache
from edge_runtime.contract.order import epoch_order
from edge_runtime.parallel_adapters import Trainer
from edge_runtime.system.allocator import tune_allocator
from edge_runtime.training.batch_reader import BatchReader
from edge_runtime.training.samples import OwnedSamples

IN_TURN, AHEAD = "in turn", "ahead"


def main() -> None:
    arguments = _arguments()
    tune_allocator()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        inputs = prepared(arguments, work)
        home = arguments.cache or work / "home"
        fill = Fill(inputs, 1, work, arguments.cache_dtype)
        cache = SampleCache(fill.request, home, CacheKeys(home))
        if not cache.held(inputs.tables["train"].samples.keys).all():
            seconds = fill.into(cache, micro_batches_of(inputs))
            print(json.dumps({"fill": seconds, "cache_bytes": cache.bytes_used}), flush=True)
        del fill
        owned = OwnedSamples(own_all(inputs), cache)
        ends = set()
        for way in (IN_TURN, AHEAD) * arguments.rounds:
            row, end = _epoch(inputs, owned, way)
            ends.add((row["loss"], end))
            print(json.dumps(row), flush=True)
        cache.close()
    if len(ends) > 1:
        print("losses or adapters are NOT EQUAL")
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    arguments_of_data(parser)
    parser.add_argument("--cache", type=Path, help="folder to keep the cache in")
    parser.add_argument("--cache-dtype", choices=("fp32", "fp16", "int8"), default="fp16")
    parser.add_argument("--rounds", type=int, default=2)
    return parser.parse_args()


def _epoch(inputs: Prepared, owned: OwnedSamples, way: str) -> tuple[dict[str, object], str]:
    """Trains an epoch; what it took, and a digest of where it ended."""
    options, total = inputs.options, owned.request.total
    trainer = Trainer(inputs.config, options, 10 * total // options.batch_size)
    steps = epoch_order(
        *(owned.request.ranks, owned.tokens),
        num_samples=total,
        batch_size=options.batch_size,
        seed=options.seed,
        epoch=1,
    )
    gradients = updates = loss = 0.0
    clock = time.process_time
    wall, began = time.perf_counter(), clock()
    with BatchReader(owned, steps, ahead=way == AHEAD) as reader:
        for number in range(len(steps)):
            count, write = 0, trainer.gradients
            for _, batch in reader.step(number):
                at = clock()
                loss += write(batch)
                write = trainer.add_gradients
                gradients += clock() - at
                count += batch.count
            at = clock()
            trainer.apply(trainer.flat_gradient, max(1, count))
            updates += clock() - at
    cpu = clock() - began
    row: dict[str, object] = {"batches": way, "cpu_seconds": round(cpu, 3)}
    if way == IN_TURN:
        parts = {"gradients": gradients, "updates": updates, "reading": cpu - gradients - updates}
        row |= {name: round(each, 3) for name, each in parts.items()}
    row |= {"wall_seconds": round(time.perf_counter() - wall, 3), "loss": loss}
    return row, hashlib.sha256(trainer.state()).hexdigest()


if __name__ == "__main__":
    main()
