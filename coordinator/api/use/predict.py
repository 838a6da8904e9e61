"""Uses a run's adapter: :func:`predict`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coordinator.api.inputs import check_pairs
from coordinator.api.reading import check_fields
from coordinator.cluster.observer import NullObserver, Observer
from coordinator.data import (
    DataFile,
    DataSet,
    Prompts,
    Texts,
    read_data,
    read_prompts,
    read_texts,
    said_by_user,
)
from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.checks import Array
from edge_runtime.contract.errors import UsageError
from edge_runtime.contract.generation import GenerationOptions

from .engines import Engine, engine_of
from .generate import generate
from .trained_run import TrainedRun

if TYPE_CHECKING:
    from coordinator.cluster.host import Cluster


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


def predict(
    run: Path,
    texts: Sequence[str] | Path | DataFile,
    *,
    bundle: Path | None = None,
    ignored: Sequence[str] = (),
    generation: GenerationOptions | None = None,
    cluster: Cluster | None = None,
    observer: Observer | None = None,
) -> tuple[Prediction, ...]:
    """Predicts labels or values of ``texts``, or writes what follows them.

    Args:
        run: folder of a finished run.
        texts: strings, or a file with ``text``; with ``prompt``, ``messages`` or ``source`` where
            the run is a language model. Strings are what a user says where it was trained on
            chats.
        bundle: where the bundle is now, if it has moved.
        ignored: fields that are not to be read, besides those of the training.
        generation: how a language model writes; by default greedily, 64 tokens at most.
        cluster: which devices compute; by default this process itself.
        observer: is told of progress.

    Raises:
        BadInputError: the run, the bundle or the data is wrong.
        UsageError: ``texts`` is one string; the run takes pairs, which strings are not; or it is
            no language model, but ``generation`` is given.
    """
    if isinstance(texts, str):
        raise UsageError("texts is one string; give a list of texts, or the path of a file")
    trained = TrainedRun.open(run, bundle)
    engine = engine_of(trained, cluster)
    return predictions(trained, engine, texts, ignored, generation, observer or NullObserver())


def predictions(
    trained: TrainedRun,
    engine: Engine,
    texts: Sequence[str] | Path | DataFile,
    ignored: Sequence[str],
    generation: GenerationOptions | None,
    observer: Observer,
) -> tuple[Prediction, ...]:
    """Predicts as :func:`predict`, with a run that is open.

    Raises:
        UserError: as :func:`predict`.
    """
    if isinstance(texts, str):
        raise UsageError("texts is one string; give a list of texts, or the path of a file")
    config, fields = trained.config, trained.settings.fields.ignoring(ignored)
    file = read_data(texts, fields.ignored) if isinstance(texts, Path | DataFile) else None
    name = None if file is None else file.name
    given = () if isinstance(texts, Path | DataFile) else tuple(texts)
    if file is not None:
        for note in check_fields(file, config.task, fields, learning=False):
            observer.note(note)
    places = tuple(f"text {number}" for number in range(1, len(given) + 1))
    _check_unicode(given, places)
    if config.task == "causal-lm" or config.task == "seq2seq":
        if file is not None:
            prompts = read_prompts(file, config.task, fields)
        elif trained.settings.chats:
            prompts = said_by_user(given, places)
        else:
            prompts = Prompts(texts=given, places=places)
        how = generation or GenerationOptions()
        written = generate(trained, prompts, name, how, engine, observer) if len(prompts) else ()
        return tuple(Prediction(text=text) for text in written)
    trained.refuse_generation(generation)
    inputs = Texts(texts=given, pairs=None, places=places)
    if file is not None:
        inputs = read_texts(file, fields)
    check_pairs(config, inputs, name, fields.text_pair)
    if not len(inputs):
        return ()
    unlabelled = DataSet(inputs=inputs, targets=np.zeros(len(inputs), np.int64), labels=())
    prepared = trained.tokenize(unlabelled, file, observer)
    outputs = engine.outputs(prepared.tables["eval"], observer)
    return tuple(_prediction(config, row) for row in outputs)


def _check_unicode(texts: Sequence[str], places: Sequence[str]) -> None:
    """Refuses what the command line makes of bytes that are no text."""
    for place, text in zip(places, texts, strict=True):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{place}: is no text in UTF-8; mend it, or give a file") from None


def _prediction(config: AdapterConfig, row: Array) -> Prediction:
    if config.task == "regression":
        return Prediction(value=float(row[0]))
    exponents = np.exp(row - row.max())
    scores = (exponents / exponents.sum()).tolist()
    return Prediction(
        label=config.labels[int(row.argmax())],
        scores=dict(zip(config.labels, scores, strict=True)),
    )
