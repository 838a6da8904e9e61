"""What a device warns of reaches the coordinator, and nothing else does."""

import logging

import pytest

from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.messages import Notice
from edge_runtime.device.notices import MAX_SENT, warnings_reported

LOGGER = logging.getLogger("edge_runtime.somewhere.deep")


def test_warnings_are_sent_for_as_long_as_the_session_lasts() -> None:
    sent = []
    with warnings_reported(sent.append):
        LOGGER.warning("%s is damaged and will be fetched again", "w.bin")
        LOGGER.info("a detail")
        LOGGER.error("told as a failure already")
        logging.getLogger("another.library").warning("x")
    LOGGER.warning("later")
    assert sent == [Notice(text="w.bin is damaged and will be fetched again")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("two\nlines\t of it", "two lines of it"),
        ("\x1b[2J", "\N{REPLACEMENT CHARACTER}[2J"),
        ("", "a warning without words"),
        ("a" * 300, f"{'a' * 97} ... {'a' * 97}"),
    ],
)
def test_a_notice_is_a_short_printable_line(text: str, said: str) -> None:
    sent = []
    with warnings_reported(sent.append):
        LOGGER.warning("%s", text)
    assert sent == [Notice(text=said)]


def test_a_notice_without_words_is_none() -> None:
    with pytest.raises(ValueError, match="empty"):
        Notice(text=" \n")


def test_a_flood_of_warnings_ends_with_a_word() -> None:
    sent = []
    with warnings_reported(sent.append):
        for number in range(2 * MAX_SENT):
            LOGGER.warning("refused %d", number)
    assert len(sent) == MAX_SENT
    assert sent[-1] == Notice(text="further warnings are in its log only")


def test_an_error_in_between_ends_the_reporting() -> None:
    sent = []
    with pytest.raises(BadInputError), warnings_reported(sent.append):
        raise BadInputError("x")
    LOGGER.warning("later")
    assert sent == []
