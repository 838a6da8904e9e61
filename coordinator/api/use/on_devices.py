"""Answers by a session on devices, for models that do not fit this one or that are many lines."""

import dataclasses

from coordinator.api.inputs import Prepared
from coordinator.api.run import run_session
from coordinator.cluster.host import Cluster
from coordinator.cluster.observer import Observer
from coordinator.inference.options import ANSWERING
from coordinator.protocol.job import Continuation
from coordinator.samples.samples import SampleTable
from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import StoppedError

from .trained_run import TrainedRun


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OnDevices:
    """Runs a session on a cluster for every question."""

    trained: TrainedRun
    cluster: Cluster

    def outputs(self, table: SampleTable, observer: Observer) -> Array:
        """Computes the adapter's outputs (N, C) of a table's samples.

        Raises:
            UserError: the session failed.
        """
        settings = self.trained.settings
        record = run_session(
            *(self.cluster, self._prepared(table), observer),
            cache_dtype=settings.cache_dtype,
            cache_quota_bytes=settings.cache_quota_bytes,
            encrypt_cache=settings.encrypt_cache,
            adapter_graph=self.trained.adapter,
        ).record
        if record.outputs_before is None:
            raise StoppedError("the session ended without outputs")
        return record.outputs_before

    def continued(
        self,
        continuation: Continuation,
        table: SampleTable,
        observer: Observer,
    ) -> list[list[int]]:
        """Continues prompts; ``table`` has them as long as they may become.

        Raises:
            UserError: the session failed.
        """
        record = run_session(
            *(self.cluster, self._prepared(table), observer),
            cache_dtype="fp32",
            continuation=continuation,
            adapter_graph=self.trained.adapter,
        ).record
        if record.generation is None:
            raise StoppedError("the session ended without a text")
        return record.generation.tokens

    def _prepared(self, table: SampleTable) -> Prepared:
        return Prepared(
            bundle=self.trained.bundle,
            config=self.trained.config,
            options=ANSWERING,
            tables={"eval": table},
        )
