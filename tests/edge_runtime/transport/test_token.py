import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edge_runtime.contract.errors import BadInputError
from edge_runtime.transport import KeyPair, PairingToken


def test_a_token_survives_being_copied_by_hand() -> None:
    token = PairingToken.generate(KeyPair.generate().public)
    assert PairingToken.parse(f"  {token.text().upper()}\n") == token


@given(st.integers(9, 88), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567!"))
def test_one_wrong_character_is_noticed(position: int, character: str) -> None:
    text = PairingToken.generate(KeyPair.generate().public).text()
    wrong = text[:position] + character + text[position + 1 :]
    assume(wrong != text)
    with pytest.raises(BadInputError, match="token"):
        PairingToken.parse(wrong)


@pytest.mark.parametrize("text", ["", "pacplus1-", "pacplus2-abc", "hello", "pacplus1-ä"])
def test_what_is_no_token_is_explained(text: str) -> None:
    with pytest.raises(BadInputError, match="token"):
        PairingToken.parse(text)


def test_a_token_does_not_show_its_secret() -> None:
    token = PairingToken.generate(KeyPair.generate().public)
    assert repr(token.secret) not in repr(token)
