"""What computes answers: this process by itself, or devices in a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from coordinator.cluster.observer import Observer
from coordinator.protocol.job import Continuation
from coordinator.samples.samples import SampleTable
from edge_runtime.contract.checks import Array

from .trained_run import TrainedRun

if TYPE_CHECKING:
    from coordinator.cluster.host import Cluster
    from coordinator.inference.local_model import LocalModel


class Engine(Protocol):
    """Computes what a trained run answers."""

    def outputs(self, table: SampleTable, observer: Observer) -> Array:
        """Computes the adapter's outputs (N, C) of a table's samples."""

    def continued(
        self,
        continuation: Continuation,
        table: SampleTable,
        observer: Observer,
    ) -> list[list[int]]:
        """Continues prompts; ``table`` has them as long as they may become."""


def engine_of(trained: TrainedRun, cluster: Cluster | None) -> Engine:
    """Takes the devices of a cluster, or this process where it names none."""
    if cluster is not None and (cluster.emulate or cluster.devices):
        from .on_devices import OnDevices  # needs ZeroMQ

        return OnDevices(trained=trained, cluster=cluster)
    return local_model(trained)


def local_model(trained: TrainedRun) -> LocalModel:
    """Makes the model of a run that is loaded into this process."""
    from coordinator.inference.local_model import LocalModel  # needs ONNX Runtime

    return LocalModel(
        bundle=trained.bundle,
        config=trained.config,
        adapter=trained.adapter,
        cache_dtype=trained.settings.cache_dtype,
    )
