"""Trains the side network and another version of it, and compares the cost.

Example, against autograd alone, as it was until b49f4b2:

    mkdir before && git archive b49f4b2 edge_runtime/parallel_adapters | tar x -C before
    python -m benchmarks.side_network --data ../shared/data \
        --against before/edge_runtime/parallel_adapters

CPU-seconds of one thread, in one process, in the order A B B A. States are random (what they
are does not change the cost); lengths are the data's, tokens being words times 1.2.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import edge_runtime.parallel_adapters as ours
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.parallel_adapters import Batch
from edge_runtime.serving.pieces import BATCH_BYTES
from edge_runtime.system.allocator import tune_allocator

RANDOM = np.random.default_rng(0)
STEP = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2 and gsm8k")
    parser.add_argument("--against", type=Path, required=True, help="folder of the other version")
    parser.add_argument("--rounds", type=int, default=1, help="of A B B A")
    parser.add_argument("--only", default="", help="beginning of a workload's name")
    arguments = parser.parse_args()
    tune_allocator()
    versions = {"now": ours, "other": _load(arguments.against)}
    for name, (config, head, steps) in _workloads(arguments.data).items():
        if not name.startswith(arguments.only):
            continue
        trainers = {
            each: package.Trainer(config, TrainingOptions(), 10_000, head=head)
            for each, package in versions.items()
        }
        seconds: dict[str, list[float]] = {each: [] for each in versions}
        for each in ("now", "other", "other", "now") * arguments.rounds:
            seconds[each].append(round(_seconds(trainers[each], steps), 2))
        ratio = round(sum(seconds["now"]) / sum(seconds["other"]), 3)
        print(json.dumps({"workload": name, **seconds, "ratio": ratio}), flush=True)


def _seconds(trainer: Any, steps: Iterable[list[Batch]]) -> float:
    """CPU-seconds of all steps, without the making of batches."""
    seconds = 0.0
    for pieces in steps:
        began = time.process_time()
        gradient = _summed_gradient(trainer, pieces)
        trainer.apply(gradient / np.float32(sum(piece.count for piece in pieces)))
        seconds += time.process_time() - began
    return seconds


def _summed_gradient(trainer: Any, pieces: list[Batch]) -> Any:
    """Sums the pieces of a step as :mod:`edge_runtime.training.role` does."""
    total = np.zeros_like(trainer.flat_gradient)
    if not hasattr(trainer, "add_gradients"):
        for piece in pieces:
            trainer.gradients(piece)
            total += trainer.flat_gradient
        return total
    trainer.flat_gradient.fill(0)
    for piece in pieces:
        trainer.add_gradients(piece)
    return trainer.flat_gradient


def _load(folder: Path) -> Any:
    """The package in ``folder`` under another name."""
    places = [str(folder)]
    spec = importlib.util.spec_from_file_location(
        "other_version", folder / "__init__.py", submodule_search_locations=places
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["other_version"] = module
    spec.loader.exec_module(module)
    return module


def _workloads(data: Path) -> dict[str, tuple[AdapterConfig, FrozenHead | None, Any]]:
    minilm = _config(384, 7)
    t5 = _config(768, 13)
    smollm = _config(576, 31, task="causal-lm", causal=True, num_outputs=49152)
    weight = RANDOM.integers(-127, 128, (49152, 576)).astype(np.int8)
    head = FrozenHead(weight=weight, row_scale=np.full((49152, 1), 1e-3, np.float32))
    sst2 = [(0, tokens + 2) for (tokens,) in _tokens(data / "sst2/train.jsonl", 6000, "text")]
    gsm8k = [(p, c) for p, c in _tokens(data / "gsm8k/train.jsonl", 96, "prompt", "completion")]
    return {
        "MiniLM, SST-2, an epoch of 6,000": (minilm, None, _Steps(minilm, sst2)),
        "T5-Base's encoder, 10 steps of 16 x 128": (t5, None, _Steps(t5, [(0, 128)] * 160)),
        "SmolLM2-135M, gsm8k, 96 lines": (smollm, head, _Steps(smollm, gsm8k)),
    }


def _config(hidden_size: int, layers: int, **changes: Any) -> AdapterConfig:
    return AdapterConfig(
        hidden_size=hidden_size,
        layers=tuple(range(layers)),
        **{"task": "classification", "num_outputs": 2, **changes},
    )


def _tokens(path: Path, lines: int, *fields: str) -> Iterator[tuple[int, ...]]:
    with path.open() as file:
        for line, _ in zip(file, range(lines), strict=False):
            texts = json.loads(line)
            yield tuple(int(1.2 * len(re.findall(r"\w+|[^\w\s]", texts[f]))) for f in fields)


class _Steps:
    """Steps of 16 samples as a trainer gets them, each a list of pieces."""

    def __init__(self, config: AdapterConfig, samples: list[tuple[int, int]]) -> None:
        self._config, self._samples = config, samples
        self._pool = RANDOM.standard_normal(BATCH_BYTES // 2, np.float32)

    def __iter__(self) -> Iterator[list[Batch]]:
        for first in range(0, len(self._samples), STEP):
            yield [self._batch(piece) for piece in self._pieces(self._samples[first:][:STEP])]

    def _pieces(self, samples: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        """As :meth:`edge_runtime.training.samples.OwnedSamples.pieces`."""
        channels = len(self._config.layers) * self._config.hidden_size * 4
        if len(samples) < 2 or len(samples) * max(map(sum, samples)) * channels <= BATCH_BYTES:
            return [samples]
        ordered = sorted(samples, key=sum)
        half = len(samples) // 2
        return [*self._pieces(ordered[:half]), *self._pieces(ordered[half:])]

    def _batch(self, samples: list[tuple[int, int]]) -> Batch:
        lengths = np.array([prompt + answer for prompt, answer in samples])
        layers, tokens, d = len(self._config.layers), int(lengths.max()), self._config.hidden_size
        shape = (layers, len(samples), tokens, d)
        targets, ids = RANDOM.integers(0, 2, len(samples)), None
        if self._config.generative:
            targets = np.full((len(samples), tokens), -1)
            for row, (prompt, answer) in zip(targets, samples, strict=True):
                row[prompt - 1 : prompt + answer - 1] = RANDOM.integers(0, 49152, answer)
        if self._config.copies:
            ids = RANDOM.integers(0, 49152, (len(samples), tokens))
        return Batch(
            hidden=np.resize(self._pool, shape),
            lengths=lengths,
            second_starts=np.zeros(len(samples), np.int64),
            targets=targets,
            tokens=ids,
        )


if __name__ == "__main__":
    main()
