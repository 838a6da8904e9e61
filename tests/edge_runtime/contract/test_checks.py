"""Text of peers becomes one short printable line, whichever message bears it."""

from __future__ import annotations

import dataclasses
import time

import pytest

from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.messages import Failed, Hello, Message, Notice, ProfileDone
from edge_runtime.contract.text import MAX_TEXT_LENGTH, excerpt, one_line
from tests.edge_runtime.contract.examples import EXAMPLES, PROFILE

EVIL = "\x1b[2J\r\n2026-01-01 WARNING forged\x07\N{RIGHT-TO-LEFT OVERRIDE}" + "x" * (1 << 19)


def received(message: Message, field: str) -> Message:
    """The message as the other side gets it from a sender that cleans nothing."""
    object.__setattr__(message, field, EVIL)
    return decode([bytes(frame) for frame in encode(message)])


def example(kind: type[Message]) -> Message:
    return dataclasses.replace(next(one for one in EXAMPLES if type(one) is kind))


@pytest.mark.parametrize(
    ("kind", "field"), [(Failed, "reason"), (Notice, "text"), (Hello, "software")]
)
def test_the_text_of_a_message_is_one_short_printable_line(kind: type[Message], field: str) -> None:
    text = getattr(received(example(kind), field), field)
    assert text.isprintable()
    assert 10 < len(text) <= MAX_TEXT_LENGTH


@pytest.mark.parametrize("field", ["profile", "provider", "kernel_class"])
def test_texts_of_a_profile_are_short_printable_lines(field: str) -> None:
    profile = dataclasses.replace(PROFILE)
    object.__setattr__(profile, field, EVIL)
    message = decode([bytes(frame) for frame in encode(ProfileDone(profile=profile))])
    assert isinstance(message, ProfileDone)
    text = getattr(message.profile, field)
    assert text.isprintable()
    assert len(text) <= MAX_TEXT_LENGTH


def test_what_an_error_quotes_of_a_peer_is_one_short_printable_line() -> None:
    text = str(RemoteError(f"{EVIL} is not a peer"))
    assert text.isprintable()
    assert len(text) <= MAX_TEXT_LENGTH


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two\nlines\t of it", "two lines of it"),
        ("a" * 200, "a" * 200),
        ("a" * 201, "a" * 97 + " ... " + "a" * 97),
        (" " * 1000 + "a", "... a"),
        (
            "no space in /" + "x" * 5000 + "; free some",
            "no space in /" + "x" * 84 + " ... " + "x" * 86 + "; free some",
        ),
        ("größer als 3 \N{GREEK SMALL LETTER MU}s", "größer als 3 \N{GREEK SMALL LETTER MU}s"),
    ],
)
def test_a_line_keeps_what_can_be_read(text: str, line: str) -> None:
    assert one_line(text) == line


def test_an_excerpt_does_not_walk_a_value() -> None:
    began = time.process_time()
    assert excerpt([[]] * 5_000_000) == "list"
    assert len(excerpt("x" * 5_000_000)) <= 82
    assert (excerpt(None), excerpt(3), excerpt(1 << 9999)) == ("None", "3", "int")
    assert time.process_time() - began < 0.5
