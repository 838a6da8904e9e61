"""The parts of a device in this process, for benchmarks of the fill and of epochs."""

from __future__ import annotations

import argparse
import hashlib
import itertools
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
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.serving.resident_model import HERE
from edge_runtime.serving.whole_stage import Nobody, copy_files

SIZE = 32
Batches = Sequence[m.Array]
Digests = dict[tuple[bytes, int], bytes]


def arguments_of_data(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say what is computed with what."""
    parser.add_argument("--data", type=Path, required=True, help="JSONL to train on")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=6000, help="of the data, from its beginning")


def prepared(arguments: argparse.Namespace, folder: Path) -> Prepared:
    """Reads the data's first lines, by a copy of them in ``folder``."""
    data = folder / "train.jsonl"
    with arguments.data.open(encoding="utf-8") as lines:
        data.write_text("".join(itertools.islice(lines, arguments.lines)), encoding="utf-8")
    choice, options = AdapterChoice(), TrainingOptions()
    return prepare(arguments.bundle, data, None, None, choice, options, None)


def micro_batches_of(prepared: Prepared, size: int = SIZE) -> Batches:
    """Cuts the distinct lines as the fill does; each micro-batch is an array of lines."""
    lines, manifest = visited(prepared), prepared.bundle.manifest
    places = micro_batches(prepared.tables, manifest, size, "train", lines)
    return [lines[each] for each in places]


def visited(prepared: Prepared) -> m.Array:
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


def own_all(prepared: Prepared) -> m.OwnSamples:
    """All samples are this device's."""
    table = prepared.tables["train"]
    samples = table.samples
    assert isinstance(table.targets, np.ndarray)  # one a sample
    return m.OwnSamples(
        which="train",
        total=len(table),
        indices=np.arange(len(table), dtype=np.int32),
        keys=samples.keys,
        ranks=table.ranks,
        lengths={name: each.astype(np.int32) for name, each in samples.lengths_of.items()},
        second_starts=samples.second_starts.astype(np.int32),
        targets=table.targets,
    )
