"""Times each distinct block at three micro-batch shapes.

One mean sample and many of them separate the overhead of a micro-batch from the time of a
token; few long samples show the effect of length on a token. A second block in the same
stage separates the block from the stage around it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from edge_runtime.backbone.loaded_stage import write_stage_graph
from edge_runtime.backbone.stage import Stage
from edge_runtime.contract.checks import Array
from edge_runtime.contract.manifest import HIDDEN_PREFIX, Stream
from edge_runtime.contract.messages import ProfileRequest, StageFiles
from edge_runtime.contract.profile import BlockTiming
from edge_runtime.inference.session import GraphSession
from edge_runtime.inference.weight_store import WeightStore

from .shapes import fitting_lengths, room_bytes, sample_bytes, usual_tokens
from .timing import THOROUGH, Effort, compare


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Times of blocks and stages.

    Attributes:
        blocks: by class; each block's own part of a stage.
        stage_seconds_per_run: wall seconds of any stage's overhead for each micro-batch.
        stage_seconds_per_token: likewise for each of its tokens.
    """

    blocks: dict[str, tuple[BlockTiming, ...]]
    stage_seconds_per_run: float = 0.0
    stage_seconds_per_token: float = 0.0

    @property
    def seconds(self) -> float:
        """Of one token of mean length in every class, to compare thread counts by."""
        return sum(timings[0].seconds_per_token for timings in self.blocks.values())


@dataclasses.dataclass(frozen=True, slots=True)
class _Shape:
    batch: int
    lengths: Mapping[Stream, int]


def time_blocks(
    request: ProfileRequest,
    store: WeightStore,
    *,
    threads: int,
    cores: float,
    effort: Effort = THOROUGH,
) -> Timings:
    """Times each class of blocks of the request.

    Args:
        request: the blocks and the shapes.
        store: has the weight files.
        threads: to compute with.
        cores: CPU quota in cores.
        effort: how long it may take.
    """
    blocks: dict[str, tuple[BlockTiming, ...]] = {}
    overheads = [(0.0, 0.0)]
    for block_class, files in zip(request.block_classes, request.stages, strict=True):
        pair = request.pairs.get(block_class)
        timer = _BlockTimer(request, files, pair, store, threads, cores, effort)
        blocks[block_class], overhead = timer.time()
        overheads.append(overhead)
    per_run, per_token = zip(*overheads, strict=True)
    return Timings(
        blocks=blocks,
        stage_seconds_per_run=max(per_run),
        stage_seconds_per_token=max(per_token),
    )


class _BlockTimer:
    """Times one class of blocks."""

    def __init__(
        self,
        request: ProfileRequest,
        files: StageFiles,
        pair: StageFiles | None,
        store: WeightStore,
        threads: int,
        cores: float,
        effort: Effort,
    ) -> None:
        self._request, self._cores, self._effort = request, min(cores, threads), effort
        self._threads = threads
        self._stream = files.streams[-1]
        read = request.adapter.layers if request.adapter is not None else ()
        self._stages = []
        for part in (files, pair) if pair else (files,):
            session = GraphSession(write_stage_graph(part, store), threads)
            self._stages.append(Stage(session, part, layers=(*read, part.last - 1)))

    def time(self) -> tuple[tuple[BlockTiming, ...], tuple[float, float]]:
        """Times at the mean length, and at the longest usual one if that is another.

        Both are shorter where memory has no room for one sample of them.

        Returns:
            The timings, and the stage's overhead for a run and for a token.
        """
        request, held = self._request, partial(sample_bytes, self._request)
        room = room_bytes()
        tokens = fitting_lengths(request.tokens, held, room)
        max_tokens = fitting_lengths(usual_tokens(request), held, room)
        one = _Shape(1, tokens)
        small, small_stage = self._seconds(one)
        most = min(request.batch, max(1, room // held(tokens)))
        many = _Shape(self._batch_in_time(most, small), tokens)
        large, large_stage = self._seconds(many) if many.batch > 1 else (small, small_stage)
        counts = self._tokens(one), self._tokens(many)
        per_run, per_token = split(small, large, *counts)
        timings = [self._timing(many, per_token, per_run)]
        mean, longest = tokens[self._stream], max_tokens[self._stream]
        if longest > mean:
            wanted = max(1, min(self._tokens(many) // longest, room // held(max_tokens)))
            batch = self._batch_in_time(wanted, small * longest / mean)
            few = _Shape(batch, max_tokens)
            seconds, _ = self._seconds(few)
            own = max(seconds - per_run, seconds / 2) / self._tokens(few)
            timings.append(self._timing(few, own, per_run))
        return tuple(timings), split(small_stage, large_stage, *counts)

    def _batch_in_time(self, most: int, seconds_of_one: float) -> int:
        return max(1, min(most, int(self._effort.longest_seconds / seconds_of_one)))

    def _tokens(self, shape: _Shape) -> int:
        return shape.batch * shape.lengths[self._stream]

    def _timing(self, shape: _Shape, per_token: float, per_run: float) -> BlockTiming:
        return BlockTiming(
            batch_size=shape.batch,
            sequence_length=shape.lengths[self._stream],
            seconds_per_token=per_token,
            seconds_per_run=per_run,
            threads=self._threads,
            source=self._request.source,
        )

    def _seconds(self, shape: _Shape) -> tuple[float, float]:
        """Seconds of a block in one micro-batch, and of the stage around it."""
        runs = [self._run(stage, shape) for stage in self._stages]
        single, *pair = compare(runs, self._cores, self._effort)
        if not pair:
            return single, 0.0
        # Within bounds, should the machine have been disturbed in between.
        block = min(single, max(single / 2, pair[0] - single))
        return block, single - block

    def _run(self, stage: Stage, shape: _Shape) -> Callable[[], object]:
        counts = shape.lengths.items()
        lengths = {stream: np.full(shape.batch, tokens, np.int32) for stream, tokens in counts}
        rows = _synthetic_rows(stage, shape, self._request.hidden_size)
        return partial(stage.run, lengths, rows)


def split(small: float, large: float, few: int, many: int) -> tuple[float, float]:
    """Splits the time of two runs into the overhead of a run and the time of a token.

    Args:
        small: seconds of ``few`` tokens.
        large: seconds of ``many`` tokens.
        few: tokens of the small run.
        many: tokens of the large run.
    """
    if many <= few:
        return 0.0, small / few
    per_token = max((large - small) / (many - few), large / many / 2)
    per_run = max(0.0, large - many * per_token)
    return per_run, (large - per_run) / many


def _synthetic_rows(stage: Stage, shape: _Shape, hidden_size: int) -> dict[str, Array]:
    """Inputs of a stage: random hidden states, and tokens of id 0."""
    generator = np.random.default_rng(0)
    rows: dict[str, Array] = {}
    for name, stream in stage.inputs.items():
        tokens = shape.batch * shape.lengths[stream]
        if name.startswith(HIDDEN_PREFIX):
            rows[name] = generator.standard_normal((tokens, hidden_size)).astype(np.float32)
        else:
            rows[name] = np.zeros(tokens, np.int32)
    return rows
