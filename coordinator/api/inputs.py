"""Reads, checks and tokenizes what the user gave, before anything is started or written.

One way through: data, their traits, the adapter that these ask for, tables of samples.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from coordinator.cluster.observer import Observer
from coordinator.data import (
    DataSet,
    FieldNames,
    LanguageData,
    Texts,
    read_evaluation_data,
    read_language_data,
    read_training_data,
)
from coordinator.runs.run_folder import Settings
from coordinator.samples.samples import SampleTable
from coordinator.tokenization import LanguageTokenizer, SampleTokenizer
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.errors import BadInputError, UsageError
from edge_runtime.contract.manifest import Task
from edge_runtime.contract.messages import CacheDtype, SampleSet
from export.partition.stages import Bundle, open_bundle

from .adapter_config import (
    AdapterChoice,
    DataTraits,
    adapter_config,
    added_layers,
    check_initial_weights,
    indistinct_values,
    task_for,
)

Tables: TypeAlias = dict[SampleSet, SampleTable]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """The work of a session: model, adapter and samples, checked and tokenized.

    Attributes:
        options: of training; ``epochs`` is 0 where nothing is trained.
        tables: samples to train on, to evaluate on, or both.
        truncated: samples that were longer than the bundle's ``max_length``.
        notes: what the user should know besides.
    """

    bundle: Bundle
    config: AdapterConfig
    options: TrainingOptions
    tables: Tables
    truncated: int = 0
    notes: tuple[str, ...] = ()

    def announce(self, observer: Observer) -> None:
        """Tells what was read: lines of the training data, or else of the only file."""
        first = next(iter(self.tables.values()))
        observer.prepared(len(first), self.truncated)
        for note in self.notes:
            observer.note(note)


def prepare(
    bundle: Path,
    data: Path,
    evaluation: Path | None,
    task: Task | None,
    choice: AdapterChoice,
    options: TrainingOptions,
    fields: FieldNames | None,
) -> Prepared:
    """Prepares training; ``task`` None takes the bundle's own.

    Raises:
        BadInputError: something is wrong with bundle, data or choice; says what and where.
    """
    opened = open_bundle(bundle)
    chosen = task_for(opened.manifest, task)
    paths: dict[SampleSet, Path] = {"train": data}
    if evaluation is not None:
        paths["eval"] = evaluation
    found, traits = _read(paths, chosen, fields)
    config = adapter_config(opened.manifest, chosen, choice, traits)
    check_initial_weights(opened.path, opened.manifest, config)
    prepared = tokenize(opened, config, options, found, paths)
    notes = indistinct_values(config, traits)
    if added := added_layers(choice.layers, config.layers):
        notes += (f"adapter layers: added {', '.join(map(str, added))}, the last of a stack",)
    return dataclasses.replace(prepared, notes=(*notes, *prepared.notes))


def _read(
    paths: Mapping[SampleSet, Path], task: Task, fields: FieldNames | None
) -> tuple[Mapping[SampleSet, DataSet | LanguageData], DataTraits]:
    if task == "causal-lm" or task == "seq2seq":
        language = {which: read_language_data(path, task, fields) for which, path in paths.items()}
        return language, DataTraits()
    train = read_training_data(paths["train"], task, fields)
    found: dict[SampleSet, DataSet] = {"train": train}
    pair = train.inputs.pairs is not None
    if path := paths.get("eval"):
        found["eval"] = read_evaluation_data(path, task, train.labels, fields)
        if (found["eval"].inputs.pairs is not None) != pair:
            raise BadInputError(f"{path}: text_pair must be in both data files or in neither")
    values = np.asarray(train.targets, np.float64) if task == "regression" else None
    return found, DataTraits(labels=train.labels, pair=pair, values=values)


def tokenize(
    bundle: Bundle,
    config: AdapterConfig,
    options: TrainingOptions,
    data: Mapping[SampleSet, DataSet | LanguageData],
    paths: Mapping[SampleSet, Path],
) -> Prepared:
    """Tokenizes data; ``paths`` say where they are from, for messages about language data.

    Raises:
        BadInputError: the bundle's tokenizer cannot be used for them.
    """
    tables: Tables = {}
    truncated = 0
    notes: list[str] = []
    for which, found in data.items():
        if isinstance(found, DataSet):
            texts, pairs = found.inputs.texts, found.inputs.pairs
            labelled = SampleTokenizer(bundle.path, bundle.manifest).encode(texts, pairs)
            tables[which] = SampleTable.make(labelled.samples, found.targets, options.batch_size)
            truncated += labelled.num_truncated
            continue
        path = paths[which]
        language = LanguageTokenizer(bundle.path, bundle.manifest).encode(found, path)
        tables[which] = SampleTable.make(language.samples, language.targets, options.batch_size)
        truncated += language.num_truncated
        notes += language.notes
        if skipped := language.num_skipped:
            notes.append(
                f"{path}: skipped {skipped} of its lines, without a token to learn within the "
                f"model's {bundle.manifest.max_length} tokens"
            )
    return Prepared(
        bundle=bundle,
        config=config,
        options=options,
        tables=tables,
        truncated=truncated,
        notes=tuple(notes),
    )


def check_pairs(config: AdapterConfig, texts: Texts, data: Path | None, field: str) -> None:
    """Refuses single texts for a run on pairs, and pairs for any other.

    Args:
        config: of the run's adapter.
        texts: to be given to it.
        data: where they are from; None for the command line, which cannot give pairs.
        field: what the second text is called in the data.

    Raises:
        BadInputError: they are of the other kind, or UsageError if ``data`` is None.
    """
    if config.pair == (texts.pairs is not None):
        return
    if data is None:
        raise UsageError(
            f"the run was trained on pairs of texts; give a file with text and {field} (--data)"
        )
    kind, do = "single texts", f"leave the field {field!r} out"
    if config.pair:
        kind, do = "pairs of texts", f"give the field {field!r} on every line"
    raise BadInputError(f"{data}: the run was trained on {kind}; {do}")


def run_settings(
    prepared: Prepared,
    data: Path,
    evaluation: Path | None,
    fields: FieldNames | None,
    cache_dtype: CacheDtype,
    cache_quota_bytes: int | None = None,
) -> Settings:
    """Collects what decides the run's result, and what later commands go by."""
    options, config = prepared.options, prepared.config
    return Settings(
        bundle=str(prepared.bundle.path.resolve()),
        bundle_digest=prepared.bundle.manifest.digest,
        data_sha256=_sha256(data),
        eval_sha256=_sha256(evaluation) if evaluation else "",
        fields=fields or FieldNames(),
        task=config.task,
        adapter=config.kind,
        adapter_layers=config.layers,
        adapter_heads=config.num_heads,
        adapter_init=config.initialization,
        reduction=config.reduction,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        cache_dtype=cache_dtype,
        cache_quota_bytes=cache_quota_bytes,
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
