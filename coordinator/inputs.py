"""Checks and tokenises what the user gave, before anything is started or written."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from edge_runtime.contract.adapter import AdapterConfig, AdapterKind, TrainingOptions
from edge_runtime.contract.errors import BadInputError, UsageError
from edge_runtime.contract.manifest import Manifest
from edge_runtime.contract.messages import CacheDtype, SampleSet
from export.stages import Bundle, open_bundle

from .data import DataSet, DataTask, FieldNames, Texts, read_evaluation_data, read_training_data
from .ownership import SampleTable
from .run_folder import Settings
from .tokenize import SampleTokenizer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AdapterChoice:
    """What the user chooses of the adapter; None takes the kind's measured default.

    ``layers`` is ``"all"``, ``"every:K"`` or a comma-separated list of hidden states.
    """

    kind: AdapterKind = "attention"
    reduction: int = 8
    layers: str = "all"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """Inputs, checked and tokenised.

    Attributes:
        bundle: opened and verified.
        data: the training lines.
        tables: training and, if given, evaluation samples.
        config: shape of the adapter.
        options: how to train.
        truncated: texts longer than the bundle's ``max_length``.
    """

    bundle: Bundle
    data: DataSet
    tables: dict[SampleSet, SampleTable]
    config: AdapterConfig
    options: TrainingOptions
    truncated: int


def prepare(
    bundle: Path,
    data: Path,
    evaluation: Path | None,
    task: DataTask,
    choice: AdapterChoice,
    options: TrainingOptions,
    fields: FieldNames | None,
) -> Prepared:
    """Opens the bundle, reads and tokenises the data.

    Raises:
        BadInputError: something is wrong with one of them; the message says what and where.
    """
    opened = open_bundle(bundle)
    train_data = read_training_data(data, task, fields)
    tokenizer = SampleTokenizer(opened.path, opened.manifest)
    found: dict[SampleSet, DataSet] = {"train": train_data}
    if evaluation is not None:
        found["eval"] = read_evaluation_data(evaluation, task, train_data.labels, fields)
        if (found["eval"].inputs.pairs is None) != (train_data.inputs.pairs is None):
            raise BadInputError(f"{evaluation}: text_pair must be in both data files or in neither")
    tables, truncated = {}, 0
    for which, dataset in found.items():
        tokenized = tokenizer.encode(dataset.inputs.texts, dataset.inputs.pairs)
        truncated += tokenized.num_truncated
        tables[which] = SampleTable.make(tokenized.samples, dataset.targets, options.batch_size)
    config = _adapter_config(opened.manifest, train_data, task, choice)
    return Prepared(
        bundle=opened,
        data=train_data,
        tables=tables,
        config=config,
        options=options,
        truncated=truncated,
    )


def _adapter_config(
    manifest: Manifest, data: DataSet, task: DataTask, choice: AdapterChoice
) -> AdapterConfig:
    mean, scale = 0.0, 1.0
    if task == "regression":
        mean = float(data.targets.mean())
        scale = float(data.targets.std()) or 1.0
    try:
        return AdapterConfig(
            kind=choice.kind,
            hidden_size=manifest.hidden_size,
            reduction=choice.reduction,
            layers=parse_layers(choice.layers, len(manifest.blocks) - 1),
            task=task,
            num_outputs=len(data.labels) if task == "classification" else 1,
            pair=data.inputs.pairs is not None,
            target_mean=mean,
            target_scale=scale,
            base_model=manifest.model_id,
            bundle_digest=manifest.digest,
            labels=data.labels,
        )
    except ValueError as error:
        raise BadInputError(f"adapter: {error}") from None


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


def parse_layers(text: str, last: int) -> tuple[int, ...]:
    """Hidden states that an adapter reads, out of 0..last; the last one is always read.

    Raises:
        BadInputError: the text is none of ``all``, ``every:K`` and a list of numbers.
    """
    if text == "all":
        return tuple(range(last + 1))
    try:
        if text.startswith("every:"):
            chosen = set(range(last, -1, -int(text.removeprefix("every:"))))
        else:
            chosen = {int(item) for item in text.split(",")}
    except ValueError:
        chosen = {-1}
    if not chosen or min(chosen) < 0 or max(chosen) > last:
        raise BadInputError(
            f"adapter layers {text!r}: write all, every:K, or numbers from 0 to {last}"
        )
    return tuple(sorted(chosen | {last}))


def run_settings(
    prepared: Prepared,
    data: Path,
    evaluation: Path | None,
    task: DataTask,
    choice: AdapterChoice,
    fields: FieldNames | None,
    cache_dtype: CacheDtype,
    cache_quota_bytes: int | None = None,
) -> Settings:
    """What decides the run's result, and what later commands go by."""
    names = fields or FieldNames()
    options = prepared.options
    return Settings(
        bundle=str(prepared.bundle.path.resolve()),
        bundle_digest=prepared.bundle.manifest.digest,
        data_sha256=_sha256(data),
        eval_sha256=_sha256(evaluation) if evaluation else "",
        fields=(names.text, names.text_pair, names.label),
        task=task,
        adapter=choice.kind,
        adapter_layers=prepared.config.layers,
        reduction=choice.reduction,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        cache_dtype=cache_dtype,
        cache_quota_bytes=cache_quota_bytes,
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def field_names(settings: Settings) -> FieldNames:
    """Names of the data's fields."""
    text, text_pair, label = settings.fields
    return FieldNames(text=text, text_pair=text_pair, label=label)
