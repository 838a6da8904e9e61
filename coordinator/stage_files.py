"""Cuts stages of a bundle, once each, into the messages that devices get."""

from __future__ import annotations

import functools

import numpy as np

from edge_runtime.contract.manifest import FileSpec
from edge_runtime.contract.messages import CacheDtype, LoadStage, ProfileRequest, StageFiles
from export.stages import Bundle, cut_stage

from .job import Job


class StageCutter:
    """Stage graphs in both forms, and the weight files they need."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        files = bundle.manifest.weight_files(0, len(bundle.manifest.blocks))
        self._weights: dict[str, FileSpec] = {spec.sha256: spec for spec in files}
        self._cut = functools.lru_cache(maxsize=None)(self._cut_stage)

    def weight_file(self, sha256: str) -> FileSpec:
        """The weight file of that content.

        Raises:
            KeyError: the bundle has no such weight file.
        """
        return self._weights[sha256]

    def load_stage(
        self, first: int, last: int, *, layers: tuple[int, ...], dtype: CacheDtype
    ) -> LoadStage:
        """The message that makes a device load blocks ``[first, last)``."""
        return LoadStage(stage=self._cut(first, last), layers=layers, dtype=dtype)

    def profile_request(self, job: Job, batch: int, tokens: int) -> ProfileRequest:
        """Times one block of each class. The embeddings are a look-up, whose time is noise
        beside a layer's, while its weights are the largest file: they are not sent for that.
        """  # noqa: D205
        manifest = self._bundle.manifest
        first_of = {
            block.alike: i
            for i, block in reversed(list(enumerate(manifest.blocks)))
            if block.kind == "layer"
        }
        return ProfileRequest(
            stages=tuple(self._cut(i, i + 1) for i in first_of.values()),
            alike=tuple(first_of),
            batch=batch,
            tokens=tokens,
            hidden_size=manifest.hidden_size,
            adapter=job.config,
            backbone_digest=manifest.backbone_digest,
            cache_dtype=job.cache_dtype,
            cache_quota_bytes=job.cache_quota_bytes,
        )

    def _cut_stage(self, first: int, last: int) -> StageFiles:
        graphs = [
            np.frombuffer(cut_stage(self._bundle, first, last, exact=exact), np.uint8)
            for exact in (False, True)
        ]
        return StageFiles(
            first=first,
            last=last,
            inputs=self._bundle.manifest.inputs,
            graph=graphs[0],
            exact_graph=graphs[1],
            files=self._bundle.manifest.weight_files(first, last),
        )
