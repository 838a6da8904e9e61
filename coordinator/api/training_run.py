"""A training run in work: what is kept, what a later session goes on from, and the report."""

import contextlib
import dataclasses
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coordinator.data.lines import SHOWN_PLACES
from coordinator.protocol.actions import KeepEvaluation, Kept, Record
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
from coordinator.runs.run_folder import Checkpoint, RunFolder, Settings
from coordinator.session.failures import RESUME
from edge_runtime.contract.adapter import adapter_weights
from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import (
    BadInputError,
    InfeasibleError,
    StoppedError,
    StorageError,
)
from edge_runtime.contract.structure import to_plain
from export.partition.stages import import_ahead

from .inputs import Prepared
from .metrics import metrics
from .run import Finished
from .tune import Tuning

_NOTHING = Checkpoint(step=0, epochs=(), eval_before={})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """Writes down a training session, added to what earlier sessions of the run did.

    Attributes:
        folder: of the run.
        settings: that the run was started with.
        prepared: its work.
        began: when this session did, by :func:`time.monotonic`.
        earlier: where earlier sessions have come to.
        tuning: the settings to compare, if any.
        resumed: there were earlier sessions.
    """

    folder: RunFolder
    settings: Settings
    prepared: Prepared
    began: float
    earlier: Checkpoint = _NOTHING
    tuning: Tuning = dataclasses.field(default_factory=Tuning)
    resumed: bool = False

    @classmethod
    def begin(
        cls, output: Path, settings: Settings, prepared: Prepared, tuning: Tuning, *, resume: bool
    ) -> "TrainingRun":
        """Makes the folder of a new run, or opens that of one that stopped.

        Raises:
            BadInputError: it is none, was started differently, or is damaged.
        """
        folder = (RunFolder.resume if resume else RunFolder.create)(output, settings)
        earlier = folder.last_checkpoint() if resume else None
        run = cls(
            folder=folder,
            settings=folder.settings(),  # a run that goes on may have others that do not matter
            prepared=prepared,
            began=time.monotonic(),
            earlier=earlier or _NOTHING,
            tuning=tuning,
            resumed=resume,
        )
        if resume:  # steps that were applied beyond it are applied again
            folder.record(Record(event="resumed", fields={"step": run.earlier.step}))
        return run

    @contextlib.contextmanager
    def in_work(self) -> Iterator[None]:
        """Leaves no folder of a new run that fails before there is anything to go on with.

        Raises:
            StoppedError: the disk refuses, and the run can go on when that is mended.
        """
        try:
            yield
        except (BadInputError, InfeasibleError) as error:
            if not self.resumed:
                self.folder.discard_unplanned()
            if isinstance(error, StorageError) and self.folder.is_planned:
                raise StoppedError(f"{error}; mend that, and {RESUME}") from None
            raise

    def job(self) -> dict[str, Any]:
        """Arguments of :func:`.run_session` by which it goes on with the run."""
        settings, earlier = self.settings, self.earlier
        return {
            "cache_dtype": settings.cache_dtype,
            "cache_quota_bytes": settings.cache_quota_bytes,
            "encrypt_cache": settings.encrypt_cache,
            "record": self.record,
            "save": self.save,
            "state": earlier.state,
            "steps_done": earlier.step,
            "sums": earlier.sums,
            "run": (self.folder.last_group() if self.resumed else "") or secrets.token_hex(8),
            "evaluate_before": not earlier.eval_before,
            "keep": settings.keep,
            "patience": settings.patience,
            "settings": self.tuning.settings,
            "score": self.metrics,
            "evaluated": self.folder.evaluations().by_epoch if self.resumed else {},
        }

    def record(self, event: Record, session: SessionRecord) -> None:
        """Writes an event down."""
        self.folder.record(event)
        if event.event == "plan_made" and session.plan is not None:
            self.folder.write_plan(session.plan)
            # Nothing to do here for a while, and the adapter's graph is to be written at the end.
            import_ahead()

    def save(self, action: Kept, session: SessionRecord) -> None:
        """Keeps a checkpoint, or what epochs are worth.

        Raises:
            UnresumableError: a weight is infinite or not a number; nothing was changed.
            StorageError: the disk refuses.
        """
        if isinstance(action, KeepEvaluation):
            self.folder.keep_evaluation(action)
            return
        checkpoint = self._checkpoint(session, action.step, action.state)
        self.folder.write_checkpoint(dataclasses.replace(checkpoint, sums=action.sums))

    def metrics(self, outputs: Array | None) -> dict[str, float]:
        """Computes metrics of the evaluation samples' outputs; none where there are none."""
        table = self.prepared.tables.get("eval")
        if table is None or outputs is None:
            return {}
        return metrics(self.prepared.config.task, outputs, table.targets)

    def finish(self, finished: Finished) -> Report:
        """Writes the adapter that is kept, then the report: the run is finished."""
        session = finished.record
        epoch, weights = self._kept(session)
        self.folder.write_adapter(self.tuning.config(session, self.prepared.config), weights)
        report = self._report(finished, self.tuning.epoch(session, epoch))
        self.folder.write_report(to_plain(report))
        return report

    def _kept(self, session: SessionRecord) -> tuple[int, bytes]:
        """Reads which epoch's adapter is kept, and its weights."""
        evaluations = self.folder.evaluations()
        if self.settings.keep == "best" and evaluations.best:
            return evaluations.best, evaluations.weights
        weights = adapter_weights(session.state or self.earlier.state)
        return self._checkpoint(session, 0, b"").epochs[-1].epoch, weights

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

    def _report(self, finished: Finished, kept_epoch: int) -> Report:
        """Reports the whole run, whose adapter is that of ``kept_epoch``."""
        prepared, session, settings = self.prepared, finished.record, self.settings
        manifest, done = prepared.bundle.manifest, self._checkpoint(session, 0, b"")
        after = session.evaluated.get(kept_epoch) or self.metrics(session.outputs_after)
        ends_early = settings.patience > 0 and done.epochs[-1].epoch < settings.epochs
        return Report(
            task=prepared.config.task,
            model=manifest.model_id,
            bundle=str(prepared.bundle.path.resolve()),
            bundle_digest=manifest.digest,
            seed=settings.seed,
            labels=prepared.config.labels,
            truncated=len(prepared.truncated),
            dilation=finished.dilation,
            plan=finished.plan,
            parameters=session.parameters,
            total_seconds=done.seconds,
            fill=fill_of_sessions(self.earlier.fill, fill_report(session)),
            epochs=done.epochs,
            eval={"before": done.eval_before, "after": after},
            cache=cache_report(session, settings.cache_dtype),
            devices=device_reports(session, finished.devices),
            max_length=prepared.max_length,
            loss=settings.loss,
            recoveries=done.recoveries,
            truncated_lines=prepared.truncated[:SHOWN_PLACES],
            tuning=self.tuning.report(session),
            batch_size=settings.batch_size,
            kept_epoch=kept_epoch,
            patience=settings.patience,
            stopped_early=ends_early,
        )
