"""Cuts stages of a bundle, once each, into the messages that devices get."""

import dataclasses
import functools
import math
from functools import partial
from typing import Literal

import msgspec
import numpy as np

from coordinator.planner.problem.build import tokens_of
from coordinator.protocol.actions import SendProfileRequest
from coordinator.protocol.job import Job
from edge_runtime.contract.adapter import AdapterConfig, Loss
from edge_runtime.contract.manifest import FileSpec, Manifest, Stream
from edge_runtime.contract.messages import (
    CacheDtype,
    IntegerProduct,
    LoadStage,
    ProfileRequest,
    StageFiles,
)
from edge_runtime.contract.messages.requests import PROBE_SECONDS
from edge_runtime.contract.profile import BlockTiming, Source, TrainerProfile
from export.partition.stages import Bundle, cut_stage, import_ahead, stage_products

from .kept_cuts import Forms, KeptCuts

PROFILE_BATCH = 16

PAIR_BYTES = 16 << 20
"""Most weights of a block of which two are sent to be timed. What a stage costs besides its
blocks was a sixth of a MiniLM's block of 2 MB, and a thirtieth of one four times as large."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledShape:
    """Shape of the data that devices are timed with; fields as of :class:`ProfileRequest`.

    Attributes:
        answers: sha256 of the trained adapter where nothing is trained, or nothing.
    """

    batch: int
    tokens: dict[Stream, int]
    max_tokens: dict[Stream, int]
    usual_tokens: dict[Stream, int]
    counted_tokens: int
    loss: Loss
    adapter: AdapterConfig
    answers: str
    cache_dtype: CacheDtype
    cache_encrypted: bool


def profiled_shape(job: Job) -> ProfiledShape:
    """The shape of a job's data and adapter."""
    tokens = tokens_of(job.tables, job.manifest.streams)
    counted = [table.mean_counted_tokens for table in job.tables.values()]
    return ProfiledShape(
        batch=PROFILE_BATCH,
        tokens={stream: max(1, round(found.mean)) for stream, found in tokens.items()},
        max_tokens={stream: found.max for stream, found in tokens.items()},
        usual_tokens={
            # Far enough from the mean to tell how a token's time grows with the length.
            stream: min(found.max, max(found.usual, 2 * math.ceil(found.mean)))
            for stream, found in tokens.items()
        },
        counted_tokens=round(max(counted)),
        loss=job.options.loss if job.config.generative and job.total_steps else "exact",
        adapter=job.config,
        answers=job.adapter_file.sha256 if job.adapter_file else "",
        cache_dtype=job.cache_dtype,
        cache_encrypted=job.encrypt_cache,
    )


class StageCutter:
    """Cuts stage graphs in both forms, and finds the files that devices need."""

    def __init__(self, bundle: Bundle, kept: KeptCuts | None = None) -> None:
        """Cuts nothing yet, and nothing that is ``kept`` from earlier."""
        self._bundle, self._kept = bundle, kept
        self._files: dict[str, FileSpec] = {
            spec.sha256: spec for spec in files_for_devices(bundle.manifest)
        }
        self._cut = functools.lru_cache(maxsize=None)(self._cut_stage)

    def get_ready(self) -> None:
        """Imports what cutting needs while devices come, unless stages of the bundle are kept."""
        if self._kept is None or not self._kept.has_any():
            import_ahead()

    def file(self, sha256: str) -> FileSpec:
        """Finds a file that devices need by its content; KeyError if the bundle has none."""
        return self._files[sha256]

    def load_stage(
        self,
        first: int,
        last: int,
        *,
        layers: tuple[int, ...],
        dtype: CacheDtype,
        apart: bool = False,
    ) -> LoadStage:
        """Cuts blocks ``[first, last)``; ``apart`` cuts an encoder's from a decoder's."""
        manifest = self._bundle.manifest
        border = manifest.layers_of(manifest.output_stream).start
        whole = not apart or not first < border < last
        return LoadStage(
            stage=self._cut(first, last if whole else border),
            rest=None if whole else self._cut(border, last),
            layers=layers,
            dtype=dtype,
            hidden_size=manifest.hidden_size,
            num_heads=manifest.num_heads,
        )

    def profile_request(self, job: Job, action: SendProfileRequest) -> ProfileRequest:
        """Has one block of each class timed, or estimated, unless it is known well enough.

        The embeddings are a look-up, whose time is noise beside a layer's, while its weights
        are the largest file: they are not sent for that.
        """
        manifest, known = self._bundle.manifest, action.known
        lacking = {
            block.block_class: i
            for i, block in reversed(list(enumerate(manifest.blocks)))
            if block.kind == "layer" and not _is_known(block.block_class, action)
        }
        first_of = {} if action.source == "estimated" else lacking
        stages = [self._cut(i, i + 1) for i in first_of.values()]
        pairs = {
            name: dataclasses.replace(self._cut(i, i + 2), carries=())
            for name, i in first_of.items()
            if self._is_pair(i)
        }
        shape = profiled_shape(job)
        if known is not None and not _is_enough(known.trainer, action.source):
            known = dataclasses.replace(known, trainer=None)
        return ProfileRequest(
            stages=tuple(dataclasses.replace(stage, carries=()) for stage in stages),
            block_classes=tuple(first_of),
            pairs=pairs,
            batch=shape.batch,
            tokens=shape.tokens,
            max_tokens=shape.max_tokens,
            usual_tokens=shape.usual_tokens,
            hidden_size=manifest.hidden_size,
            num_heads=manifest.num_heads,
            adapter=shape.adapter,
            adapter_graph=job.adapter_file,
            counted_tokens=shape.counted_tokens,
            loss=shape.loss,
            head_dtype=_head_dtype(manifest),
            backbone_digest=manifest.backbone_digest,
            cache_dtype=shape.cache_dtype,
            cache_encrypted=shape.cache_encrypted,
            cache_quota_bytes=job.cache_quota_bytes,
            source=action.source,
            budget_seconds=action.budget_seconds or PROBE_SECONDS,
            known=known,
            flops_per_token={
                name: manifest.blocks[i].flops_per_token
                for name, i in lacking.items()
                if name not in first_of
            },
            quantization=manifest.quantization,
        )

    def _is_pair(self, index: int) -> bool:
        """True if the block and the next are of one class, and light enough to send both."""
        blocks = self._bundle.manifest.blocks[index : index + 2]
        files = self._bundle.manifest.weight_files(index + 1, index + 2)
        one_class = len({block.block_class for block in blocks}) < len(blocks)
        return one_class and sum(file.bytes for file in files) <= PAIR_BYTES

    def _cut_stage(self, first: int, last: int) -> StageFiles:
        manifest = self._bundle.manifest
        cut = partial(self._cut_graphs, first, last)
        found = cut() if self._kept is None else self._kept.get(first, last, cut)
        saturating, exact = (np.frombuffer(graph, np.uint8) for graph in found[:2])
        return StageFiles(
            first=first,
            last=last,
            streams=tuple(block.stream for block in manifest.blocks[:last]),
            carries=manifest.carried(last),
            inputs=manifest.inputs,
            graph=saturating,
            exact_graph=exact,
            files=manifest.weight_files(first, last),
            products=msgspec.msgpack.decode(found[2], type=tuple[IntegerProduct, ...]),
        )

    def _cut_graphs(self, first: int, last: int) -> Forms:
        graph = cut_stage(self._bundle, first, last, exact=False)
        exact = cut_stage(self._bundle, first, last, exact=True)
        products = stage_products(graph, self._bundle.manifest.weight_files(first, last))
        return graph, exact, msgspec.msgpack.encode(products)


def _is_known(block_class: str, action: SendProfileRequest) -> bool:
    """True if nothing better is to be found out about blocks of this class."""
    known = action.known.blocks.get(block_class) if action.known is not None else None
    if not known:
        return False
    return _is_enough(known[0], action.source) and not action.budget_seconds


def _is_enough(times: BlockTiming | TrainerProfile | None, source: Source) -> bool:
    return times is not None and (source != "thorough" or times.source == "thorough")


def files_for_devices(manifest: Manifest) -> tuple[FileSpec, ...]:
    """Weights of all blocks, and what trainers start from."""
    more = [manifest.head.path if manifest.head else "", manifest.adapter_init]
    weights = manifest.weight_files(0, len(manifest.blocks))
    return (*weights, *(manifest.file(path) for path in more if path))


def _head_dtype(manifest: Manifest) -> Literal["float32", "int8"]:
    """By its size: the bundle decides whether the head is worth quantizing."""
    if manifest.head is None:
        return "float32"
    float_bytes = 4 * manifest.head.vocab_size * manifest.hidden_size
    return "float32" if manifest.file(manifest.head.path).bytes >= float_bytes else "int8"
