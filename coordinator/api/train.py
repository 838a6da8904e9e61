"""What the commands do, callable: :func:`train`, :func:`evaluate`, :func:`predict`.

Every function returns typed results and raises errors of
:mod:`edge_runtime.contract.errors`. :mod:`.plan_api` has the function for ``pacplus plan``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from coordinator.cluster.host import Cluster, open_host
from coordinator.cluster.observer import NullObserver, Observer
from coordinator.data import (
    DataSet,
    FieldNames,
    Prompts,
    Texts,
    read_evaluation_data,
    read_prompts,
    read_texts,
)
from coordinator.planner import make_plan
from coordinator.planner.plan import planner
from coordinator.planning_files.plan_file import read_plan
from coordinator.protocol.job import Job
from coordinator.runs.report import Report
from coordinator.runs.run_folder import RunFolder, Settings, check_new
from coordinator.samples.samples import SampleTable
from coordinator.session.machine import Session
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.errors import BadInputError, InfeasibleError, StoppedError, UsageError
from edge_runtime.contract.generation import GenerationOptions
from edge_runtime.contract.manifest import Task
from edge_runtime.contract.messages import CacheDtype, SampleSet
from export.partition.stages import Bundle

from .adapter_config import AdapterChoice
from .generate import generate
from .inputs import (
    Prepared,
    TokenizedFile,
    bundle_of_run,
    check_pairs,
    prepare,
    run_settings,
    tabled_labelled,
    tabled_language,
)
from .metrics import exact_match, metrics
from .run import TrainingRun, serve

Array: TypeAlias = np.ndarray[Any, Any]

BATCH_SIZE = 16
"""Samples of a batch where nothing is trained."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """A finished run: its folder and its report."""

    run: Path
    report: Report


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One input's result, by task.

    Attributes:
        label: the most probable class.
        scores: probability of every class.
        value: of a regression.
        text: what a language model writes behind a prompt, or of a source.
    """

    label: str | None = None
    scores: dict[str, float] | None = None
    value: float | None = None
    text: str | None = None


def train(
    bundle: Path,
    data: Path,
    *,
    output: Path,
    evaluation: Path | None = None,
    task: Task | None = None,
    cluster: Cluster | None = None,
    adapter: AdapterChoice | None = None,
    options: TrainingOptions | None = None,
    fields: FieldNames | None = None,
    cache_dtype: CacheDtype = "fp16",
    cache_quota_bytes: int | None = None,
    plan: Path | None = None,
    resume: bool = False,
    watcher: Observer | None = None,
) -> TrainResult:
    """Fine-tunes an adapter for ``bundle`` on ``data`` and writes the run to ``output``.

    Args:
        bundle: folder that ``pacplus export`` wrote.
        data: JSONL with the fields that the task needs.
        output: new folder of the run.
        evaluation: JSONL to evaluate on before and after.
        task: what is learnt; None takes the bundle's own.
        cluster: which devices take part; by default this machine alone.
        adapter: shape of the adapter.
        options: how to train.
        fields: other names of the data's fields.
        cache_dtype: how activations are stored.
        cache_quota_bytes: limit of each device's cache; when going on, None keeps the run's.
        plan: a plan to run, from ``pacplus plan --json`` or a run's ``plan.json``; by default
            the best one is made.
        resume: go on with the run in ``output``.
        watcher: is told of progress.

    Raises:
        BadInputError: a file, a line or a field is wrong; nothing was written.
        InfeasibleError: no plan fits the devices.
        StoppedError: a device was lost; the run can be resumed.
    """
    watcher = watcher or NullObserver()
    choice = adapter or AdapterChoice()
    options = options or TrainingOptions()
    given = read_plan(plan) if plan is not None else None
    if not resume:
        check_new(output)
    prepared = prepare(bundle, data, evaluation, task, choice, options, fields)
    settings = run_settings(prepared, data, evaluation, fields, cache_dtype, cache_quota_bytes)
    run = (RunFolder.resume if resume else RunFolder.create)(output, settings)
    _announce(watcher, prepared)
    checkpoint = run.last_checkpoint() if resume else None
    decide = given.adopt if given is not None else make_plan
    training = TrainingRun(run, prepared, checkpoint, cluster or Cluster(), watcher, decide)
    try:
        report = training.run(cache_dtype, run.settings().cache_quota_bytes)
    except (BadInputError, InfeasibleError):
        if not resume:
            run.discard_unplanned()
        raise
    return TrainResult(run=output, report=report)


def evaluate(
    run: Path,
    data: Path,
    *,
    bundle: Path | None = None,
    generation: GenerationOptions | None = None,
    cluster: Cluster | None = None,
    watcher: Observer | None = None,
) -> dict[str, float]:
    """Metrics of a run's adapter on ``data``.

    Args:
        run: folder of a finished run.
        data: JSONL like the training data.
        bundle: where the bundle is now, if it has moved.
        generation: has a language model also write, in this way, what each line asks for:
            ``exact_match`` is the share of lines where it writes what the line has.
        cluster: which devices compute; by default this machine alone.
        watcher: is told of progress.

    Raises:
        BadInputError: the run, the bundle or the data is wrong.
    """
    folder = RunFolder(run)
    config, adapter = folder.read_adapter_graph()
    settings = folder.settings()
    opened = bundle_of_run(folder, config, bundle)
    watcher = watcher or NullObserver()
    names = settings.fields
    expected = None
    if config.task == "classification" or config.task == "regression":
        _refuse_generation(run, generation)
        found = read_evaluation_data(data, config.task, config.labels, names)
        check_pairs(config, found.inputs, data, names.text_pair)
        tabled = tabled_labelled(opened, found, BATCH_SIZE)
    else:
        tabled = tabled_language(opened, data, config.task, names, BATCH_SIZE)
        if generation is not None:
            expected = read_prompts(data, config.task, names, expected=True)
    table = _announced(watcher, tabled)
    outputs = _outputs(opened, config, adapter, settings, table, cluster, watcher)
    result = metrics(config.task, outputs, table.targets)
    if expected is not None and generation is not None:
        written = generate(
            opened, config, adapter, expected, data, generation, cluster or Cluster(), watcher
        )
        result["exact_match"] = exact_match(written, expected.expected)
    return result


def predict(
    run: Path,
    texts: Sequence[str] | Path,
    *,
    bundle: Path | None = None,
    generation: GenerationOptions | None = None,
    cluster: Cluster | None = None,
    watcher: Observer | None = None,
) -> tuple[Prediction, ...]:
    """What a run's adapter says of ``texts``, or writes behind them.

    Args:
        run: folder of a finished run.
        texts: strings, or a JSONL file with ``text``; with ``prompt``, ``messages`` or
            ``source`` where the run is a language model.
        bundle: where the bundle is now, if it has moved.
        generation: how a language model writes; by default greedily, 64 tokens at most.
        cluster: which devices compute; by default this machine alone.
        watcher: is told of progress.

    Raises:
        BadInputError: the run, the bundle or the data is wrong.
        UsageError: the run takes pairs, which strings are not; or it is no language model,
            but ``generation`` is given.
    """
    folder = RunFolder(run)
    config, adapter = folder.read_adapter_graph()
    settings = folder.settings()
    opened = bundle_of_run(folder, config, bundle)
    names = settings.fields
    data = texts if isinstance(texts, Path) else None
    given = () if isinstance(texts, Path) else tuple(texts)
    numbers = tuple(range(1, len(given) + 1))
    if config.task == "causal-lm" or config.task == "seq2seq":
        prompts = Prompts(texts=given, line_numbers=numbers)
        if data is not None:
            prompts = read_prompts(data, config.task, names)
        how = generation or GenerationOptions()
        return _written(opened, config, adapter, prompts, data, how, cluster, watcher)
    _refuse_generation(run, generation)
    inputs = Texts(texts=given, pairs=None, line_numbers=numbers)
    if data is not None:
        inputs = read_texts(data, names)
    check_pairs(config, inputs, data, names.text_pair)
    if not len(inputs):
        return ()
    watcher = watcher or NullObserver()
    nothing = DataSet(inputs=inputs, targets=np.zeros(len(inputs), np.int64), labels=())
    table = _announced(watcher, tabled_labelled(opened, nothing, BATCH_SIZE))
    outputs = _outputs(opened, config, adapter, settings, table, cluster, watcher)
    return tuple(_prediction(config, row) for row in outputs)


def _refuse_generation(run: Path, generation: GenerationOptions | None) -> None:
    if generation is not None:
        raise UsageError(
            f"{run}: is no language model, so it writes no text; leave --generate, "
            "--max-new-tokens, --temperature, --top-k and --top-p out"
        )


def _written(
    bundle: Bundle,
    config: AdapterConfig,
    adapter: bytes,
    prompts: Prompts,
    data: Path | None,
    generation: GenerationOptions,
    cluster: Cluster | None,
    watcher: Observer | None,
) -> tuple[Prediction, ...]:
    if not len(prompts):
        return ()
    cluster, watcher = cluster or Cluster(), watcher or NullObserver()
    texts = generate(bundle, config, adapter, prompts, data, generation, cluster, watcher)
    return tuple(Prediction(text=text) for text in texts)


def _announce(watcher: Observer, prepared: Prepared) -> None:
    watcher.prepared(len(prepared.tables["train"]), prepared.truncated)
    for note in prepared.notes:
        watcher.note(note)


def _announced(watcher: Observer, tabled: TokenizedFile) -> SampleTable:
    watcher.prepared(len(tabled.table), tabled.truncated)
    for note in tabled.notes:
        watcher.note(note)
    return tabled.table


def _outputs(
    bundle: Bundle,
    config: AdapterConfig,
    adapter: bytes,
    settings: Settings,
    table: SampleTable,
    cluster: Cluster | None,
    watcher: Observer,
) -> Array:
    """Outputs (N, C) of an adapter for the samples of a table."""
    options = TrainingOptions(epochs=0, batch_size=BATCH_SIZE)
    tables: dict[SampleSet, SampleTable] = {"eval": table}
    cache_dtype: CacheDtype = settings.cache_dtype
    with open_host(cluster or Cluster()) as host:
        job = Job(
            manifest=bundle.manifest,
            config=config,
            options=options,
            tables=tables,
            devices=host.devices,
            make_plan=planner(bundle.manifest, config, options, tables, cache_dtype),
            cache_dtype=cache_dtype,
            cache_quota_bytes=settings.cache_quota_bytes,
            adapter_graph=adapter,
        )
        session = Session(job)
        serve(host, bundle, session, watcher)
    outputs = session.record.outputs_before
    if outputs is None:
        raise StoppedError("the session ended without outputs")
    return outputs


def _prediction(config: AdapterConfig, row: Array) -> Prediction:
    if config.task == "regression":
        return Prediction(value=float(row[0]))
    exponents = np.exp(row - row.max())
    scores = (exponents / exponents.sum()).tolist()
    return Prediction(
        label=config.labels[int(row.argmax())],
        scores=dict(zip(config.labels, scores, strict=True)),
    )
