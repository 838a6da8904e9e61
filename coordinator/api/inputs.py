"""Reads, checks and tokenizes what the user gave, before anything is started or written.

One way through: data, their traits, the adapter that these ask for, tables of samples.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from coordinator.cluster.observer import Observer
from coordinator.data import (
    DataFile,
    DataSet,
    FieldNames,
    LanguageData,
    Source,
    Texts,
    form_of_data,
)
from coordinator.runs.run_folder import Settings
from coordinator.samples.samples import SampleTable
from coordinator.tokenization import LanguageTokenizer, SampleTokenizer
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions, settled
from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import BadInputError, UsageError
from edge_runtime.contract.manifest import Task
from edge_runtime.contract.messages import CacheDtype, SampleSet
from edge_runtime.contract.sample import Ragged
from export.partition.stages import Bundle, open_bundle

from .adapter_config import (
    AdapterChoice,
    adapter_config,
    added_layers,
    check_initial_weights,
    indistinct_values,
    task_for,
)
from .max_length import MaxLength, limited, longest_of, note_on_cut, note_on_longest, usual_limit
from .reading import read_inputs
from .training_choice import auto_batch_size as batch_size_for

Tables: TypeAlias = dict[SampleSet, SampleTable]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prepared:
    """The work of a session: model, adapter and samples, checked and tokenized.

    Attributes:
        options: of training; ``epochs`` is 0 where nothing is trained.
        tables: samples to train on, to evaluate on, or both.
        files: where they are from.
        max_length: most tokens of a line, if the user limited them.
        truncated: where the lines stand that were longer than that or the bundle's own limit.
        notes: what the user should know besides.
    """

    bundle: Bundle
    config: AdapterConfig
    options: TrainingOptions
    tables: Tables
    files: Mapping[SampleSet, DataFile] = dataclasses.field(default_factory=dict)
    max_length: int | None = None
    truncated: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def announce(self, observer: Observer) -> None:
        """Tells what was read: lines of the training data, or else of the only file."""
        which, table = next(iter(self.tables.items()))
        lines, truncated = len(table), len(self.truncated)
        if which in self.files:  # a line may be several samples, or none
            places = {line.place for line in self.files[which].lines}
            lines, truncated = len(places), len(places.intersection(self.truncated))
        observer.prepared(lines, truncated)
        for note in self.notes:
            observer.note(note)


def prepare(
    bundle: Path,
    data: Source,
    evaluation: Source | None,
    task: Task | None,
    choice: AdapterChoice,
    options: TrainingOptions,
    fields: FieldNames | None,
    held_out: float | None = None,
    max_length: MaxLength | None = None,
    *,
    auto_batch_size: bool = False,
) -> Prepared:
    """Prepares training; ``task`` None takes the bundle's own.

    With ``auto_batch_size``, the options' batch size is chosen by the data.

    Raises:
        BadInputError: something is wrong with bundle, data or choice; says what and where.
        UsageError: a field's name, ``held_out`` or ``max_length`` is wrong.
    """
    opened = open_bundle(bundle)
    chosen = task_for(opened.manifest, task)
    inputs = read_inputs(data, evaluation, chosen, fields or FieldNames(), held_out)
    if auto_batch_size:
        size = batch_size_for(chosen, _count(inputs.found["train"]), options.epochs)
        options = dataclasses.replace(options, batch_size=size)
    config = adapter_config(opened.manifest, chosen, choice, inputs.traits)
    check_initial_weights(opened.path, opened.manifest, config)
    options = settled(options, config)
    tokenized = (opened, config, options, inputs.found, inputs.files)
    if max_length == "auto":
        whole = tokenize(*tokenized)
        limit = usual_limit(whole.tables.values())
        prepared = tokenize(*tokenized, limit) if limit is not None else whole
    else:
        prepared = tokenize(*tokenized, max_length)
    long = []
    if max_length is None:
        tables = prepared.tables.values()
        long = note_on_longest([(longest_of(each.samples), each.line_name) for each in tables])
    notes = [*indistinct_values(config, inputs.traits), *inputs.notes, *prepared.notes, *long]
    if added := added_layers(choice.layers, config.layers):
        notes.insert(0, f"adapter layers: added {', '.join(map(str, added))}, the last of a stack")
    return dataclasses.replace(prepared, notes=tuple(notes))


def _count(found: DataSet | LanguageData) -> int:
    """Lines to learn from; a chat may be several."""
    return len(found.inputs.places if isinstance(found, DataSet) else found.places)


def tokenize(
    bundle: Bundle,
    config: AdapterConfig,
    options: TrainingOptions,
    data: Mapping[SampleSet, DataSet | LanguageData],
    files: Mapping[SampleSet, DataFile],
    max_length: int | None = None,
    tokenizer: SampleTokenizer | None = None,
) -> Prepared:
    """Tokenizes data; ``files`` say where they are from, ``tokenizer`` is one loaded earlier.

    Raises:
        BadInputError: the bundle's tokenizer cannot be used for them.
        UsageError: ``max_length`` is more than the model takes, or too little.
    """
    tables: Tables = {}
    truncated: list[str] = []
    notes: list[str] = []
    manifest = limited(bundle.manifest, max_length)
    targets: Array | Ragged
    for which, found in data.items():
        if isinstance(found, DataSet):
            places = found.inputs.places
            texts, pairs = found.inputs.texts, found.inputs.pairs
            tokenizer = tokenizer or SampleTokenizer(bundle.path, manifest)
            labelled = tokenizer.encode(texts, pairs)
            cut, samples, targets = labelled.truncated, labelled.samples, found.targets
            of_sample = places
        else:
            places, path = found.places, files[which].name
            language = LanguageTokenizer(bundle.path, manifest).encode(found, path)
            cut, samples, targets = language.truncated, language.samples, language.targets
            of_sample = tuple(places[line] for line in language.kept.tolist())
            notes += language.notes
            if skipped := language.num_skipped:
                notes.append(
                    f"{path}: skipped {skipped} of its lines, without a token to learn within "
                    f"{manifest.max_length} tokens"
                )
        tables[which] = SampleTable.make(
            samples, targets, options.batch_size, of_sample.__getitem__
        )
        truncated += (places[line] for line in cut)
        if cut:
            named = [places[line] for line in cut]
            notes.append(note_on_cut(named, len(places), manifest.max_length))
    return Prepared(
        bundle=bundle,
        config=config,
        options=options,
        tables=tables,
        files=files,
        max_length=max_length,
        truncated=tuple(truncated),
        notes=tuple(notes),
    )


def sample_tokenizer(bundle: Bundle, max_length: int | None) -> SampleTokenizer:
    """Loads the tokenizer of labelled data, for :func:`tokenize` with the same limit."""
    return SampleTokenizer(bundle.path, limited(bundle.manifest, max_length))


def check_pairs(config: AdapterConfig, texts: Texts, data: str | None, field: str) -> None:
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
    fields: FieldNames | None,
    cache_dtype: CacheDtype,
    cache_quota_bytes: int | None = None,
    held_out: float | None = None,
) -> Settings:
    """Collects what decides the run's result, and what later commands go by."""
    options, config, names = prepared.options, prepared.config, fields or FieldNames()
    first = prepared.files["train"].lines[:1]  # all have one form, which was checked
    form = form_of_data(first, config.task, names)
    return Settings(
        bundle=str(prepared.bundle.path.resolve()),
        bundle_digest=prepared.bundle.manifest.digest,
        data_sha256=prepared.files["train"].sha256,
        eval_sha256=prepared.files["eval"].sha256 if "eval" in prepared.files else "",
        held_out=held_out,
        fields=names,
        task=config.task,
        adapter=config.kind,
        adapter_layers=config.layers,
        adapter_heads=config.num_heads,
        adapter_init=config.initialization,
        reduction=config.reduction,
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.peak,
        seed=options.seed,
        cache_dtype=cache_dtype,
        cache_quota_bytes=cache_quota_bytes,
        max_length=prepared.max_length,
        loss=options.loss if config.generative else "exact",
        adapter_seed=options.adapter_seed,
        weight_decay=options.weight_decay,
        schedule=options.schedule,
        chats=form in ("chat", "instruction"),
    )
