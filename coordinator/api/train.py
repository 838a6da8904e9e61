"""Trains an adapter and writes the run: :func:`train`."""

import dataclasses
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from coordinator.cluster.host import Cluster
from coordinator.cluster.observer import NullObserver, Observer
from coordinator.data import FieldNames, Source
from coordinator.planner import make_plan
from coordinator.planning_files.plan_file import read_plan
from coordinator.protocol.actions import KeepEvaluation, Kept, Record
from coordinator.protocol.job import Keep
from coordinator.protocol.record import SessionRecord
from coordinator.runs.report import (
    EpochReport,
    Report,
    cache_report,
    device_reports,
    epoch_reports,
    fill_of_sessions,
    fill_report,
)
from coordinator.runs.run_folder import Checkpoint, RunFolder, check_new
from coordinator.session.failures import RESUME
from edge_runtime.contract.adapter import TrainingOptions, adapter_weights
from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import (
    BadInputError,
    InfeasibleError,
    StoppedError,
    StorageError,
)
from edge_runtime.contract.manifest import Task
from edge_runtime.contract.messages import CacheDtype
from edge_runtime.contract.structure import to_plain
from export.output import check_folder
from export.partition.stages import import_ahead

from .adapter_config import AdapterChoice
from .cache_dtype import CacheChoice, choose_cache_dtype
from .inputs import Prepared, prepare, run_settings
from .max_length import SHOWN_PLACES, MaxLength
from .metrics import metrics
from .run import Finished, run_session
from .training_choice import check_kept, choose_kept


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A finished run: its folder and its report."""

    run: Path
    report: Report


def train(
    bundle: Path,
    data: Source,
    *,
    output: Path,
    evaluation: Source | None = None,
    held_out: float | None = None,
    task: Task | None = None,
    cluster: Cluster | None = None,
    adapter: AdapterChoice | None = None,
    options: TrainingOptions | None = None,
    fields: FieldNames | None = None,
    cache_dtype: CacheChoice = "auto",
    cache_quota_bytes: int | None = None,
    encrypt_cache: bool = False,
    max_length: MaxLength | None = None,
    plan: Path | None = None,
    resume: bool = False,
    wait_seconds: float | None = None,
    observer: Observer | None = None,
    auto_batch_size: bool = False,
    keep: Keep | None = None,
    patience: int | None = None,
) -> TrainResult:
    """Fine-tunes an adapter for ``bundle`` on ``data`` and writes the run to ``output``.

    Args:
        bundle: folder that ``pacplus export`` wrote.
        data: a file with the fields that the task needs, or several.
        output: new folder of the run.
        evaluation: a file to evaluate on before training and after each epoch.
        held_out: fraction of ``data`` to evaluate on, instead of a file of its own.
        task: what is learnt; None takes the bundle's own.
        cluster: which devices take part; by default this machine alone.
        adapter: shape of the adapter.
        options: how to train.
        fields: other names of the data's fields.
        cache_dtype: how activations are stored; ``auto`` takes fp16 where they fit it, else fp32,
            and what the run has when going on.
        cache_quota_bytes: limit of each device's cache; when going on, None keeps the run's.
        encrypt_cache: devices keep activations encrypted, here and in later commands with the
            run; going on keeps the run's, and may begin with it.
        max_length: most tokens of a line, below what the model takes; "auto" cuts only the few
            lines that are far longer than the others. The run's evaluations cut alike.
        plan: a plan to run, from ``pacplus plan --json`` or a run's ``plan.json``; by default
            the best one is made, as it is when devices that the plan needs are lost.
        resume: go on with the run in ``output``.
        wait_seconds: how long to wait for devices when those that are left do not suffice; None
            for as long as it takes where they are paired, and not at all on this machine.
        observer: is told of progress.
        auto_batch_size: choose the batch size by the data, instead of the options'; when going
            on, the run has one.
        keep: whose adapter is wanted: that of the epoch with the lowest loss (a classifier's, with
            the highest accuracy) on evaluation data, or of the last one; None for the best where
            there are such data.
        patience: epochs of which none is better that end training; 0 for never, None for 2
            where a language model is evaluated, and never elsewhere. When going on, None keeps
            the run's, as with ``keep``.

    Raises:
        BadInputError: a file, a line or a field is wrong; nothing was written.
        UsageError: ``keep`` or ``patience`` needs evaluation data, or is out of range.
        InfeasibleError: no plan fits the devices.
        StoppedError: a device was lost; the run can be resumed.
    """
    observer, options = observer or NullObserver(), options or TrainingOptions()
    decide = read_plan(plan).first() if plan is not None else make_plan
    if not resume:
        check_new(output)
    check_folder(output)
    choice = adapter or AdapterChoice()
    evaluates = evaluation is not None or held_out is not None
    check_kept(evaluates=evaluates, keep=keep, patience=patience)
    begun = RunFolder(output).settings() if resume else None
    if begun is not None and auto_batch_size:
        options = dataclasses.replace(options, batch_size=begun.batch_size)
    prepared = prepare(
        *(bundle, data, evaluation, task, choice, options, fields, held_out, max_length),
        auto_batch_size=auto_batch_size and begun is None,
    )
    if begun is not None and cache_dtype == "auto":
        cache_dtype = begun.cache_dtype
    keep, patience = choose_kept(
        prepared.config.task, evaluates=evaluates, keep=keep, patience=patience, begun=begun
    )
    layers = prepared.config.layers
    dtype, notes = choose_cache_dtype(prepared.bundle.manifest, layers, cache_dtype)
    settings = dataclasses.replace(
        run_settings(prepared, fields, dtype, cache_quota_bytes, held_out),
        encrypt_cache=encrypt_cache,
        keep=keep,
        patience=patience,
    )
    folder = (RunFolder.resume if resume else RunFolder.create)(output, settings)
    prepared.announce(observer)
    for note in notes:
        observer.note(note)
    nothing = Checkpoint(step=0, epochs=(), eval_before={})
    earlier = (folder.last_checkpoint() if resume else None) or nothing
    run = _Run(folder, prepared, earlier, time.monotonic())
    if resume:  # steps that were applied beyond it are applied again
        folder.record(Record(event="resumed", fields={"step": earlier.step}))
    paired = cluster is not None and bool(cluster.devices)
    try:
        finished = run_session(
            *(cluster or Cluster(), prepared, observer),
            cache_dtype=dtype,
            cache_quota_bytes=folder.settings().cache_quota_bytes,
            encrypt_cache=folder.settings().encrypt_cache,
            decide=decide,
            is_given=plan is not None,
            record=run.record,
            save=run.save,
            state=earlier.state,
            steps_done=earlier.step,
            sums=earlier.sums,
            run=(folder.last_group() if resume else "") or secrets.token_hex(8),
            wait_seconds=0.0 if wait_seconds is None and not paired else wait_seconds,
            evaluate_before=not earlier.eval_before,
            keep=keep,
            patience=patience,
            score=run.metrics,
            evaluated=folder.evaluations().by_epoch if resume else {},
        )
        kept_epoch, weights = run.kept(finished.record, keep)
        folder.write_adapter(prepared.config, weights)
        report = run.report(finished, dtype, kept_epoch, patience)
        folder.write_report(to_plain(report))
    except (BadInputError, InfeasibleError) as error:
        if not resume:
            folder.discard_unplanned()
        if isinstance(error, StorageError) and folder.is_planned:
            raise StoppedError(f"{error}; mend that, and {RESUME}") from None
        raise
    return TrainResult(run=output, report=report)


@dataclasses.dataclass(frozen=True, slots=True)
class _Run:
    """Writes down a training session, added to what earlier sessions of the run did."""

    folder: RunFolder
    prepared: Prepared
    earlier: Checkpoint
    began: float

    def record(self, event: Record, session: SessionRecord) -> None:
        self.folder.record(event)
        if event.event == "plan_made" and session.plan is not None:
            self.folder.write_plan(session.plan)
            # Nothing to do here for a while, and the adapter's graph is to be written at the end.
            import_ahead()

    def save(self, action: Kept, session: SessionRecord) -> None:
        if isinstance(action, KeepEvaluation):
            self.folder.keep_evaluation(action)
            return
        checkpoint = self._checkpoint(session, action.step, action.state)
        self.folder.write_checkpoint(dataclasses.replace(checkpoint, sums=action.sums))

    def _checkpoint(self, session: SessionRecord, step: int, state: bytes) -> Checkpoint:
        return Checkpoint(
            step=step,
            epochs=(*self._earlier_epochs(session), *epoch_reports(session)),
            eval_before=self.earlier.eval_before or self.metrics(session.outputs_before),
            state=state,
            seconds=self.earlier.seconds + time.monotonic() - self.began,
            fill=fill_of_sessions(self.earlier.fill, fill_report(session)),
            recoveries=(*self.earlier.recoveries, *session.recoveries),
        )

    def _earlier_epochs(self, session: SessionRecord) -> Iterator[EpochReport]:
        """Epochs of earlier sessions; the last of them may have been evaluated only since."""
        for epoch in self.earlier.epochs:
            yield dataclasses.replace(epoch, eval=session.evaluated.get(epoch.epoch, {}))

    def kept(self, session: SessionRecord, keep: Keep) -> tuple[int, bytes]:
        """Reads which epoch's adapter is kept, and its weights."""
        evaluations = self.folder.evaluations()
        if keep == "best" and evaluations.best:
            return evaluations.best, evaluations.weights
        weights = adapter_weights(session.state or self.earlier.state)
        return self._checkpoint(session, 0, b"").epochs[-1].epoch, weights

    def metrics(self, outputs: Array | None) -> dict[str, float]:
        """Computes metrics of the evaluation samples' outputs; none where there are none."""
        table = self.prepared.tables.get("eval")
        if table is None or outputs is None:
            return {}
        return metrics(self.prepared.config.task, outputs, table.targets)

    def report(
        self, finished: Finished, cache_dtype: CacheDtype, kept_epoch: int, patience: int
    ) -> Report:
        """Reports the whole run, whose adapter is that of ``kept_epoch``."""
        prepared, session, manifest = self.prepared, finished.record, self.prepared.bundle.manifest
        done = self._checkpoint(session, 0, b"")
        after = session.evaluated.get(kept_epoch) or self.metrics(session.outputs_after)
        return Report(
            task=prepared.config.task,
            model=manifest.model_id,
            bundle=str(prepared.bundle.path.resolve()),
            bundle_digest=manifest.digest,
            seed=prepared.options.seed,
            labels=prepared.config.labels,
            truncated=len(prepared.truncated),
            dilation=finished.dilation,
            plan=finished.plan,
            parameters=session.parameters,
            total_seconds=done.seconds,
            fill=fill_of_sessions(self.earlier.fill, fill_report(session)),
            epochs=done.epochs,
            eval={"before": done.eval_before, "after": after},
            cache=cache_report(session, cache_dtype),
            devices=device_reports(session, finished.devices),
            max_length=prepared.max_length,
            loss=prepared.options.loss if prepared.config.generative else "exact",
            recoveries=done.recoveries,
            truncated_lines=prepared.truncated[:SHOWN_PLACES],
            batch_size=prepared.options.batch_size,
            kept_epoch=kept_epoch,
            patience=patience,
            stopped_early=done.epochs[-1].epoch < prepared.options.epochs,
        )
