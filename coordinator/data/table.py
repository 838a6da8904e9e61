"""Parses CSV and TSV: a header names the fields, every cell is text."""

import csv
import io
import re

from edge_runtime.contract.errors import BadInputError

from .lines import Line

DELIMITERS = ",;\t"
_MAX_CELL_CHARACTERS = 1 << 30


def parse_csv(name: str, text: str) -> list[Line]:
    """Parses cells that are separated by what the header is: commas, semicolons or tabs.

    A first line ``sep=;``, by which Excel is told, is obeyed.
    """
    told = re.match(r"sep=(.)\r?\n", text)
    if told:
        return _parse(name, text[told.end() :], told[1], skipped=1)
    return _parse(name, text, max(DELIMITERS, key=lambda each: len(_header(text, each))))


def _header(text: str, delimiter: str) -> list[str]:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        return next(filter(None, rows), [])
    except csv.Error:
        return []


def parse_tsv(name: str, text: str) -> list[Line]:
    """Parses cells that are separated by tabs."""
    return _parse(name, text, "\t")


def _parse(name: str, text: str, delimiter: str, skipped: int = 0) -> list[Line]:
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    if text.lstrip().startswith(("{", "[")):
        raise BadInputError(f"{name}: is JSON, not a table; call it .jsonl")
    behind = _header(text, delimiter)[1:]
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        strict=True,
        # As in "text, label": the blanks belong to the separators.
        skipinitialspace=bool(behind) and all(cell.startswith(" ") for cell in behind),
    )
    header: list[str] = []
    lines: list[Line] = []
    number = 1 + skipped
    try:
        for cells in reader:
            first, number = number, reader.line_num + 1 + skipped
            if not any(cell.strip() for cell in cells) and (not cells or len(header) != 1):
                continue  # spreadsheets end in rows of empty cells
            if not header:
                header = [cell.strip() for cell in cells]
                _check_header(name, header)
                continue
            if len(cells) != len(header):
                raise BadInputError(
                    f"{name}, line {first}: has {len(cells)} cells, the header has {len(header)}; "
                    "put cells with line ends or separators between quotes"
                )
            if delimiter == "\t" and any("\t" in cell and "\n" in cell for cell in cells):
                raise BadInputError(
                    f"{name}, line {first}: a quote at the start of a cell takes several lines "
                    "into it; double the quotes inside of cells, or save the file as JSONL"
                )
            if [cell.strip("\ufeff ") for cell in cells] == header:
                raise BadInputError(
                    f"{name}, line {first}: is the header again, as where files were joined; "
                    "remove it, or give the files one by one"
                )
            values = dict(zip(header, cells, strict=True))
            lines.append(Line(file=name, number=first, values=values))
    except csv.Error as error:
        raise BadInputError(
            f"{name}, line {number}: {error}; quotes inside of cells must be doubled"
        ) from None
    return lines


def _check_header(name: str, header: list[str]) -> None:
    twice = next((cell for cell in header if header.count(cell) > 1), None)
    if twice is not None:
        raise BadInputError(f"{name}: the header has {twice!r} twice; name every column")
    if "" in header:
        # What pandas writes for its index.
        raise BadInputError(
            f"{name}: column {header.index('') + 1} has no name; the first line must name the "
            "columns (pandas: to_csv(index=False))"
        )
