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
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Literal, TypeAlias, TypeVar, cast

import numpy as np

from .errors import BadInputError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Turns a dataclass (or a container of them) into dicts, lists and scalars.

    Arrays and bytes stay as they are. Fields that are ``None`` are left out.
    """
    if value is None or type(value) in _SCALARS:
        return value
    names = _field_names(cast(Hashable, type(value)))
    if names is not None:
        plain = {name: to_plain(getattr(value, name)) for name in names}
        return {name: item for name, item in plain.items() if item is not None}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return value


_SCALARS = frozenset((bool, int, float, str, bytes, np.ndarray))


@functools.cache
def _field_names(cls: Hashable) -> tuple[str, ...] | None:
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        return None
    return tuple(field.name for field in dataclasses.fields(cls))


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
    try:
        result: T = _converter(cast(Hashable, cls))(value)
    except _Wrong as wrong:
        raise BadInputError(wrong.text(where or getattr(cls, "__name__", "value"))) from None
    return result


class _Wrong(Exception):  # noqa: N818 - never leaves this module
    """What is wrong; the path to it grows as the error passes the containers outwards."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = ""

    def within(self, step: str) -> _Wrong:
        self.path = step + self.path
        return self

    def text(self, where: str) -> str:
        return f"{where}{self.path}: {self.problem}"


def _expected(what: str, value: Any) -> _Wrong:
    return _Wrong(f"expected {what}, got {repr(value)[:60]}")


Converter: TypeAlias = "Callable[[Any], Any]"


@functools.cache
def _converter(annotation: Any) -> Converter:
    """Compiles an annotation, once: messages are decoded thousands of times."""
    while hasattr(annotation, "__supertype__"):  # a NewType
        annotation = annotation.__supertype__
    if dataclasses.is_dataclass(annotation):
        return _dataclass_converter(annotation)
    origin = typing.get_origin(annotation)
    args = typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return _optional_converter(args)
    if origin is Literal:
        return _literal_converter(args)
    if origin is tuple:
        return _tuple_converter(args)
    if origin in (dict, Mapping):
        return _mapping_converter(args[1])
    kind = np.ndarray if origin is np.ndarray else annotation
    if kind not in _NAMES:
        raise TypeError(f"annotation {annotation!r} is not supported")
    return _scalar_converter(kind)


_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    bytes: "bytes",
    np.ndarray: "an array",
}


def _scalar_converter(kind: type) -> Converter:
    name = _NAMES[kind]

    def convert(value: Any) -> Any:
        if type(value) is kind or (isinstance(value, kind) and not isinstance(value, bool)):
            return value
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if kind is bytes and isinstance(value, bytearray | memoryview):
            return bytes(value)
        raise _expected(name, value)

    return convert


def _optional_converter(args: tuple[Any, ...]) -> Converter:
    inner = [arg for arg in args if arg is not type(None)]
    if len(inner) != 1 or len(args) != 2:
        raise TypeError(f"only X | None is supported, not {args}")
    convert = _converter(inner[0])
    return lambda value: None if value is None else convert(value)


def _literal_converter(choices: tuple[Any, ...]) -> Converter:
    names = "one of " + ", ".join(map(str, choices))

    def convert(value: Any) -> Any:
        if isinstance(value, str | int) and value in choices:
            return value
        raise _expected(names, value)

    return convert


def _tuple_converter(args: tuple[Any, ...]) -> Converter:
    any_length = len(args) == 2 and args[1] is Ellipsis
    fixed = None if any_length else [_converter(arg) for arg in args]
    each = _converter(args[0]) if any_length else None

    def convert(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise _expected("a list", value)
        if fixed is not None and len(value) != len(fixed):
            raise _expected(f"a list of {len(fixed)}", value)
        items = []
        for i, item in enumerate(value):
            try:
                items.append(each(item) if each else fixed[i](item) if fixed else item)
            except _Wrong as wrong:
                raise wrong.within(f"[{i}]") from None
        return tuple(items)

    return convert


def _mapping_converter(annotation: Any) -> Converter:
    each = _converter(annotation)

    def convert(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise _expected("an object", value)
        converted = {}
        for key, item in value.items():
            try:
                converted[key] = each(item)
            except _Wrong as wrong:
                raise wrong.within(f".{key}") from None
        return converted

    return convert


def _dataclass_converter(cls: Any) -> Converter:
    hints = typing.get_type_hints(cls)
    fields = {field.name: _converter(hints[field.name]) for field in dataclasses.fields(cls)}
    nothing = dataclasses.MISSING
    required = {
        field.name
        for field in dataclasses.fields(cls)
        if field.default is nothing and field.default_factory is nothing
    }
    optional = {name for name in required if type(None) in typing.get_args(hints[name])}

    def convert(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _expected("an object", value)
        arguments: dict[str, Any] = dict.fromkeys(optional)
        for name, item in value.items():
            field = fields.get(name)
            if field is None:
                raise _Wrong(f"unknown field {str(name)[:80]!r}")
            try:
                arguments[name] = field(item)
            except _Wrong as wrong:
                raise wrong.within(f".{name}") from None
        missing = required - arguments.keys()
        if missing:
            raise _Wrong(f"field {min(missing)!r} is missing")
        try:
            return cls(**arguments)
        except ValueError as error:
            raise _Wrong(str(error)) from None

    return convert
