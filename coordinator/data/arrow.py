"""Reads Parquet files and the folders that Hugging Face's ``datasets`` saves, by pyarrow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.contract.errors import BadInputError, MissingExtraError

from .lines import DataFile, Line

_STATE, _SPLITS = "state.json", "dataset_dict.json"


def parse_parquet(name: str, data: bytes) -> list[Line]:
    """Parses a Parquet file.

    Raises:
        BadInputError: it is damaged.
        MissingExtraError: pyarrow is not installed.
    """
    pyarrow = _pyarrow()
    try:
        rows = pyarrow.parquet.read_table(pyarrow.BufferReader(data)).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise BadInputError(f"{name}: cannot be read as Parquet ({_first(error)})") from None
    return _lines(name, rows)


def read_folder(path: Path) -> DataFile:
    """Reads a data set that ``Dataset.save_to_disk`` wrote.

    Raises:
        BadInputError: it is none, has several splits, or is damaged.
        MissingExtraError: pyarrow is not installed.
    """
    if (path / _SPLITS).is_file():
        splits = _json(path / _SPLITS).get("splits", [])
        some = f"{path}/{splits[0]}" if splits else f"{path}/train"
        raise BadInputError(
            f"{path}: holds the splits {', '.join(map(str, splits))}; give one, as {some}"
        )
    if not (path / _STATE).is_file():
        files = sorted(
            each.name for each in path.iterdir() if each.suffix in (".parquet", ".jsonl", ".csv")
        )
        do = f"give its files, as '{path}/*{Path(files[0]).suffix}'" if files else "give a file"
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
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
        raise BadInputError(f"{path}: cannot be read as a data set ({_first(error)})") from None
    return DataFile(name=str(path), lines=tuple(_lines(str(path), rows)), sha256=digest.hexdigest())


def _rows(
    pyarrow: Any, path: Path, files: list[dict[str, str]], digest: Any
) -> Iterator[dict[str, Any]]:
    for file in files:
        data = (path / Path(file["filename"]).name).read_bytes()
        digest.update(data)
        with pyarrow.ipc.open_stream(data) as stream:
            yield from stream.read_all().to_pylist()


def _lines(name: str, rows: list[dict[str, Any]]) -> list[Line]:
    return [
        Line(file=name, number=number, values=_plain(row), unit="row")
        for number, row in enumerate(rows, 1)
    ]


def _plain(value: Any) -> Any:
    """JSON's values: a struct's null fields, which Arrow adds to every row, are left out."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_plain(each) for each in value]
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


def _first(error: Exception) -> str:
    return str(error).split("\n")[0]
