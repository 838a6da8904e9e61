"""Answers in this process: loads a run's model once, and computes what a session would."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np

from coordinator.cluster.observer import Observer
from coordinator.protocol.job import Continuation, Job
from coordinator.samples.samples import SampleTable
from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import UnresumableError
from edge_runtime.contract.messages import CacheDtype, LoadStage
from edge_runtime.contract.plan import Plan
from edge_runtime.serving.resident_model import HERE, ResidentModel
from edge_runtime.transport import home_directory
from export.partition.stages import Bundle

from .memory import check_memory
from .options import ANSWERING


@dataclasses.dataclass(frozen=True, kw_only=True)
class LocalModel:
    """A trained run's model, loaded into this process when it is first used, and kept.

    Attributes:
        adapter: as ONNX.
        cache_dtype: in which the run caches hidden states; they are rounded alike here.
    """

    bundle: Bundle
    config: AdapterConfig
    adapter: bytes
    cache_dtype: CacheDtype

    @functools.cached_property
    def resident(self) -> ResidentModel:
        """The loaded model.

        Raises:
            UserError: the bundle, the adapter or the head cannot be loaded.
        """
        manifest = self.bundle.manifest
        return ResidentModel(
            *(self.bundle.path, manifest, self.config, self.adapter, self.cache_dtype),
            cut=self._cut,
            store=_store,
        )

    def load(self) -> None:
        """Loads the model now; raises UserError as :attr:`resident` does."""
        _ = self.resident

    def outputs(self, table: SampleTable, observer: Observer) -> Array:
        """Computes the adapter's outputs (N, C) of a table's samples.

        Raises:
            InfeasibleError: a line takes more memory than there is.
            UnresumableError: an output or a hidden state is not a finite number.
        """
        if not len(table):
            raise ValueError("no samples")
        check_memory(self._job(table, None), self.resident.hello)
        try:
            found = self.resident.outputs(
                table.samples, table.targets, lambda done: observer.computed(done, len(table))
            )
        finally:
            observer.stopped()
        if not np.isfinite(found).all():
            raise UnresumableError(
                "an adapter's output is not a finite number; train a new run with a lower "
                "--learning-rate, or export the model with another --quantize"
            )
        return found

    def continued(
        self,
        continuation: Continuation,
        table: SampleTable,
        observer: Observer,
    ) -> list[list[int]]:
        """Continues prompts; ``table`` has them as long as they may become.

        Raises:
            InfeasibleError: a text may take more memory than there is.
        """
        from .writing import write  # needs the planner's folder

        job = self._job(table, continuation)
        check_memory(job, self.resident.hello)
        try:
            return write(self.resident, job, lambda done: observer.computed(done, len(table)))
        finally:
            observer.stopped()

    def _job(self, table: SampleTable, continuation: Continuation | None) -> Job:
        def plan(_profiles: object) -> Plan:
            from .writing import plan_alone

            return plan_alone(job)

        job = Job(
            manifest=self.bundle.manifest,
            config=self.config,
            options=ANSWERING,
            tables={"eval": table},
            devices=(HERE,),
            make_plan=plan,
            cache_dtype=self.cache_dtype if continuation is None else "fp32",
            continuation=continuation,
        )
        return job

    def _cut(self) -> LoadStage:
        from coordinator.cluster.stage_files import StageCutter  # needs onnx_ir

        return StageCutter(self.bundle).load_stage(
            *(0, len(self.bundle.manifest.blocks)),
            layers=self.config.layers,
            dtype=self.cache_dtype,
            apart=self.config.generative,
        )


def _store() -> Path:
    return home_directory() / "stages"
