"""Checked conversion between dataclasses and plain JSON-like values.

One conversion serves every format that crosses a border: manifests, plans and profiles (JSON,
TOML) and messages (msgpack). ``msgspec`` checks types and fills the dataclasses; unknown fields,
which it ignores in dataclasses, are refused here. A truncated file and a hostile peer both end
in one line that names the field.
"""

import dataclasses
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

import msgspec

from .errors import BadInputError
from .text import excerpt

T = TypeVar("T")
ExtHook: TypeAlias = Callable[[int, memoryview], Any]
Buffer: TypeAlias = "bytes | memoryview | msgspec.Raw"

_MAX_PROBLEM_LENGTH = 200
_MAX_FIELDS = 64
_KEYS = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
_CONTAINERS = frozenset((dict, list))
_NAMES = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "an integer",
    "numpy.ndarray": "an array",
    "object": "an object",
    "str": "a string",
}


def to_plain(value: Any) -> Any:
    """Turns a dataclass (or a container of them) into dicts, lists and scalars.

    Fields that are ``None`` are left out.
    """
    names = _field_names(value)
    if names is not None:
        items = ((name, getattr(value, name)) for name in names)
        return {name: to_plain(item) for name, item in items if item is not None}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def from_plain(cls: type[T], value: Any, where: str = "") -> T:
    """Builds ``cls`` from plain values.

    Args:
        cls: a dataclass.
        value: as returned by a JSON, TOML or msgpack parser.
        where: name of the value for messages, e.g. ``manifest.json``.

    Raises:
        BadInputError: a field is missing, unknown, of a wrong type, or refused by the
            dataclass's ``__post_init__``. The message starts with the field's path.
    """
    try:
        built = msgspec.convert(value, cls, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        # A misspelled field is unknown under one name and missing under the other.
        names = getattr(cls, "__dataclass_fields__", {})
        misspelled = isinstance(value, dict) and next(
            (key for key in value if key not in names), ""
        )
        problem = f": unknown field {excerpt(misspelled)}" if misspelled else ""
        raise BadInputError(
            (where or cls.__name__) + (problem or _translate(cls, str(error)))
        ) from None
    if unknown := _find_unknown_field(value, built):
        raise BadInputError((where or cls.__name__) + unknown)
    return built


def from_msgpack(cls: type[T], data: Buffer, where: str, ext_hook: ExtHook) -> T:
    """Builds ``cls`` from a msgpack map, and nothing on the way that its fields do not ask for.

    An unknown field is refused in ``cls`` itself; in objects within it is skipped unread.

    Args:
        cls: a dataclass.
        data: one msgpack value.
        where: name of the value for messages.
        ext_hook: builds extension values, see :func:`msgspec.msgpack.decode`.

    Raises:
        BadInputError: as :func:`from_plain`.
        msgspec.DecodeError: not msgpack.
        RecursionError: nested too deeply.
    """
    try:
        built = msgspec.msgpack.decode(data, type=cls, ext_hook=ext_hook)
    except msgspec.ValidationError as error:
        raise BadInputError(where + _translate(cls, str(error))) from None
    names = getattr(cls, "__dataclass_fields__", {})
    if (entries := _entries(data)) > _MAX_FIELDS:
        raise BadInputError(f"{where}: {entries} fields")
    for name in _KEYS.decode(data):
        if name not in names:
            raise BadInputError(f"{where}: unknown field {excerpt(name)}")
    return built


def _entries(data: Buffer) -> int:
    """Reads the number of entries off a msgpack map."""
    first, *rest = bytes(memoryview(data)[:5])
    size = {0xDE: 2, 0xDF: 4}.get(first)
    return int.from_bytes(rest[:size], "big") if size else first & 0x0F


def _translate(cls: Any, text: str) -> str:
    """Words the text of msgspec, e.g. "Expected `int`, got `str` - at `$.count`", for people."""
    problem, _, path = text.rpartition(" - at `") if " - at `" in text else (text, "", "")
    path = path.rpartition("$")[2].rstrip("`")
    problem = problem[:1].lower() + problem[1 : _MAX_PROBLEM_LENGTH + 1]
    problem = re.sub("^object missing required field `(.*)`", r"field '\1' is missing", problem)
    problem = re.sub("^invalid enum value", lambda _: f"{_choices(cls, path)}, got", problem)
    problem = re.sub(r"`([^`]*?)(?: \| null)?`", lambda m: _NAMES.get(m[1], m[1]), problem)
    return f"{path}: {problem}"


def _choices(cls: Any, path: str) -> str:
    """Lists the choices of the ``Literal`` at ``path``."""
    leaves: list[Any] = [cls]
    for name in re.findall(r"\.(\w+)", path):
        owner = next((leaf for leaf in leaves if dataclasses.is_dataclass(leaf)), None)
        leaves = list(_leaves(typing.get_type_hints(owner).get(name))) if owner else []
    choices = [leaf for leaf in leaves if isinstance(leaf, str | int)]
    return "expected one of " + ", ".join(map(str, choices))


def _leaves(annotation: Any) -> Iterator[Any]:
    arguments = typing.get_args(annotation)
    for argument in arguments:
        yield from _leaves(argument)
    if not arguments:
        yield annotation


def _field_names(value: Any) -> Mapping[str, Any] | None:
    """Names in order of definition; None if ``value`` is no dataclass."""
    return getattr(type(value), "__dataclass_fields__", None)


def _find_unknown_field(plain: Any, built: Any) -> str | None:
    """Compares the plain value with the value built from it; returns path and problem."""
    if type(plain) is list:
        for i, item in enumerate(plain):
            if type(item) in _CONTAINERS and (found := _find_unknown_field(item, built[i])):
                return f"[{i}]{found}"
        return None
    names = _field_names(built)
    for key, item in plain.items():
        if names is not None and key not in names:
            return f": unknown field {excerpt(key)}"
        if type(item) in _CONTAINERS:
            value = built[key] if names is None else getattr(built, key)
            if found := _find_unknown_field(item, value):
                return f".{key}{found}"
    return None
