"""Writes what several messages have in common: names, and errors of libraries, on one line."""

from collections.abc import Iterable


def listed(names: Iterable[str], shown: int = 3) -> str:
    """Joins names, the first few of many: ``a, b, c and 9 more``."""
    every = list(names)
    rest = len(every) - shown
    return ", ".join(every[:shown]) + (f" and {rest} more" if rest > 0 else "")


def one_line(error: Exception, characters: int = 200) -> str:
    """Joins the lines of an error, for messages of one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= characters else f"{text[:characters]} ..."


def first_line(error: Exception) -> str:
    """Takes the first line of an error: where more would say too much."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]
