"""Cleans text of peers when the dataclasses that bear it are made.

Reasons, names and versions come from peers. On their way into logs, onto the screen and into
``events.jsonl`` they could forge lines, move a terminal's cursor, or fill a disk, so the messages
that bear them make them one short printable line here.
"""

from typing import Any

MAX_TEXT_LENGTH = 200


def one_line(text: str, limit: int = MAX_TEXT_LENGTH) -> str:
    """Cuts ``text`` to ``limit`` characters of one line; what cannot be printed becomes U+FFFD.

    What is too long loses its middle: an error begins with what happened, and ends with advice.
    """
    # Cut first: the text may have megabytes. Twice the limit leaves room for runs of spaces.
    if len(text) > 4 * limit:
        text = f"{text[: 2 * limit]} ... {text[-2 * limit :]}"
    line = " ".join(text.split())
    if len(line) > limit:
        half = (limit - 5) // 2
        line = f"{line[:half].rstrip()} ... {line[-half:].lstrip()}"
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def excerpt(value: Any, limit: int = 80) -> str:
    """Shows the beginning of an untrusted string, quoted; of anything else its type.

    Never prints a value whole and never walks one: lists of peers may have millions of items.
    """
    if isinstance(value, str):
        return repr(one_line(value, limit))
    if isinstance(value, bool | float | None) or (isinstance(value, int) and abs(value) < 1 << 64):
        return repr(value)
    return type(value).__name__


def clean_texts(instance: Any, *names: str) -> None:
    """Replaces these fields of a frozen dataclass by :func:`one_line` of them, when it is made."""
    for name in names:
        object.__setattr__(instance, name, one_line(getattr(instance, name)))
