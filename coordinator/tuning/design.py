"""Draws the settings of a tuning: a stratified random design around those asked for. Pure.

Setting 0 is the one that was asked for. The others vary, each apart from the rest:

============== ============================================================
learning rate  1/4, 1/2, 1, 2 or 4 times
side block     attention or mlp; where a pointer is asked for, a pointer
reduction      half, the same or twice (a wider or narrower side network)
weight decay   1/4, 1 or 4 times
adapter seed   another one each: other first weights, the same batches
============== ============================================================

The values of a row are dealt like cards: all of them before one comes again, so that few settings
cover each row evenly. Where the first weights are the backbone's own, pruned at export, side block
and reduction stay, since those weights fit no other.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from edge_runtime.contract.adapter import (
    AdapterConfig,
    AdapterKind,
    TrainingOptions,
    settled,
)
from edge_runtime.contract.messages import Setting
from edge_runtime.contract.order import random_words

RATE_FACTORS = (1.0, 0.25, 0.5, 2.0, 4.0)
DECAY_FACTORS = (1.0, 0.25, 4.0)
KINDS: tuple[AdapterKind, ...] = ("attention", "mlp")

_DOMAIN = 0x7E
"""Keeps these draws apart from others by the same seed."""

T = TypeVar("T")


def draw_settings(
    config: AdapterConfig, options: TrainingOptions, count: int
) -> tuple[Setting, ...]:
    """Draws ``count`` settings around the one given, by ``options.seed`` alone."""
    around = settled(options, config)
    free = config.initialization != "pruned"
    others, seed = count - 1, options.seed
    rates = _deal(RATE_FACTORS, others, seed, 0)
    decays = _deal(DECAY_FACTORS, others, seed, 1)
    # A pointer's candidates hold the context's tokens too: others would train on another loss.
    kinds = _deal(KINDS if free and not config.copies else (config.kind,), others, seed, 2)
    reductions = _deal(_reductions(config) if free else (config.reduction,), others, seed, 3)
    drawn = [
        Setting(
            number=number,
            config=dataclasses.replace(config, kind=kind, reduction=reduction),
            options=dataclasses.replace(
                options,
                learning_rate=around.peak * rate,
                weight_decay=around.decay * factor,
                adapter_seed=(options.initial_seed + number) % (1 << 63),
            ),
        )
        for number, (rate, factor, kind, reduction) in enumerate(
            zip(rates, decays, kinds, reductions, strict=True), start=1
        )
    ]
    return (Setting(number=0, config=config, options=options), *drawn)


def _reductions(config: AdapterConfig) -> tuple[int, ...]:
    """The reduction, half and twice of it, as far as such an adapter is possible."""
    asked = config.reduction
    possible = (asked, asked // 2, asked * 2)
    return tuple(r for r in possible if r and config.hidden_size // r >= config.num_heads)


def _deal(values: Sequence[T], count: int, seed: int, row: int) -> list[T]:
    """Deals ``count`` cards of shuffled packs, of which each has every value once."""
    dealt: list[T] = []
    for pack in range(-(-count // len(values))):
        words = random_words(len(values), seed, _DOMAIN, row, pack)
        dealt += (values[place] for place in np.argsort(words, kind="stable").tolist())
    return dealt[:count]
