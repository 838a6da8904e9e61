"""Parses JSONL, one object a line, and JSON, an array of objects.

Lenient where nothing can be misread: blank lines and Windows line ends are skipped. Strict
where something would be lost: a key that stands twice, NaN.
"""

import json
from typing import Any, NoReturn

from edge_runtime.contract.errors import BadInputError

from .lines import Line, shown


def parse_lines(name: str, text: str) -> list[Line]:
    """Parses JSONL; raises BadInputError for a line that is no object."""
    # Not splitlines: JSON strings may hold other separators. A bare CR, as an old Mac writes it,
    # stands in none of them.
    numbered = enumerate(text.split("\n" if "\n" in text else "\r"), 1)
    # Marks stand where files were joined.
    lines = ((number, line.lstrip("\ufeff")) for number, line in numbered)
    return [_parse(name, number, line) for number, line in lines if line.strip()]


def parse_json(name: str, text: str) -> list[Line]:
    """Parses an array of objects; raises BadInputError for anything else.

    A file that is called ``.json`` and has an object a line is read as such.
    """
    try:
        values = _loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{"):
            return parse_lines(name, text)
        raise BadInputError(
            f"{name}: not JSON ({error}); it must be an array of objects, or one object a line"
        ) from None
    if isinstance(values, dict):
        lists = [key for key, value in values.items() if isinstance(value, list)]
        if lists:
            raise BadInputError(
                f"{name}: is one object with {', '.join(map(repr, lists[:8]))}; give the array of "
                "objects alone"
            )
        values = [values]
    if not isinstance(values, list):
        raise BadInputError(f"{name}: expected an array of objects, got {shown(values)}")
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise BadInputError(f"{name}, item {number}: expected an object, got {shown(value)}")
    return [
        Line(file=name, number=number, values=value, unit="item")
        for number, value in enumerate(values, 1)
    ]


def _parse(name: str, number: int, text: str) -> Line:
    where = f"{name}, line {number}"
    try:
        value = _loads(text)
    except (ValueError, RecursionError) as error:
        hint = "" if text.lstrip().startswith("{") else " (tables are called .csv or .tsv)"
        if "\r" in text.strip():
            hint = " (it has line ends that are CR alone; tr '\\r' '\\n' mends them)"
        if text.strip() in "{[":
            hint = " (jq -c . writes them so)"
        raise BadInputError(
            f"{where}: not JSON ({error}); each line must be one JSON object{hint}"
        ) from None
    if not isinstance(value, dict):
        raise BadInputError(f"{where}: expected a JSON object, got {shown(value)}")
    return Line(file=name, number=number, values=value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} stands twice")
    return made


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_loads = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_refuse).decode
