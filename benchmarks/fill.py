"""Computes and caches the hidden states of SST-2, with micro-batches as cut now and as before.

Example: python benchmarks/fill.py --data ../shared/data/sst2/train.jsonl --bundle minilm-int8

Now they have a budget of tokens, and alike lengths are together; before, 32 samples were one as the
first epoch visits them, which is two of its batches. A device's parts do the work in this process:
the stage of all blocks, and an empty cache for each fill. What is counted are CPU-seconds of a fill
alone; both ways take turns (A B B A). First of all each way's states are computed once as float32,
uncounted, and compared to the last bit.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coordinator.api.adapter_config import AdapterChoice
from coordinator.api.inputs import Prepared, prepare
from coordinator.cluster.stage_files import StageCutter
from coordinator.planner.problem.build import micro_batches
from coordinator.samples.samples import Catalogue
from edge_runtime.backbone.role import BackboneRole
from edge_runtime.cache.keys import CacheKeys
from edge_runtime.cache.session_cache import SampleCache
from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.manifest import Stream
from edge_runtime.contract.order import epoch_order
from edge_runtime.inference.session import numerics
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.serving.resident_model import HERE
from edge_runtime.serving.whole_stage import Nobody, copy_files
from edge_runtime.system.allocator import tune_allocator
from edge_runtime.system.usage import usable_threads

NOW, BEFORE = "token budget", "fixed count"
SIZE = 32
Batches = Sequence[m.Array]
Digests = dict[tuple[bytes, int], bytes]


def main() -> None:
    arguments = _arguments()
    tune_allocator()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = first_lines(arguments.data, work / "train.jsonl", arguments.lines)
        options = TrainingOptions()
        prepared = prepare(arguments.bundle, data, None, None, AdapterChoice(), options, None)
        ways = _ways(prepared, arguments.size)
        fill = Fill(prepared, arguments.threads, work, "fp16")
        equal = _same_states(fill, ways)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for way in (NOW, BEFORE, BEFORE, NOW) * arguments.rounds:
            seconds[way].append(fill.cpu_seconds(ways[way]))
            print(json.dumps({"cut": way, "cpu_seconds": seconds[way][-1]}), flush=True)
    _print_table(prepared, ways, seconds)
    print(f"\n{prepared.bundle.manifest.quantization} weights, {numerics()}: states are", end=" ")
    print("equal to the last bit" if equal else "NOT EQUAL")
    if not equal:
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="JSONL to train on")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=6000, help="of the data, from its beginning")
    parser.add_argument("--size", type=int, default=SIZE, help="mean samples of a micro-batch")
    parser.add_argument("--threads", type=int, default=usable_threads())
    parser.add_argument("--rounds", type=int, default=1, help="of A B B A")
    return parser.parse_args()


def first_lines(source: Path, target: Path, count: int) -> Path:
    with source.open(encoding="utf-8") as lines:
        target.write_text("".join(itertools.islice(lines, count)), encoding="utf-8")
    return target


def _ways(prepared: Prepared, size: int) -> dict[str, Batches]:
    """Cuts the distinct lines into micro-batches in both ways; each is an array of lines."""
    lines = _visited(prepared)
    return {
        NOW: micro_batches_of(prepared, size),
        BEFORE: np.split(lines, range(size, len(lines), size)),
    }


def micro_batches_of(prepared: Prepared, size: int = SIZE) -> Batches:
    """Cuts the distinct lines as the fill does; each micro-batch is an array of lines."""
    lines, manifest = _visited(prepared), prepared.bundle.manifest
    places = micro_batches(prepared.tables, manifest, size, "train", lines)
    return [lines[each] for each in places]


def _visited(prepared: Prepared) -> m.Array:
    """The distinct lines as the first epoch visits them."""
    tables, options = prepared.tables, prepared.options
    table, distinct = tables["train"], Catalogue.make(tables).distinct["train"]
    steps = epoch_order(
        *(table.ranks, table.samples.lengths),
        num_samples=len(table),
        batch_size=options.batch_size,
        seed=options.seed,
        epoch=1,
    )
    visited = np.concatenate(steps)
    _, firsts = np.unique(distinct[visited], return_index=True)
    return visited[np.sort(firsts)]


class Fill:
    """All blocks as the one stage of this machine."""

    def __init__(self, prepared: Prepared, threads: int, folder: Path, dtype: m.CacheDtype) -> None:
        """Loads the stage; weights and caches lie in ``folder``."""
        self._prepared, self._folder, self._dtype = prepared, folder, dtype
        self._samples = prepared.tables["train"].samples
        self._keep: Callable[[m.States], Any] = lambda _: None
        self._backbone = BackboneRole(
            me=HERE, threads=threads, outbox=Nobody(), keep=lambda states: self._keep(states)
        )
        manifest, store = prepared.bundle.manifest, WeightStore(folder / "weights")
        layers = prepared.config.layers
        stage = StageCutter(prepared.bundle).load_stage(
            *(0, len(manifest.blocks)), layers=layers, dtype=dtype
        )
        copy_files(stage, prepared.bundle.path, store)
        self._backbone.load(stage, store)

    def cpu_seconds(self, batches: Batches) -> float:
        """Fills an empty cache, and says what that took."""
        with tempfile.TemporaryDirectory(dir=self._folder) as home:
            cache = SampleCache(self.request, Path(home), CacheKeys(Path(home)))
            seconds = self.into(cache, batches)
            cache.close()
            return seconds

    def into(self, cache: SampleCache, batches: Batches) -> float:
        """Fills a cache with what it lacks, makes it durable, and says what that took."""
        self._keep = cache.append
        self._backbone.send_as(self._dtype)
        began = time.process_time()
        self._run(batches)
        cache.flush()
        return round(time.process_time() - began, 3)

    def digests(self, batches: Batches) -> Digests:
        """Digests the exact states of every sample in every layer."""
        found: Digests = {}

        def keep(states: m.States) -> None:
            ends = np.cumsum(states.lengths)
            for layer, rows in zip(states.layers, states.encoded, strict=True):
                for key, each in zip(states.keys, np.split(rows, ends[:-1]), strict=True):
                    found[key.tobytes(), layer] = hashlib.blake2b(each.tobytes()).digest()

        self._keep = keep
        self._backbone.send_as("fp32")
        self._run(batches)
        return found

    def _run(self, batches: Batches) -> None:
        for number, lines in enumerate(batches):
            part = self._samples.take(lines)
            here = m.Destination(device=HERE, positions=np.arange(len(lines), dtype=np.int32))
            batch = m.MicroBatch(
                number=number,
                route=(HERE,),
                keys=part.keys,
                lengths={name: each.astype(np.int32) for name, each in part.lengths_of.items()},
                destinations=(here,),
            )
            self._backbone.run(batch, 0, {name: each.values for name, each in part.inputs.items()})

    @property
    def request(self) -> m.OpenCache:
        """Names the cache of these states."""
        manifest, layers = self._prepared.bundle.manifest, self._prepared.config.layers
        asked: dict[Stream, tuple[int, ...]] = {
            stream: tuple(layer for layer in layers if manifest.blocks[layer].stream == stream)
            for stream in manifest.streams
        }
        return m.OpenCache(
            backbone_digest=manifest.backbone_digest,
            dtype=self._dtype,
            hidden_size=manifest.hidden_size,
            layers=asked,
            keys=self._samples.keys,
        )


def _same_states(fill: Fill, ways: dict[str, Batches]) -> bool:
    now, before = fill.digests(ways[NOW]), fill.digests(ways[BEFORE])
    differ = [key for key in now.keys() | before.keys() if now.get(key) != before.get(key)]
    if differ:
        layers = sorted({layer for _, layer in differ})
        print(f"{len(differ)} of {len(now)} states differ, of layers {layers}")
    return not differ


def _print_table(
    prepared: Prepared, ways: dict[str, Batches], seconds: dict[str, list[float]]
) -> None:
    tokens = prepared.tables["train"].samples.lengths
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
