"""Messages are judged by their session and term."""

import pytest

from edge_runtime.contract.messages.tag import Tag
from edge_runtime.device.standing import Standing


@pytest.fixture
def standing() -> Standing:
    standing = Standing()
    standing.session, standing.term = "s", 4
    return standing


@pytest.mark.parametrize(
    ("session", "term", "admitted", "of_peer"),
    [
        ("s", 4, True, "take"),
        ("s", 0, True, "take"),
        ("s", 3, False, "drop"),
        ("s", 5, True, "later"),
        ("another", 4, False, "drop"),
        ("another", 5, False, "drop"),
        ("", 0, False, "drop"),
    ],
)
def test_messages_are_judged_by_session_and_term(standing, session, term, admitted, of_peer):
    tag = Tag(session=session, term=term, reply=9)
    assert standing.admits(tag) == admitted
    assert standing.of_peer(tag) == of_peer


def test_before_it_is_welcomed_a_device_takes_nothing_of_peers():
    assert Standing().of_peer(Tag()) == "drop"


def test_its_own_tag_answers_no_request(standing):
    assert standing.tag == Tag(session="s", term=4)
