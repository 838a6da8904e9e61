"""Checked conversion between dataclasses and plain JSON-like values.

One decoder serves every format that crosses a border: manifests, plans and profiles
(JSON, TOML) and messages (msgpack). It accepts exactly what the annotations say and
names the offending field, so a truncated file and a hostile peer both end in one
clear line.

Supported annotations: ``bool int float str bytes``, ``NewType`` of those,
``Literal[...]``, ``X | None``, ``tuple[X, ...]``, ``tuple[X, Y]``, ``dict[str, X]``
(and ``Mapping``), ``numpy.ndarray`` (passed through; the codec has checked it) and
dataclasses of the above.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import numpy as np

from .errors import BadInputError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Turns a dataclass (or a container of them) into dicts, lists and scalars.

    Arrays and bytes stay as they are. Fields that are ``None`` are left out.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        plain = {field.name: to_plain(getattr(value, field.name)) for field in fields}
        return {name: item for name, item in plain.items() if item is not None}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def from_plain(cls: type[T], value: Any, where: str = "") -> T:
    """Builds ``cls`` from plain values.

    Args:
        cls: a dataclass or any supported annotation.
        value: what a JSON, TOML or msgpack parser returned.
        where: what the value is, for messages, e.g. ``manifest.json``.

    Raises:
        BadInputError: a field is missing, unknown, of a wrong type, or refused by the
            dataclass's ``__post_init__``. The message starts with the field's path.
    """
    result: T = _convert(cls, value, where or getattr(cls, "__name__", "value"))
    return result


def _convert(annotation: Any, value: Any, where: str) -> Any:
    annotation = _strip_newtype(annotation)
    if dataclasses.is_dataclass(annotation):
        return _convert_dataclass(annotation, value, where)
    origin = typing.get_origin(annotation)
    if origin is not None:
        return _convert_generic(origin, typing.get_args(annotation), value, where)
    return _convert_scalar(annotation, value, where)


def _strip_newtype(annotation: Any) -> Any:
    while hasattr(annotation, "__supertype__"):
        annotation = annotation.__supertype__
    return annotation


def _convert_scalar(annotation: Any, value: Any, where: str) -> Any:
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if annotation is int and isinstance(value, bool):
        raise _wrong(where, "an integer", value)
    if annotation is bytes and isinstance(value, bytearray | memoryview):
        return bytes(value)
    if annotation in (bool, int, float, str, bytes, np.ndarray):
        if isinstance(value, annotation):
            return value
        raise _wrong(where, _NAMES[annotation], value)
    raise TypeError(f"{where}: annotation {annotation!r} is not supported")


_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    bytes: "bytes",
    np.ndarray: "an array",
}


def _convert_generic(origin: Any, args: tuple[Any, ...], value: Any, where: str) -> Any:
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        inner = [arg for arg in args if arg is not type(None)]
        if len(inner) != 1:
            raise TypeError(f"{where}: only X | None is supported")
        return _convert(inner[0], value, where)
    if origin is Literal:
        if isinstance(value, str | int) and value in args:
            return value
        raise _wrong(where, "one of " + ", ".join(map(str, args)), value)
    if origin is tuple:
        return _convert_tuple(args, value, where)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise _wrong(where, "an object", value)
        return {key: _convert(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is np.ndarray:
        return _convert_scalar(np.ndarray, value, where)
    raise TypeError(f"{where}: annotation {origin!r} is not supported")


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(where, "a list", value)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(args):
        raise _wrong(where, f"a list of {len(args)}", value)
    pairs = zip(args, value, strict=True)
    return tuple(_convert(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(pairs))


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _convert_dataclass(cls: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise _wrong(where, "an object", value)
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = [key for key in value if key not in fields]
    if unknown:
        raise BadInputError(f"{where}: unknown field {str(unknown[0])[:80]!r}")
    arguments = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = _convert(hints[name], value[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            if type(None) in typing.get_args(hints[name]):
                arguments[name] = None
            else:
                raise BadInputError(f"{where}: field {name!r} is missing")
    try:
        return cls(**arguments)
    except ValueError as error:
        raise BadInputError(f"{where}: {error}") from None


def _wrong(where: str, expected: str, value: Any) -> BadInputError:
    shown = repr(value)
    return BadInputError(f"{where}: expected {expected}, got {shown[:60]}")
