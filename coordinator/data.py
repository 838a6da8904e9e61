"""Reads JSONL data for classification and regression.

One object a line, UTF-8. Lenient where nothing can be misread: a byte order mark at the
start, Windows line ends and blank lines are skipped, labels may be strings, integers or
booleans (``1`` and ``"1"`` are one label), numbers may be quoted. Anything else is an
error that names file, line and field.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_runtime.contract.errors import BadInputError

if TYPE_CHECKING:
    from pathlib import Path

DataTask: TypeAlias = Literal["classification", "regression"]
Targets: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.float32]

_SHOWN_LABELS = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FieldNames:
    """What the fields of a line are called."""

    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The inputs of a data file.

    Attributes:
        texts: one a line.
        pairs: the second texts; None when the data has none.
        line_numbers: where each came from, from 1.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    line_numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def num_duplicates(self) -> int:
        """Lines whose texts occurred on an earlier line."""
        seen = set(zip(self.texts, self.pairs, strict=True) if self.pairs else self.texts)
        return len(self.texts) - len(seen)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DataSet:
    """Inputs with what is to be learnt.

    Attributes:
        inputs: the texts.
        targets: (N,) int64 indices into ``labels``, or float32 values for regression.
        labels: class names in output order; empty for regression.
    """

    inputs: Texts
    targets: Targets
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.inputs)


def read_training_data(path: Path, task: DataTask, fields: FieldNames | None = None) -> DataSet:
    """Reads training data; the labels are the sorted set found in it.

    Raises:
        BadInputError: the file or a line is not what it must be, or has one label only.
    """
    names = fields or FieldNames()
    lines = _read_lines(path)
    inputs = _texts(path, lines, names)
    if task == "regression":
        return DataSet(inputs=inputs, targets=_numbers(path, lines, names), labels=())
    found = _labels(path, lines, names)
    labels = tuple(sorted(set(found)))
    if len(labels) == 1:
        raise BadInputError(
            f"{path}: field {names.label!r} is {labels[0]!r} on every line; "
            "classification needs at least two labels"
        )
    return DataSet(inputs=inputs, targets=_indices(found, labels), labels=labels)


def read_evaluation_data(
    path: Path, task: DataTask, labels: Sequence[str], fields: FieldNames | None = None
) -> DataSet:
    """Reads evaluation data.

    Args:
        path: the file.
        task: of the run.
        labels: those that training knows, in output order; empty for regression.
        fields: what the fields are called.

    Raises:
        BadInputError: the file or a line is not what it must be, or has a label that
            training does not know.
    """
    names = fields or FieldNames()
    lines = _read_lines(path)
    inputs = _texts(path, lines, names)
    if task == "regression":
        return DataSet(inputs=inputs, targets=_numbers(path, lines, names), labels=())
    found = _labels(path, lines, names)
    known = set(labels)
    for (number, _), label in zip(lines, found, strict=True):
        if label not in known:
            shown = ", ".join(map(repr, labels[:_SHOWN_LABELS]))
            more = f" and {len(labels) - _SHOWN_LABELS} more" * (len(labels) > _SHOWN_LABELS)
            raise BadInputError(
                f"{path}, line {number}: field {names.label!r} is {label!r}, which training "
                f"does not know; it knows {shown}{more}"
            )
    return DataSet(inputs=inputs, targets=_indices(found, labels), labels=tuple(labels))


def read_texts(path: Path, fields: FieldNames | None = None) -> Texts:
    """Reads inputs alone; labels, if there are any, are not looked at.

    Raises:
        BadInputError: the file or a line is not what it must be.
    """
    return _texts(path, _read_lines(path), fields or FieldNames())


_Line: TypeAlias = tuple[int, Mapping[str, Any]]


def _read_lines(path: Path) -> list[_Line]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such file; give the path of a JSONL file") from None
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})") from None
    raw = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    lines = [(i, _parse(path, i, line)) for i, line in enumerate(raw, 1) if line.strip()]
    if not lines:
        raise BadInputError(f"{path}: is empty; it must hold one JSON object a line")
    return lines


def _parse(path: Path, number: int, raw: bytes) -> Mapping[str, Any]:
    try:
        value = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{path}, line {number}: not UTF-8 (byte {error.start + 1} of the line); "
            "save the file as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BadInputError(
            f"{path}, line {number}: not JSON ({error}); each line must be one JSON object"
        ) from None
    if not isinstance(value, dict):
        raise BadInputError(f"{path}, line {number}: expected a JSON object, got {_shown(value)}")
    return value


def _texts(path: Path, lines: Sequence[_Line], names: FieldNames) -> Texts:
    texts = tuple(_text(path, number, line, names.text) for number, line in lines)
    paired = names.text_pair in lines[0][1]
    for number, line in lines:
        if (names.text_pair in line) != paired:
            first = "has" if paired else "lacks"
            raise BadInputError(
                f"{path}, line {number}: {'lacks' if paired else 'has'} the field "
                f"{names.text_pair!r}, which line {lines[0][0]} {first}; "
                "give it on every line or on none"
            )
    pairs = tuple(_text(path, number, line, names.text_pair) for number, line in lines if paired)
    numbers = tuple(number for number, _ in lines)
    return Texts(texts=texts, pairs=pairs if paired else None, line_numbers=numbers)


def _field(path: Path, number: int, line: Mapping[str, Any], name: str) -> Any:
    if name not in line:
        has = ", ".join(map(repr, list(line)[:_SHOWN_LABELS])) or "no field"
        raise BadInputError(
            f"{path}, line {number}: field {name!r} is missing (the line has {has}); "
            "--text-field, --text-pair-field and --label-field rename"
        )
    return line[name]


def _text(path: Path, number: int, line: Mapping[str, Any], name: str) -> str:
    value = _field(path, number, line, name)
    if not isinstance(value, str):
        raise _wrong(path, number, name, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(path, number, name, "text without lone surrogates", value) from None
    return value


def _labels(path: Path, lines: Sequence[_Line], names: FieldNames) -> list[str]:
    return [_label(path, number, line, names.label) for number, line in lines]


def _label(path: Path, number: int, line: Mapping[str, Any], name: str) -> str:
    value = _field(path, number, line, name)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, str) and value):
        return str(value)
    raise _wrong(path, number, name, "a label (a string or an integer)", value)


def _numbers(path: Path, lines: Sequence[_Line], names: FieldNames) -> npt.NDArray[np.float32]:
    values = [_number(path, number, line, names.label) for number, line in lines]
    return np.array(values, np.float32)


def _number(path: Path, number: int, line: Mapping[str, Any], name: str) -> float:
    value = _field(path, number, line, name)
    try:
        result = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    # Beyond float32 the target would turn into infinity.
    if not abs(result) <= float(np.finfo(np.float32).max):
        raise _wrong(path, number, name, "a finite number, as regression needs", value)
    return result


def _indices(found: Sequence[str], labels: Sequence[str]) -> npt.NDArray[np.int64]:
    index = {label: i for i, label in enumerate(labels)}
    return np.array([index[label] for label in found], np.int64)


def _wrong(path: Path, number: int, name: str, expected: str, value: Any) -> BadInputError:
    return BadInputError(
        f"{path}, line {number}: field {name!r} must be {expected}, got {_shown(value)}"
    )


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
