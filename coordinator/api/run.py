"""One session on a cluster's devices, and a training run around it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from coordinator.cluster.host import Cluster, Host, open_host, profile_cache
from coordinator.cluster.observer import Observer
from coordinator.cluster.server import Server
from coordinator.planner import Problem, make_plan
from coordinator.planner.plan import planner
from coordinator.protocol.actions import Record, SaveCheckpoint
from coordinator.protocol.job import Job
from coordinator.protocol.record import SessionRecord
from coordinator.runs.report import (
    EpochReport,
    FillReport,
    Report,
    cache_report,
    device_reports,
    epoch_reports,
    fill_of_sessions,
    fill_report,
)
from coordinator.runs.run_folder import Checkpoint, RunFolder
from coordinator.session.machine import Session
from edge_runtime.contract.adapter import adapter_weights
from edge_runtime.contract.errors import StoppedError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import CacheDtype
from edge_runtime.contract.plan import Plan
from edge_runtime.contract.structure import to_plain
from export.partition.stages import Bundle

from .inputs import Prepared
from .metrics import metrics

Array: TypeAlias = np.ndarray[Any, Any]

SHUTDOWN_GRACE_SECONDS = 3.0


class TrainingRun:
    """One training run, from open sockets to the report."""

    def __init__(
        self,
        run: RunFolder,
        prepared: Prepared,
        checkpoint: Checkpoint | None,
        cluster: Cluster,
        watcher: Observer,
        decide: Callable[[Problem], Plan] = make_plan,
    ) -> None:
        """``decide`` makes the plan once the devices are measured."""
        self._run, self._prepared, self._cluster, self._decide = run, prepared, cluster, decide
        self._checkpoint, self._watcher = checkpoint, watcher
        self._began = time.monotonic()

    def run(self, cache_dtype: CacheDtype, cache_quota_bytes: int | None) -> Report:
        """Runs the session and writes adapter and report.

        Raises:
            UserError: the session failed.
        """
        prepared, checkpoint = self._prepared, self._checkpoint
        with open_host(self._cluster) as host:
            address = {"address": host.address.endpoint}
            self._run.record(Record(event="coordinator_listening", fields=address))
            job = Job(
                manifest=prepared.bundle.manifest,
                config=prepared.config,
                options=prepared.options,
                tables=prepared.tables,
                devices=host.devices,
                local=host.local is not None,
                make_plan=planner(
                    prepared.bundle.manifest,
                    prepared.config,
                    prepared.options,
                    prepared.tables,
                    cache_dtype,
                    decide=self._decide,
                ),
                cache_dtype=cache_dtype,
                cache_quota_bytes=cache_quota_bytes,
                state=checkpoint.state if checkpoint else b"",
                epochs_done=checkpoint.epochs_done if checkpoint else 0,
                evaluate_before=not (checkpoint and checkpoint.eval_before),
            )
            session = Session(job)
            serve(host, prepared.bundle, session, self._watcher, self._record, self._save)
            profiles = _profile_names(host)
            dilation = host.local.dilation if host.local else 1.0
        report = self._report(session.record, job, profiles, dilation)
        self._run.write_adapter(prepared.config, adapter_weights(session.record.state or job.state))
        self._run.write_report(to_plain(report))
        return report

    def _record(self, record: Record, session: SessionRecord) -> None:
        self._run.record(record)
        if record.event == "plan_made" and session.plan is not None:
            self._run.write_plan(session.plan)

    def _save(self, action: SaveCheckpoint, session: SessionRecord) -> None:
        self._run.write_checkpoint(
            Checkpoint(
                epochs_done=action.epoch,
                epochs=self._epochs(session),
                eval_before=self._before(session),
                state=action.state,
                seconds=self._seconds(),
                fill=self._fill(session),
            )
        )

    def _seconds(self) -> float:
        earlier = self._checkpoint.seconds if self._checkpoint else 0.0
        return earlier + time.monotonic() - self._began

    def _fill(self, session: SessionRecord) -> FillReport:
        earlier = self._checkpoint.fill if self._checkpoint else None
        return fill_of_sessions(earlier, fill_report(session))

    def _epochs(self, session: SessionRecord) -> tuple[EpochReport, ...]:
        earlier = self._checkpoint.epochs if self._checkpoint else ()
        return (*earlier, *epoch_reports(session))

    def _before(self, session: SessionRecord) -> dict[str, float]:
        if self._checkpoint and self._checkpoint.eval_before:
            return self._checkpoint.eval_before
        return self._metrics(session.outputs_before)

    def _metrics(self, outputs: Array | None) -> dict[str, float]:
        table = self._prepared.tables.get("eval")
        if table is None or outputs is None:
            return {}
        return metrics(self._prepared.config.task, outputs, table.targets)

    def _report(
        self,
        session: SessionRecord,
        job: Job,
        profiles: Mapping[DeviceId, str],
        dilation: float,
    ) -> Report:
        prepared = self._prepared
        manifest = prepared.bundle.manifest
        if session.plan is None:
            raise StoppedError("the session ended without a plan")
        return Report(
            task=prepared.config.task,
            model=manifest.model_id,
            bundle=str(prepared.bundle.path.resolve()),
            bundle_digest=manifest.digest,
            seed=prepared.options.seed,
            labels=prepared.config.labels,
            truncated=prepared.truncated,
            dilation=dilation,
            plan=session.plan,
            parameters=session.parameters,
            total_seconds=self._seconds(),
            fill=self._fill(session),
            epochs=self._epochs(session),
            eval={"before": self._before(session), "after": self._metrics(session.outputs_after)},
            cache=cache_report(session, job.cache_dtype),
            devices=device_reports(session, job.devices, profiles),
        )


def serve(
    host: Host,
    bundle: Bundle,
    session: Session,
    watcher: Observer,
    record: Callable[[Record, SessionRecord], None] | None = None,
    save: Callable[[SaveCheckpoint, SessionRecord], None] | None = None,
) -> None:
    """Runs a session on a host's devices to its end, and says goodbye to them.

    Raises:
        UserError: the session failed.
    """
    watcher.started(session, host)
    profiles = profile_cache(host, session.job)
    if not host.reprofile:
        session.reuse(profiles.read(host.devices))

    def on_record(event: Record) -> None:
        if record is not None:
            record(event, session.record)
        watcher.event(event)

    def on_checkpoint(action: SaveCheckpoint) -> None:
        if save is not None:
            save(action, session.record)

    server = Server(
        host.router,
        bundle,
        public_keys=host.public_keys,
        record=on_record,
        save=on_checkpoint,
        reroute=host.local.links.reroute if host.local else lambda _device, peers: peers,
    )
    try:
        server.run(
            session,
            devices=host.devices,
            ended=host.local.ended if host.local else list,
            watch=watcher.tick,
        )
    finally:
        profiles.write(session.measured)
        server.end(host.devices)
        if host.local is not None:
            host.local.wait(SHUTDOWN_GRACE_SECONDS)
        watcher.stopped()


def _profile_names(host: Host) -> dict[DeviceId, str]:
    return {device: host.local.profile_of(device) if host.local else "" for device in host.devices}
