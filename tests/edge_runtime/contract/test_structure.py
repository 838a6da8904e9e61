"""Plain values become dataclasses exactly as annotated, and errors name the field."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NewType

import pytest

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.structure import from_plain, to_plain

Name = NewType("Name", str)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    count: int
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count must not be negative")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    name: Name
    ratio: float = 1.0
    done: bool = False
    data: bytes = b""
    inner: Inner | None = None
    pairs: tuple[tuple[int, str], ...] = ()
    table: Mapping[str, tuple[Inner, ...]] = dataclasses.field(default_factory=dict)


FULL = Outer(name=Name("x"), pairs=((1, "a"),), table={"k": (Inner(count=1), Inner(count=2))})


def test_a_dataclass_survives() -> None:
    assert from_plain(Outer, to_plain(FULL)) == FULL


def test_fields_that_are_none_are_left_out() -> None:
    assert "inner" not in to_plain(FULL)
    assert from_plain(Outer, {"name": "x", "inner": None}) == Outer(name=Name("x"))


def test_a_whole_number_serves_as_a_float() -> None:
    ratio = from_plain(Outer, {"name": "x", "ratio": 2}).ratio
    assert (type(ratio), ratio) == (float, 2.0)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"name": 1}, "file.name: expected a string, got an integer"),
        ({"ratio": "1"}, "file.ratio: expected a number, got a string"),
        ({"ratio": True}, "file.ratio: expected a number, got true or false"),
        ({"done": 1}, "file.done: expected true or false, got an integer"),
        ({"data": "text"}, "file.data: expected bytes, got a string"),
        ({"inner": []}, "file.inner: expected an object, got a list"),
        ({"inner": {}}, "file.inner: field 'count' is missing"),
        ({"inner": {"count": True}}, "file.inner.count: expected an integer, got true or false"),
        ({"inner": {"count": 1.0}}, "file.inner.count: expected an integer, got a number"),
        ({"inner": {"count": -1}}, "file.inner: count must not be negative"),
        ({"inner": {"count": 1, "kind": "c"}}, "file.inner.kind: expected one of a, b, got 'c'"),
        ({"inner": {"count": 1, "sort": 1}}, "file.inner: unknown field 'sort'"),
        ({"nom": 1}, "file: unknown field 'nom'"),
        ({"pairs": "ab"}, "file.pairs: expected a list, got a string"),
        ({"pairs": [[1, "a"], [1]]}, "file.pairs[1]: expected a list of length 2, got 1"),
        ({"pairs": [[1, 2]]}, "file.pairs[0][1]: expected a string, got an integer"),
        ({"table": {"k": [{"count": "1"}]}}, "file.table[...][0].count: expected an integer"),
        ({"table": {"k": [{"count": 1, "no": 1}]}}, "file.table.k[0]: unknown field 'no'"),
        ({"table": {1: []}}, "file.table: expected a string, got an integer"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadInputError) as caught:
        from_plain(Outer, {"name": "x", **fields}, "file")
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize("value", [None, 3, "x", [], [1]])
def test_what_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(BadInputError, match="Outer: expected an object"):
        from_plain(Outer, value)


def test_a_hostile_value_cannot_forge_the_path() -> None:
    forged = "x" * 500 + " - at `$.nothing"
    with pytest.raises(BadInputError, match=r"^Outer\.inner\.kind: .{1,300}$"):
        from_plain(Outer, {"name": "x", "inner": {"count": 1, "kind": forged}})
