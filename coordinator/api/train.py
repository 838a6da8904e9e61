"""Trains an adapter and writes the run: :func:`train`."""

import dataclasses
from pathlib import Path

from coordinator.cluster.host import Cluster
from coordinator.cluster.observer import NullObserver, Observer
from coordinator.data import FieldNames, Source
from coordinator.planner import make_plan
from coordinator.planning_files.plan_file import read_plan
from coordinator.protocol.job import Keep
from coordinator.runs.report import Report
from coordinator.runs.run_folder import RunFolder, check_new
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.manifest import Task
from export.output import check_folder

from .adapter_config import AdapterChoice
from .cache_dtype import CacheChoice, choose_cache_dtype
from .inputs import prepare, run_settings
from .max_length import MaxLength
from .run import run_session
from .training_choice import as_begun, check_kept, choose_kept
from .training_run import TrainingRun
from .tune import Tuning, check_tune


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
    tune: int | None = None,
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
        cache_dtype: how activations are stored; ``auto`` takes int8, or else fp16, where these hold
            them well (see :func:`.cache_dtype.choose_cache_dtype`), and what the run has when
            going on.
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
        tune: settings to train side by side, on one device, of which the best on held-out data is
            kept; the first are those given here. A tuning that is interrupted begins again.
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
    evaluates = evaluation is not None or held_out is not None
    if not resume:
        check_new(output)
    check_folder(output)
    check_kept(evaluates=evaluates, keep=keep, patience=patience)
    check_tune(tune, evaluates=evaluates, keep=keep, patience=patience)
    begun = RunFolder(output).settings() if resume else None
    adapter = adapter or AdapterChoice()
    if begun is not None:
        adapter, options = as_begun(adapter, options, begun, auto_batch_size=auto_batch_size)
    if begun is not None and cache_dtype == "auto":
        cache_dtype = begun.cache_dtype
    prepared = prepare(
        *(bundle, data, evaluation, task, adapter, options, fields, held_out),
        max_length,
        auto_batch_size=auto_batch_size and begun is None,
    )
    config, tuning = prepared.config, Tuning.of(prepared, tune)
    dtype, notes = choose_cache_dtype(prepared.bundle.manifest, config.layers, cache_dtype)
    chosen = choose_kept(
        config.task, evaluates=evaluates, keep=keep, patience=patience, begun=begun
    )
    keep, patience = tuning.kept(*chosen)
    settings = dataclasses.replace(
        run_settings(prepared, fields, dtype, cache_quota_bytes, held_out),
        encrypt_cache=encrypt_cache,
        tune=tune,
        keep=keep,
        patience=patience,
    )
    if begun is not None and options.weight_decay is None:  # an earlier release's run
        settings = dataclasses.replace(settings, weight_decay=None)
    run = TrainingRun.begin(output, settings, prepared, tuning, resume=resume)
    prepared.announce(observer)
    for note in notes:
        observer.note(note)
    if resume and tune:
        observer.note("the settings are trained from the start again; what is cached is kept")
    paired = cluster is not None and bool(cluster.devices)
    with run.in_work():
        finished = run_session(
            *(cluster or Cluster(), prepared, observer),
            decide=tuning.plans(decide),
            is_given=plan is not None,
            wait_seconds=0.0 if wait_seconds is None and not paired else wait_seconds,
            **run.job(),
        )
        report = run.finish(finished)
    return TrainResult(run=output, report=report)
