"""Reads what the user gave to train and evaluate on, and says what is odd about it."""

import collections
import dataclasses
import shlex
from collections.abc import Mapping

import numpy as np

from coordinator.data import (
    DataFile,
    DataSet,
    DataTask,
    FieldNames,
    LanguageData,
    Source,
    form_of_data,
    read_data,
    read_evaluation_data,
    read_language_data,
    read_training_data,
    split,
    unread_fields,
)
from coordinator.data.fields import (
    ANSWERS,
    ASKS,
    INPUT,
    INSTRUCTION,
    OUTPUT,
    SHAREGPT,
    Form,
    listed,
    quoted,
)
from coordinator.data.lines import Line
from coordinator.data.quality import check_answers, notes_on, notes_on_overlap
from edge_runtime.contract.errors import BadInputError, UsageError
from edge_runtime.contract.manifest import Task
from edge_runtime.contract.messages import SampleSet

from .adapter_config import DataTraits

CHATS = (SHAREGPT, INSTRUCTION)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """Data of a training, read and checked.

    Attributes:
        found: by data set.
        files: where they are from.
        traits: of the training data.
        notes: what the user should know of them.
    """

    found: Mapping[SampleSet, DataSet | LanguageData]
    files: Mapping[SampleSet, DataFile]
    traits: DataTraits
    notes: tuple[str, ...]


def read_inputs(
    data: Source,
    evaluation: Source | None,
    task: Task,
    fields: FieldNames,
    held_out: float | None = None,
) -> Inputs:
    """Reads training data, and evaluation data from a file of its own or held out.

    Args:
        data: to train on.
        evaluation: to evaluate on.
        task: of the run.
        fields: what the fields are called.
        held_out: fraction of ``data`` to evaluate on instead of training on it.

    Raises:
        BadInputError: a file or a line is not what it must be.
        UsageError: an option is wrong.
    """
    fields.check(task)
    whole = read_data(data, fields.ignored)
    files: dict[SampleSet, DataFile] = {"train": whole}
    check_named(whole, fields)
    notes = [*check_fields(whole, task, fields)]
    labels: tuple[str, ...] | None = None
    if held_out is not None:
        _check_split(evaluation, held_out)
        if task == "classification":
            labels = read_training_data(whole, task, fields).labels
        files["train"], files["eval"] = split(whole, held_out, _asked(whole, task, fields))
        held = len(files["eval"].lines)
        notes.append(f"{whole.name}: {held} of {len(whole.lines)} lines are held out")
    elif evaluation is not None:
        files["eval"] = read_data(evaluation, fields.ignored)
        notes += check_fields(files["eval"], task, fields)
    found: Mapping[SampleSet, DataSet | LanguageData]
    if task == "causal-lm" or task == "seq2seq":
        found = {which: read_language_data(file, task, fields) for which, file in files.items()}
        traits = DataTraits()
    else:
        found = labelled = _read_labelled(files, task, fields, labels)
        traits = _traits(labelled["train"], task)
    check_answers(found["train"], files["train"].name)
    notes += notes_on(found["train"], files["train"].name)
    if "eval" in found:
        name = files["eval"].name + " (held out)" * (held_out is not None)
        notes += notes_on(found["eval"], name, learning=False)
        notes += notes_on_overlap(found["train"], found["eval"], name)
    return Inputs(found=found, files=files, traits=traits, notes=tuple(dict.fromkeys(notes)))


def _check_split(evaluation: Source | None, held_out: float) -> None:
    if evaluation is not None:
        raise UsageError("--split makes evaluation data of the training data; leave --eval out")
    if not 0 < held_out < 1:
        raise UsageError("--split must be above 0 and below 1, as 0.1")


def _read_labelled(
    files: Mapping[SampleSet, DataFile],
    task: DataTask,
    fields: FieldNames,
    labels: tuple[str, ...] | None,
) -> dict[SampleSet, DataSet]:
    """Reads texts with labels or values; ``labels`` are all, where training data lack some."""
    if labels is None:
        train = read_training_data(files["train"], task, fields)
    else:
        train = read_evaluation_data(files["train"], task, labels, fields)
    found: dict[SampleSet, DataSet] = {"train": train}
    if "eval" in files:
        found["eval"] = read_evaluation_data(files["eval"], task, train.labels, fields)
        _check_paired(files["eval"], train, found["eval"])
    return found


def _traits(train: DataSet, task: DataTask) -> DataTraits:
    values = np.asarray(train.targets, np.float64) if task == "regression" else None
    return DataTraits(labels=train.labels, pair=train.inputs.pairs is not None, values=values)


def guess_task(data: Source, task: Task | None, fields: FieldNames) -> tuple[DataFile, Task]:
    """Reads data, and tells the task by their fields if none is given."""
    file = read_data(data, fields.ignored)
    first = file.lines[0].values
    if task is None and fields.label in first:
        task = "classification"
    elif task is None and fields.source in first:
        task = "seq2seq"
    return file, task or "causal-lm"


def read_alone(file: DataFile, task: Task, fields: FieldNames) -> DataSet | LanguageData:
    """Reads one file as training data."""
    if task == "causal-lm" or task == "seq2seq":
        found = read_language_data(file, task, fields)
        check_answers(found, file.name)
        return found
    return read_training_data(file, task, fields)


def check_named(file: DataFile, fields: FieldNames) -> None:
    """Refuses a field's name that no line has, as where it is misspelt.

    Raises:
        BadInputError: names the option.
    """
    for role in fields.renamed():
        name = getattr(fields, role)
        if not any(name in line.values for line in file.lines):
            raise BadInputError(
                f"{file.name}: no line has the field {name!r} of {fields.option(name)}; the first "
                f"has {file.lines[0].has}"
            )


def check_fields(
    file: DataFile, task: Task, fields: FieldNames, *, learning: bool = True
) -> list[str]:
    """Refuses fields that would change the result but that nobody reads; notes others.

    Args:
        file: the lines.
        task: of the run.
        fields: what the fields are called.
        learning: something is learnt of them; else fields that only matter then are not looked
            at, and nothing is noted.

    Raises:
        BadInputError: names the field, its meaning and the way out.
    """
    form = form_of_data(file.lines, task, fields)
    _check_task(file.lines[0], task, fields)
    values = (line.values for line in file.lines)
    idle, meaning = unread_fields(values, fields, form, learning=learning)
    for index, name, means in meaning:
        line = file.lines[index]
        mend = _stands_for(line, name, form, fields) or (
            f"rename or remove it, or say --ignore-field {shlex.quote(name)}"
        )
        raise line.error(f"field {quoted(name)} is not read, though by its name it {means}; {mend}")
    if not idle or not learning:
        return []
    notes = [f"{file.name}: fields that are not read: {listed(idle)}"]
    parts = collections.Counter(str(line.values.get("split")) for line in file.lines)
    if "split" in idle and len(parts) > 1:
        notes.append(
            f"{file.name}: all lines are used, though 'split' tells {listed(parts)} apart; give "
            "the lines of one of them, and others by --eval"
        )
    return notes


def _stands_for(line: Line, name: str, form: Form, fields: FieldNames) -> str:
    """Says how a field becomes the one that its line lacks; nothing where it lacks none."""
    usual, missing = name.lower(), None
    if form == "instruction":
        missing = OUTPUT if usual in ANSWERS else INPUT if usual == "context" else None
    elif form == "completion":
        missing = (
            fields.completion if usual in ANSWERS else fields.prompt if usual in ASKS else None
        )
    if missing is None or missing in line.values:
        return ""
    if form == "instruction":
        return f"rename it to {missing!r}"
    return f"for want of {missing!r}, say {fields.option(missing)} {shlex.quote(name)}"


def _check_task(first: Line, task: Task, fields: FieldNames) -> None:
    """Refuses lines of a language model for another task: of these, no field is to be renamed."""
    needed = fields.source if task == "seq2seq" else fields.text
    if task == "causal-lm" or needed in first.values:
        return
    told = [name for name in (fields.prompt, fields.messages, *CHATS) if name in first.values]
    if told:
        raise first.error(
            f"has {told[0]!r}, as lines for causal-lm have, but this is for {task}; give a bundle "
            f"that was exported with --task causal-lm, or lines with {needed!r}"
        )


def _asked(file: DataFile, task: Task, fields: FieldNames) -> frozenset[str]:
    """The fields that the model is given of a line; all of a chat."""
    form = form_of_data(file.lines, task, fields)
    if form == "completion":
        return frozenset({fields.prompt})
    return fields.read_by(form) - {fields.label, fields.target}


def _check_paired(file: DataFile, train: DataSet, evaluation: DataSet) -> None:
    if (train.inputs.pairs is None) != (evaluation.inputs.pairs is None):
        raise BadInputError(f"{file.name}: text_pair must be in both data files or in neither")
