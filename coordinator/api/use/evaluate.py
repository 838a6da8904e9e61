"""Evaluates a run's adapter: :func:`evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.api.inputs import check_pairs
from coordinator.api.metrics import exact_match, metrics
from coordinator.api.reading import check_fields
from coordinator.cluster.observer import NullObserver, Observer
from coordinator.data import (
    DataSet,
    LanguageData,
    Source,
    read_data,
    read_evaluation_data,
    read_language_data,
    read_prompts,
)
from coordinator.data.quality import notes_on
from edge_runtime.contract.generation import GenerationOptions

from .engines import Engine, engine_of
from .generate import generate
from .trained_run import TrainedRun

if TYPE_CHECKING:
    from coordinator.cluster.host import Cluster


def evaluate(
    run: Path,
    data: Source,
    *,
    bundle: Path | None = None,
    ignored: Sequence[str] = (),
    generation: GenerationOptions | None = None,
    cluster: Cluster | None = None,
    observer: Observer | None = None,
) -> dict[str, float]:
    """Computes metrics of a run's adapter on ``data``.

    Args:
        run: folder of a finished run.
        data: a file like the training data, or several.
        bundle: where the bundle is now, if it has moved.
        ignored: fields that are not to be read, besides those of the training.
        generation: has a language model also write, in this way, what each line asks for:
            ``exact_match`` is the share of lines where it writes what the line has.
        cluster: which devices compute; by default this process itself.
        observer: is told of progress.

    Raises:
        BadInputError: the run, the bundle or the data is wrong.
        UsageError: a field that is needed is ignored; or the run is no language model, but
            ``generation`` is given.
    """
    trained = TrainedRun.open(run, bundle)
    engine = engine_of(trained, cluster)
    return scores(trained, engine, data, ignored, generation, observer or NullObserver())


def scores(
    trained: TrainedRun,
    engine: Engine,
    data: Source,
    ignored: Sequence[str],
    generation: GenerationOptions | None,
    observer: Observer,
) -> dict[str, float]:
    """Computes metrics as :func:`evaluate`, with a run that is open.

    Raises:
        UserError: as :func:`evaluate`.
    """
    config, fields = trained.config, trained.settings.fields.ignoring(ignored)
    fields.check(config.task)
    file = read_data(data, fields.ignored)
    for note in check_fields(file, config.task, fields):
        observer.note(note)
    expected = None
    found: DataSet | LanguageData
    if config.task == "classification" or config.task == "regression":
        trained.refuse_generation(generation)
        found = labelled = read_evaluation_data(file, config.task, config.labels, fields)
        check_pairs(config, labelled.inputs, file.name, fields.text_pair)
    else:
        found = read_language_data(file, config.task, fields)
        if generation is not None:
            expected = read_prompts(file, config.task, fields, expected=True)
    for note in notes_on(found, file.name, learning=False):
        observer.note(note)
    prepared = trained.tokenize(found, file, observer)
    table = prepared.tables["eval"]
    result = metrics(config.task, engine.outputs(table, observer), table.targets)
    if expected is not None and generation is not None:
        tokenizer = trained.prompt_tokenizer(generation.max_new_tokens)
        references = tokenizer.expected(expected, file.name)
        if longer := tokenizer.count_longer(references, generation.max_new_tokens):
            observer.note(
                f"{longer} of {len(references)} references are longer than "
                f"{generation.max_new_tokens} tokens, so they count as missed; raise "
                "--max-new-tokens"
            )
        written = generate(trained, expected, file.name, generation, engine, observer)
        result["exact_match"] = exact_match(written, references)
    return result
