"""Reads JSONL: one object a line, UTF-8; a bad line is an error that names file, line and field.

Lenient where nothing can be misread: a byte order mark at the start, Windows line ends and
blank lines are skipped.
"""

import codecs
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from edge_runtime.contract.errors import BadInputError

SHOWN = 8
"""Labels or fields that a message lists."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FieldNames:
    """Names of a line's fields, and of those that are not to be read."""

    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"
    prompt: str = "prompt"
    completion: str = "completion"
    messages: str = "messages"
    source: str = "source"
    target: str = "target"
    ignored: tuple[str, ...] = ()

    def option(self, name: str) -> str:
        """The option that renames the field called ``name``."""
        (field,) = [key for key, value in dataclasses.asdict(self).items() if value == name][:1]
        return f"--{field.replace('_', '-')}-field"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One object of a file.

    Attributes:
        path: of the file.
        number: of the line, from 1.
        values: the object.
    """

    path: Path
    number: int
    values: Mapping[str, Any]

    def error(self, said: str) -> BadInputError:
        """An error that names file and line."""
        return BadInputError(f"{self.path}, line {self.number}: {said}")

    def wrong(self, name: str, expected: str, value: Any) -> BadInputError:
        """An error about the value of a field."""
        return self.error(f"field {name!r} must be {expected}, got {_shown(value)}")

    @property
    def has(self) -> str:
        """Its fields, for a message."""
        return ", ".join(map(repr, list(self.values)[:SHOWN])) or "no field"

    def field(self, name: str, names: FieldNames) -> Any:
        """Value of a field.

        Raises:
            BadInputError: the line lacks it.
        """
        if name not in self.values:
            raise self.error(
                f"field {name!r} is missing (the line has {self.has}); "
                f"{names.option(name)} renames it"
            )
        return self.values[name]

    def text(self, name: str, names: FieldNames) -> str:
        """Value of a field that must be a string.

        Raises:
            BadInputError: the line lacks it, or it is no text.
        """
        return self.string(name, self.field(name, names))

    def string(self, name: str, value: Any) -> str:
        """``value``, which is found at ``name``, if it is a string.

        Raises:
            BadInputError: it is no text.
        """
        if not isinstance(value, str):
            raise self.wrong(name, "a string", value)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.wrong(name, "text without lone surrogates", value) from None
        return value


Lines: TypeAlias = list[Line]


def read_lines(path: Path) -> Lines:
    """All objects of a file; at least one.

    Raises:
        BadInputError: the file or a line is not what it must be.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such file; give the path of a JSONL file") from None
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})") from None
    raw = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    lines = [_parse(path, i, line) for i, line in enumerate(raw, 1) if line.strip()]
    if not lines:
        raise BadInputError(f"{path}: is empty; it must hold one JSON object a line")
    return lines


def _parse(path: Path, number: int, raw: bytes) -> Line:
    where = f"{path}, line {number}"
    try:
        value = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{where}: not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BadInputError(
            f"{where}: not JSON ({error}); each line must be one JSON object"
        ) from None
    if not isinstance(value, dict):
        raise BadInputError(f"{where}: expected a JSON object, got {_shown(value)}")
    return Line(path=path, number=number, values=value)


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
