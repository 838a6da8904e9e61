"""Checks and tokenises what the user gave, before anything is started or written."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TypeAlias

import numpy as np

from coordinator.data import (
    DataSet,
    DataTask,
    FieldNames,
    LanguageTask,
    Texts,
    read_evaluation_data,
    read_language_data,
    read_training_data,
)
from coordinator.runs.run_folder import RunFolder, Settings
from coordinator.samples.samples import SampleTable
from coordinator.tokenization import LanguageTokenizer, SampleTokenizer
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.errors import BadInputError, UsageError
from edge_runtime.contract.manifest import Manifest, Task
from edge_runtime.contract.messages import CacheDtype, SampleSet
from export.partition.stages import Bundle, open_bundle

from .adapter_config import (
    AdapterChoice,
    DataTraits,
    adapter_config,
    added_layers,
    check_initial_weights,
    task_for,
)

Tables: TypeAlias = dict[SampleSet, SampleTable]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """Inputs, checked and tokenised.

    Attributes:
        bundle: opened and verified.
        tables: training and, if given, evaluation samples.
        config: shape of the adapter.
        options: how to train.
        truncated: samples that were longer than the bundle's ``max_length``.
        notes: what the user should know besides.
    """

    bundle: Bundle
    tables: Tables
    config: AdapterConfig
    options: TrainingOptions
    truncated: int
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenizedFile:
    """A data file as a table of samples.

    Attributes:
        table: the samples.
        truncated: how many of them were cut.
        notes: what the user should know besides.
    """

    table: SampleTable
    truncated: int
    notes: tuple[str, ...] = ()


def prepare(
    bundle: Path,
    data: Path,
    evaluation: Path | None,
    task: Task | None,
    choice: AdapterChoice,
    options: TrainingOptions,
    fields: FieldNames | None,
) -> Prepared:
    """Opens the bundle, reads and tokenises the data.

    Args:
        bundle: folder of the bundle.
        data: file to train on.
        evaluation: file to evaluate on, if any.
        task: None takes the bundle's own.
        choice: of the adapter.
        options: how to train.
        fields: other names of the data's fields.

    Raises:
        BadInputError: something is wrong with one of them; the message says what and where.
    """
    opened = open_bundle(bundle)
    manifest = opened.manifest
    chosen = task_for(manifest, task)
    files: dict[SampleSet, Path] = {"train": data}
    if evaluation is not None:
        files["eval"] = evaluation
    size = options.batch_size
    if chosen == "classification" or chosen == "regression":
        found = _labelled(files, chosen, fields)
        learnt = _learnt(found["train"], chosen)
        tabled = {which: tabled_labelled(opened, found[which], size) for which in found}
    else:
        learnt = DataTraits()
        tabled = {
            which: tabled_language(opened, path, chosen, fields, size)
            for which, path in files.items()
        }
    config = adapter_config(manifest, chosen, choice, learnt)
    check_initial_weights(opened.path, manifest, config)
    return Prepared(
        bundle=opened,
        tables={which: part.table for which, part in tabled.items()},
        config=config,
        options=options,
        truncated=sum(part.truncated for part in tabled.values()),
        notes=(*_notes_on(choice, config), *(n for part in tabled.values() for n in part.notes)),
    )


def _labelled(
    files: dict[SampleSet, Path], task: DataTask, fields: FieldNames | None
) -> dict[SampleSet, DataSet]:
    train = read_training_data(files["train"], task, fields)
    found: dict[SampleSet, DataSet] = {"train": train}
    if "eval" in files:
        found["eval"] = read_evaluation_data(files["eval"], task, train.labels, fields)
        if (found["eval"].inputs.pairs is None) != (train.inputs.pairs is None):
            raise BadInputError(
                f"{files['eval']}: text_pair must be in both data files or in neither"
            )
    return found


def _learnt(data: DataSet, task: DataTask) -> DataTraits:
    values = np.asarray(data.targets, np.float32) if task == "regression" else None
    return DataTraits(labels=data.labels, pair=data.inputs.pairs is not None, values=values)


def _notes_on(choice: AdapterChoice, config: AdapterConfig) -> tuple[str, ...]:
    added = ", ".join(map(str, added_layers(choice.layers, config.layers)))
    return (f"adapter layers: added {added}, the last of a stack",) if added else ()


def tabled_labelled(bundle: Bundle, data: DataSet, batch_size: int) -> TokenizedFile:
    """Tokenises lines with labels.

    Raises:
        BadInputError: the bundle's tokenizer cannot be used.
    """
    tokenizer = SampleTokenizer(bundle.path, bundle.manifest)
    tokenized = tokenizer.encode(data.inputs.texts, data.inputs.pairs)
    table = SampleTable.make(tokenized.samples, data.targets, batch_size)
    return TokenizedFile(table=table, truncated=tokenized.num_truncated)


def tabled_language(
    bundle: Bundle, path: Path, task: LanguageTask, fields: FieldNames | None, batch_size: int
) -> TokenizedFile:
    """Reads and tokenises lines for a language model.

    Raises:
        BadInputError: a line is not what it must be, or the bundle's tokenizer cannot be used.
    """
    data = read_language_data(path, task, fields)
    tokenized = LanguageTokenizer(bundle.path, bundle.manifest).encode(data, path)
    table = SampleTable.make(tokenized.samples, tokenized.targets, batch_size)
    skipped = _skipped(path, tokenized.num_skipped, bundle.manifest)
    return TokenizedFile(table=table, truncated=tokenized.num_truncated, notes=skipped)


def _skipped(path: Path, count: int, manifest: Manifest) -> tuple[str, ...]:
    if not count:
        return ()
    return (
        f"{path}: skipped {count} of its lines, without a token to learn within the model's "
        f"{manifest.max_length} tokens",
    )


def check_pairs(config: AdapterConfig, texts: Texts, data: Path | None, field: str) -> None:
    """A run on pairs takes pairs, any other takes single texts.

    Args:
        config: of the run's adapter.
        texts: to be given to it.
        data: where they are from; None for texts of the command line.
        field: what the second text is called in the data.

    Raises:
        BadInputError: they are of the other kind; the message says what to give.
        UsageError: so are texts of the command line, where pairs cannot be given.
    """
    if config.pair == (texts.pairs is not None):
        return
    if data is None:
        raise UsageError(
            f"the run was trained on pairs of texts; give a file with text and {field} (--data)"
        )
    if config.pair:
        raise BadInputError(
            f"{data}: the run was trained on pairs of texts; give the field {field!r} on every line"
        )
    raise BadInputError(
        f"{data}: the run was trained on single texts; leave the field {field!r} out"
    )


def bundle_of_run(folder: RunFolder, config: AdapterConfig, moved_to: Path | None) -> Bundle:
    """The bundle that a run's adapter was trained with.

    Args:
        folder: the run.
        config: of its adapter.
        moved_to: where the bundle is now, if not where the run found it.

    Raises:
        BadInputError: there is none, or it is another one.
    """
    path = moved_to or Path(folder.settings().bundle)
    if moved_to is None and not path.is_dir():
        raise BadInputError(
            f"{path}: the bundle of {folder.path} is not there any more; "
            "say with --bundle where it is now"
        )
    opened = open_bundle(path)
    if opened.manifest.digest != config.bundle_digest:
        raise BadInputError(
            f"{path}: is not the bundle that {folder.path} was trained with; "
            "give the right one with --bundle"
        )
    return opened


def run_settings(
    prepared: Prepared,
    data: Path,
    evaluation: Path | None,
    fields: FieldNames | None,
    cache_dtype: CacheDtype,
    cache_quota_bytes: int | None = None,
) -> Settings:
    """What decides the run's result, and what later commands go by."""
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
