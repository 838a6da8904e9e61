"""Messages name the first few of many, on one line."""

from __future__ import annotations

from export.wording import first_line, listed, one_line


def test_the_first_few_of_many_are_named():
    assert listed("abc") == "a, b, c"
    assert listed("abcde") == "a, b, c and 2 more"


def test_an_error_is_one_line():
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(ValueError("x" * 300)) == "x" * 200 + " ..."
    assert first_line(ValueError("a\n  b")) == "a"
    assert (one_line(ValueError()), first_line(ValueError())) == ("ValueError", "ValueError")
