"""What the frozen head costs in an epoch: over the whole vocabulary, and over candidates."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from coordinator.api.adapter_config import AdapterChoice, DataTraits, adapter_config
from edge_runtime.contract.sample import Ragged
from edge_runtime.language_head.candidates import count_tokens, counted, find_candidates
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.language_head.shortlist import Shortlist
from edge_runtime.language_head.tail_sample import draw_tail
from edge_runtime.language_head.token_counts import tail_of
from edge_runtime.parallel_adapters.candidate_loss import StepSample, candidate_loss
from edge_runtime.parallel_adapters.language import total_loss
from edge_runtime.training.line_candidates import COUNTED_LINES
from export.partition.stages import open_bundle

from .lora import load_model, sample
from .results import Row

if TYPE_CHECKING:
    from coordinator.samples.samples import SampleTable

EVERY = 4
"""Of the lines in which tokens are counted, one in so many is measured; an epoch costs as much more
as it has counted tokens."""

PASSES = 3
"""Over these lines are timed, of one loss after the other and behind a pass that is not. A training
has one loss: memory that the other has given back, which is touched anew, and caches that it has
filled are no part of an epoch, and make steps over candidates half as dear again."""

States = list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]
"""Last hidden states and targets of each line's counted tokens."""


def some_states(checkpoint: Path, table: SampleTable) -> tuple[States, int]:
    """States of some lines, spread over the data; and the counted tokens of all lines."""
    backbone = load_model(checkpoint).model
    states = []
    chosen = np.linspace(0, len(table) - 1, min(COUNTED_LINES, len(table)))
    for index in chosen.astype(int).tolist():
        ids, follow = sample(table, index)
        with torch.inference_mode():
            hidden = backbone(input_ids=ids[None]).last_hidden_state[0].numpy()
        places = counted(follow.numpy())
        states.append((np.ascontiguousarray(hidden[places]), follow.numpy()[places]))
    assert isinstance(table.targets, Ragged)
    return states, int((table.targets.values >= 0).sum())


def head_of(bundle: Path) -> FrozenHead:
    """The head of a bundle."""
    opened = open_bundle(bundle)
    config = adapter_config(opened.manifest, "causal-lm", AdapterChoice(), DataTraits())
    assert opened.manifest.head is not None
    return FrozenHead.open(bundle / opened.manifest.head.path, config)


def random_head(vocabulary: int, channels: int) -> FrozenHead:
    """A head of random int8 rows."""
    chance = np.random.default_rng(0)
    weight = chance.integers(-127, 128, (vocabulary, channels)).astype(np.int8)
    return FrozenHead(weight=weight, row_scale=np.full((vocabulary, 1), 4e-4, np.float32))


def measure_head(head: FrozenHead, states: States, tokens: int, batch_size: int) -> Row:
    """CPU-seconds of an epoch's steps by both losses, and of what is found once."""
    torch.set_num_threads(1)
    counting, counts = _timed(lambda: count_tokens(states, head))
    shortlist, states = Shortlist.of(counts), states[::EVERY]
    measured = sum(len(targets) for _, targets in states)
    finding, lines = _timed(lambda: find_candidates(states, head, shortlist=shortlist))
    steps = []
    for step, first in enumerate(range(0, len(states), batch_size)):
        chosen = slice(first, first + batch_size)
        drawn = functools.partial(_drawn, counts, step, head)
        steps.append(_Step(head, states[chosen], lines[chosen], drawn))
    seconds = {
        "exact": _seconds_a_pass([each.exact for each in steps]),
        "candidates": _seconds_a_pass([each.over_candidates for each in steps]),
    }
    share = tokens / max(1, measured)
    return {
        "vocabulary": head.vocabulary,
        "tokens": tokens,
        "measured_tokens": measured,
        "candidates_a_line": round(float(np.mean([len(line.tokens) for line in lines])), 1),
        "finding_cpu_seconds": round(finding * share, 3),
        "searched": len(shortlist.tokens) if shortlist else head.vocabulary,
        "counting_cpu_seconds": round(counting, 3),
        **{f"{name}_cpu_seconds": round(value * share, 3) for name, value in seconds.items()},
    }


@dataclasses.dataclass(frozen=True)
class _Step:
    head: FrozenHead
    states: States
    lines: Sequence[Any]
    draw: Callable[[], StepSample]

    def exact(self) -> None:
        loss = total_loss(self._features(), self._targets(), self.head)
        loss.backward()  # type: ignore[no-untyped-call]

    def over_candidates(self) -> None:
        features = self._features()
        loss = candidate_loss(
            *(features, features.detach(), self._targets(), self.lines, self.draw(), self.head)
        )
        loss.backward()  # type: ignore[no-untyped-call]

    def _features(self) -> torch.Tensor:
        joined = np.concatenate([hidden for hidden, _ in self.states])
        return torch.from_numpy(joined).requires_grad_()

    def _targets(self) -> torch.Tensor:
        joined = np.concatenate([targets for _, targets in self.states])
        return torch.from_numpy(joined.astype(np.int64))


def _drawn(counts: Any, step: int, head: FrozenHead) -> StepSample:
    return StepSample.gather(draw_tail(tail_of(counts), seed=0, step=step), head)


def _seconds_a_pass(steps: Sequence[Callable[[], None]]) -> float:
    def once() -> None:
        for step in steps:
            step()

    once()
    return sum(_timed(once)[0] for _ in range(PASSES)) / PASSES


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = work()
    return time.process_time() - began, result
