"""Small adapters and batches for the tests of the engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from edge_runtime.contract.adapter import AdapterConfig, AdapterKind, TrainingOptions
from edge_runtime.contract.tensors import read_tensors, write_tensors
from edge_runtime.parallel_adapters import Batch, Trainer

HIDDEN_SIZE = 24
LAYERS = 3


def config(kind: AdapterKind = "attention", **changes: Any) -> AdapterConfig:
    base: dict[str, Any] = {
        "hidden_size": HIDDEN_SIZE,
        "reduction": 3,
        "num_heads": 2,
        "layers": tuple(range(LAYERS)),
        "task": "classification",
        "num_outputs": 3,
    }
    return AdapterConfig(kind=kind, **{**base, **changes})


def batch(size: int, seed: int = 0, *, regression: bool = False) -> Batch:
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 9, size)
    tokens = int(lengths.max(initial=0))
    hidden = random.normal(size=(LAYERS, size, tokens, HIDDEN_SIZE)).astype(np.float32)
    hidden *= np.arange(tokens)[:, None] < lengths[:, None, None]
    targets = (
        random.normal(size=size).astype(np.float32) if regression else random.integers(0, 3, size)
    )
    starts = np.minimum(random.integers(0, 4, size), lengths - 1)
    return Batch(hidden=hidden, lengths=lengths, second_starts=starts, targets=targets)


def rows(whole: Batch, index: slice, extra_padding: int = 0) -> Batch:
    """Some samples of a batch, padded no further than they need (plus ``extra_padding``)."""
    lengths = whole.lengths[index]
    tokens = int(lengths.max(initial=0))
    pad = ((0, 0), (0, 0), (0, extra_padding), (0, 0))
    return Batch(
        hidden=np.pad(whole.hidden[:, index, :tokens], pad),
        lengths=lengths,
        second_starts=whole.second_starts[index],
        targets=whole.targets[index],
    )


def moved(trainer: Trainer, scale: float = 0.1) -> Trainer:
    """Moves every parameter off its initial value, so that no gradient is zero by chance."""
    noise = (scale * np.random.default_rng(9).normal(size=trainer.parameters)).astype(np.float32)
    tensors = {n: t.copy() for n, t in read_tensors(trainer.state()).items()}
    current = tensors["optimizer.current_weights"]
    current += noise
    offset = 0
    for name, gradient in trainer.named_gradients().items():
        span = current[offset : offset + gradient.size]
        tensors[name] = span.reshape(gradient.shape)
        offset += gradient.size
    trainer.load_state(write_tensors(tensors))
    return trainer


def trainer(kind: AdapterKind = "attention", total_steps: int = 20, **changes: Any) -> Trainer:
    options = TrainingOptions(seed=3, learning_rate=1e-2)
    return Trainer(config(kind, **changes), options, total_steps)
