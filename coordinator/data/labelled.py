"""Lines with labels: classification and regression.

Labels may be strings, integers or booleans (``1`` and ``"1"`` are one label), numbers may
be quoted.
"""

import dataclasses
import math
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_runtime.contract.errors import BadInputError

from .fields import FieldNames, listed, quoted
from .lines import Line
from .read import Source, read_data

DataTask: TypeAlias = Literal["classification", "regression"]
Targets: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The inputs of a data file.

    Attributes:
        texts: one a line.
        pairs: the second texts; None when the data has none.
        places: where each stands, for messages.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    places: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataSet:
    """Inputs with what is to be learnt.

    Attributes:
        inputs: the texts.
        targets: (N,) int64 indices into ``labels``, or float64 values for regression.
        labels: class names in output order; empty for regression.
    """

    inputs: Texts
    targets: Targets
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.inputs)


def read_training_data(source: Source, task: DataTask, fields: FieldNames | None = None) -> DataSet:
    """Reads training data; the labels are the sorted set found in it.

    Raises:
        BadInputError: the file or a line is not what it must be, or has one label only.
    """
    names = fields or FieldNames()
    data = read_data(source, names.ignored)
    lines = data.lines
    inputs = _texts(lines, names)
    if task == "regression":
        values = _numbers(lines, names)
        if (value := values[0]) == values.min() == values.max():
            raise BadInputError(
                f"{data.name}: field {names.label!r} is {value:.17g} on every line; "
                "regression needs at least two values"
            )
        return DataSet(inputs=inputs, targets=values, labels=())
    found = _labels(lines, names)
    labels = tuple(sorted(set(found)))
    if len(labels) == 1:
        raise BadInputError(
            f"{data.name}: field {names.label!r} is {quoted(labels[0])} on every line; "
            "classification needs at least two labels"
        )
    return DataSet(inputs=inputs, targets=_indices(found, labels), labels=labels)


def read_evaluation_data(
    source: Source, task: DataTask, labels: Sequence[str], fields: FieldNames | None = None
) -> DataSet:
    """Reads evaluation data.

    Args:
        source: the file.
        task: of the run.
        labels: those that training knows, in output order; empty for regression.
        fields: what the fields are called.

    Raises:
        BadInputError: the file or a line is not what it must be, or has a label that
            training does not know.
    """
    names = fields or FieldNames()
    lines = read_data(source, names.ignored).lines
    inputs = _texts(lines, names)
    if task == "regression":
        return DataSet(inputs=inputs, targets=_numbers(lines, names), labels=())
    found = _labels(lines, names)
    known = set(labels)
    for line, label in zip(lines, found, strict=True):
        if label not in known:
            alike = next((each for each in labels if plain(each) == plain(label)), None)
            knows = f"it knows {listed(labels)}"
            if alike is not None:
                knows = f"it knows {alike!a}, which differs in blanks, case or form only"
            shown = quoted(label) if alike is None else ascii(label)
            raise line.error(
                f"field {names.label!r} is {shown}, which training does not know; {knows}"
            )
    return DataSet(inputs=inputs, targets=_indices(found, labels), labels=tuple(labels))


def read_texts(source: Source, fields: FieldNames | None = None) -> Texts:
    """Reads inputs alone; labels, if there are any, are not looked at.

    Raises:
        BadInputError: the file or a line is not what it must be.
    """
    names = fields or FieldNames()
    return _texts(read_data(source, names.ignored).lines, names)


def _check_given(lines: Sequence[Line], name: str) -> None:
    """Refuses a line without a field that the first one has: it needs no other name."""
    for line in lines:
        if name not in line.values and name in lines[0].values:
            raise line.error(
                f"lacks the field {name!r}, which {lines[0].place_beside(line)} has; add it, or "
                "leave the line out"
            )


def _texts(lines: Sequence[Line], names: FieldNames) -> Texts:
    _check_given(lines, names.text)
    texts = tuple(line.text(names.text, names) for line in lines)
    paired = names.text_pair in lines[0].values
    for line in lines:
        if (names.text_pair in line.values) != paired:
            first = "has" if paired else "lacks"
            raise line.error(
                f"{'lacks' if paired else 'has'} the field {names.text_pair!r}, which "
                f"{lines[0].place_beside(line)} {first}; give it on every line or on none"
            )
    pairs = tuple(line.text(names.text_pair, names) for line in lines if paired)
    places = tuple(line.place for line in lines)
    return Texts(texts=texts, pairs=pairs if paired else None, places=places)


def _labels(lines: Sequence[Line], names: FieldNames) -> list[str]:
    _check_given(lines, names.label)
    return [_label(line, names) for line in lines]


def _label(line: Line, names: FieldNames) -> str:
    value = line.field(names.label, names)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and value.strip():
        return line.string(names.label, value)
    raise line.wrong(names.label, "a label (a string or an integer)", value)


def _numbers(lines: Sequence[Line], names: FieldNames) -> npt.NDArray[np.float64]:
    _check_given(lines, names.label)
    return np.array([_number(line, names) for line in lines], np.float64)


def _number(line: Line, names: FieldNames) -> float:
    value = line.field(names.label, names)
    result = number_of(value)
    # The largest that a program which takes float32 can be given.
    if not abs(result) <= float(np.finfo(np.float32).max):
        raise line.wrong(names.label, "a finite number, as regression needs", value)
    if not _is_exact(value, result):
        expected = "an integer that float64 holds; subtract what all labels have in common"
        raise line.wrong(names.label, expected, value)
    return result


def number_of(value: Any) -> float:
    """Reads a number; NaN where there is none: ``3_1`` is one for Python alone."""
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _is_exact(value: object, result: float) -> bool:
    """False of integers whose last digits float64 lacks, as those of nanoseconds since 1970."""
    if isinstance(value, str):
        try:
            value = int(value)
        except ValueError:
            return True
    return not isinstance(value, int) or int(result) == value


def plain(label: str) -> str:
    """Spells labels that probably mean one thing alike: ``Bad `` as ``bad``, ``1.0`` as ``1``."""
    seen = (c for c in unicodedata.normalize("NFKC", label) if unicodedata.category(c) != "Cf")
    text = " ".join("".join(seen).casefold().split())
    text = {"true": "1", "false": "0"}.get(text, text)
    number = number_of(text)
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else text


def _indices(found: Sequence[str], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    index = {label: i for i, label in enumerate(labels)}
    return np.array([index[label] for label in found], np.int64)
