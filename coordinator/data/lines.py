"""Holds the lines of data files: one object each, and where it stands."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from edge_runtime.contract.errors import BadInputError

from .fields import FieldNames, listed

SHOWN_PLACES = 5


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One object of a file.

    Attributes:
        file: its file, for messages.
        number: of the line, from 1.
        values: the object.
        unit: what is counted: lines, or rows of a table.
    """

    file: str
    number: int
    values: Mapping[str, Any]
    unit: str = "line"

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.file}, {self.unit} {self.number}"

    def error(self, said: str) -> BadInputError:
        """An error that names file and line."""
        return BadInputError(f"{self.place}: {said}")

    def wrong(self, name: str, expected: str, value: Any) -> BadInputError:
        """An error about the value of a field."""
        return self.error(f"field {name!r} must be {expected}, got {shown(value)}")

    def place_beside(self, other: "Line") -> str:
        """Where it stands, for a message that names ``other``."""
        return f"{self.unit} {self.number}" if other.file == self.file else self.place

    @property
    def has(self) -> str:
        """Its fields, for a message."""
        return listed(self.values) or "no field"

    def field(self, name: str, names: FieldNames) -> Any:
        """Value of a field.

        Raises:
            BadInputError: the line lacks it.
        """
        if name not in self.values:
            raise self.error(
                f"field {name!r} is missing (the line has {self.has}); "
                f"train's {names.option(name)} renames it"
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
            raise BadInputError(f"{self.wrong(name, 'a string', value)}{_as_text(value)}")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.wrong(name, "text without lone surrogates", value) from None
        return value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """All lines of one data file or several, at least one.

    Attributes:
        name: what the user gave, for messages.
        lines: in order.
        sha256: of what was read, hexadecimal.
    """

    name: str
    lines: tuple[Line, ...]
    sha256: str


def _as_text(value: Any) -> str:
    """Says how a value that is no text becomes one; of most, nobody knows."""
    if value is None:
        return "; give a text, or leave the line out"
    if isinstance(value, int | float):
        return f'; put it in quotes: "{json.dumps(value)}"'
    if isinstance(value, list) and value and isinstance(value[0], dict) and "role" in value[0]:
        return "; a chat is one list of all its messages, in a field 'messages'"
    return ""


def first_places(places: Sequence[str]) -> str:
    """Lists where lines stand for a message, the first of many."""
    return ", ".join(places[:SHOWN_PLACES]) + (", ..." if len(places) > SHOWN_PLACES else "")


def shown(value: Any) -> str:
    """A value for a message, cut."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
