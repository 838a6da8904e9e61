"""Small language-model adapters, heads and batches for the tests of the engine."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.parallel_adapters import Batch, Trainer
from tests.edge_runtime.parallel_adapters import samples

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edge_runtime.contract.adapter import AdapterConfig, AdapterKind

VOCABULARY = 50
ENCODER_LAYERS = 4


def config(kind: AdapterKind = "attention", **changes: Any) -> AdapterConfig:
    """Of a decoder; an encoder-decoder's has ``encoder_layers``."""
    base: dict[str, Any] = {"task": "causal-lm", "num_outputs": VOCABULARY, "causal": True}
    return samples.config(kind, **{**base, **changes})


def seq2seq(kind: AdapterKind = "attention", **changes: Any) -> AdapterConfig:
    layers = tuple(range(ENCODER_LAYERS + samples.LAYERS))
    changes = {"encoder_layers": ENCODER_LAYERS, "layers": layers, **changes}
    return config(kind, task="seq2seq", **changes)


def pointer(**changes: Any) -> AdapterConfig:
    """Of a decoder whose adapter copies tokens of the context."""
    return config("pointer", **changes)


def head(config: AdapterConfig, seed: int = 0, *, bias: bool = False) -> FrozenHead:
    random = np.random.default_rng(seed)
    shape = (config.num_outputs, config.hidden_size)
    return FrozenHead(
        weight=random.normal(size=shape).astype(np.float32) / 3,
        bias=random.normal(size=shape[0]).astype(np.float32) if bias else None,
        scale=config.logit_scale,
        softcap=config.logit_softcap,
    )


def states(
    layers: int, lengths: NDArray[np.int64], random: np.random.Generator, junk: float = 0.0
) -> NDArray[np.float32]:
    """Hidden states; padding is ``junk`` times as large as the rest."""
    tokens = int(lengths.max())
    hidden = random.normal(size=(layers, len(lengths), tokens, samples.HIDDEN_SIZE))
    hidden[:, np.arange(tokens) >= lengths[:, None]] *= junk
    return hidden.astype(np.float32)


def batch(config: AdapterConfig, size: int, seed: int = 0, junk: float = 0.0) -> Batch:
    """Samples of unequal lengths in every stream; some tokens are not counted."""
    random = np.random.default_rng(seed)
    lengths = np.append(1, random.integers(2, 9, size - 1))
    hidden = states(len(config.layers) - config.encoder_layers, lengths, random, junk)
    targets = random.integers(0, config.num_outputs, hidden.shape[1:3])
    targets[random.random(targets.shape) < 0.3] = -1
    targets[:, 0] = random.integers(0, config.num_outputs, size)
    targets[np.arange(targets.shape[1]) >= lengths[:, None]] = -1
    encoder: dict[str, Any] = {}
    if config.encoder_layers:
        encoder_lengths = np.append(random.integers(2, 12, size - 1), 1)
        encoder = {
            "encoder_hidden": states(config.encoder_layers, encoder_lengths, random, junk),
            "encoder_lengths": encoder_lengths,
        }
    starts = np.zeros(size, np.int64)
    data = Batch(hidden=hidden, lengths=lengths, second_starts=starts, targets=targets, **encoder)
    return with_context(data, config, random) if config.copies else data


def with_context(data: Batch, config: AdapterConfig, random: np.random.Generator) -> Batch:
    """Adds the tokens that the states are of: some come again, and some are to follow."""
    shape = data.targets.shape
    tokens = random.integers(0, 6, shape) * (config.num_outputs // 6)
    tokens[np.arange(shape[1]) >= data.lengths[:, None]] = 0
    repeats = (data.targets >= 0) & (random.random(shape) < 0.5)
    targets = np.where(repeats, tokens, data.targets)
    return dataclasses.replace(data, tokens=tokens, targets=targets)


def trainer(
    config: AdapterConfig, frozen: FrozenHead | None = None, total_steps: int = 20
) -> Trainer:
    options = TrainingOptions(seed=3, learning_rate=1e-2)
    return Trainer(config, options, total_steps, head=frozen or head(config))
