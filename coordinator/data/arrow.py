"""Reads Parquet files and the folders that Hugging Face's ``datasets`` saves, by pyarrow."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.contract.errors import BadInputError, MissingExtraError

from .lines import DataFile, Line

_STATE, _SPLITS = "state.json", "dataset_dict.json"
_FILES = {".parquet", ".arrow", ".jsonl", ".json", ".csv", ".tsv", ".gz"}


def parse_parquet(name: str, data: bytes) -> list[Line]:
    """Parses a Parquet file.

    Raises:
        BadInputError: it is damaged.
        MissingExtraError: pyarrow is not installed.
    """
    pyarrow = _pyarrow()
    try:
        rows = _of_table(pyarrow, pyarrow.parquet.read_table(pyarrow.BufferReader(data)))
    except _errors(pyarrow) as error:
        raise BadInputError(f"{name}: cannot be read as Parquet ({_first(error)})") from None
    return _lines(name, rows)


def parse_arrow(name: str, data: bytes) -> list[Line]:
    """Parses an Arrow file or stream, as ``datasets`` keeps them.

    Raises:
        BadInputError: it is damaged.
        MissingExtraError: pyarrow is not installed.
    """
    pyarrow = _pyarrow()
    try:
        rows = _of_arrow(pyarrow, data)
    except _errors(pyarrow) as error:
        raise BadInputError(f"{name}: cannot be read as Arrow ({_first(error)})") from None
    return _lines(name, rows)


def read_folder(path: Path) -> DataFile:
    """Reads a data set that ``Dataset.save_to_disk`` wrote.

    Raises:
        BadInputError: it is none, has several splits, or is damaged.
        MissingExtraError: pyarrow is not installed.
    """
    if (path / _SPLITS).is_file():
        given = _json(path / _SPLITS).get("splits")
        splits = [str(each) for each in given] if isinstance(given, list) and given else ["train"]
        raise BadInputError(
            f"{path}: holds the splits {', '.join(splits)}; give one, as {path}/{splits[0]}"
        )
    if not (path / _STATE).is_file():
        near = [*path.glob("*"), *path.glob("*/*")]
        files = sorted(each for each in near if _FILES & set(each.suffixes[-2:]))
        ending = "".join(each for each in files[0].suffixes if each in _FILES) if files else ""
        do = f"give its files, as '{files[0].parent}/*{ending}'" if files else "give a file"
        raise BadInputError(
            f"{path}: is a folder, but none that datasets' save_to_disk wrote; {do}"
        )
    pyarrow = _pyarrow()
    state = _json(path / _STATE)
    digest = hashlib.sha256()
    try:
        rows = list(_rows(pyarrow, path, state.get("_data_files") or [], digest))
        indices = list(_rows(pyarrow, path, state.get("_indices_data_files") or [], digest))
        if state.get("_indices_data_files"):
            rows = [rows[each["indices"]] for each in indices]
    except _errors(pyarrow) as error:
        raise BadInputError(f"{path}: cannot be read as a data set ({_first(error)})") from None
    return DataFile(name=str(path), lines=tuple(_lines(str(path), rows)), sha256=digest.hexdigest())


def _rows(
    pyarrow: Any, path: Path, files: list[dict[str, str]], digest: Any
) -> Iterator[dict[str, Any]]:
    for file in files:
        data = (path / Path(file["filename"]).name).read_bytes()
        digest.update(data)
        yield from _of_arrow(pyarrow, data)


def _of_arrow(pyarrow: Any, data: bytes) -> list[dict[str, Any]]:
    of_file = data.startswith(b"ARROW1")
    with (pyarrow.ipc.open_file if of_file else pyarrow.ipc.open_stream)(data) as batches:
        return _of_table(pyarrow, batches.read_all())


def _of_table(pyarrow: Any, table: Any) -> list[dict[str, Any]]:
    for index, field in enumerate(table.schema):
        if pyarrow.types.is_timestamp(field.type):  # Python has neither all of them nor all zones
            plain = table.column(index).cast(pyarrow.timestamp(field.type.unit))
            text = plain.cast(pyarrow.string())
            table = table.set_column(index, field.name, text)
    return table.to_pylist()  # type: ignore[no-any-return]


def _lines(name: str, rows: list[dict[str, Any]]) -> list[Line]:
    return [
        Line(file=name, number=number, values=_plain(row), unit="row")
        for number, row in enumerate(rows, 1)
    ]


def _plain(value: Any) -> Any:
    """JSON's values: a struct's null fields, which Arrow adds to every row, are left out.

    Bytes are text where they can be: some writers do not mark their texts as such.
    """
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    return value


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path}: cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise BadInputError(f"{path}: is no JSON object")
    return found


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise MissingExtraError("pyarrow", "data") from None
    return pyarrow


def _errors(pyarrow: Any) -> tuple[type[Exception], ...]:
    known = (OSError, ValueError, OverflowError, TypeError, KeyError, IndexError)
    return (pyarrow.ArrowException, *known)


def _first(error: Exception) -> str:
    return str(error).split("\n")[0]
