import os
import stat
from pathlib import Path

import pytest

from edge_runtime.contract.errors import BadInputError
from edge_runtime.transport import (
    KeyPair,
    PublicKey,
    fingerprint,
    load_or_create_keypair,
)
from edge_runtime.transport.keys import check_public_key, decode_key, encode_key

posix_only = pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")


def test_a_key_pair_is_made_once_and_found_again(tmp_path: Path) -> None:
    path = tmp_path / "home" / "key.json"
    assert load_or_create_keypair(path) == load_or_create_keypair(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["key.json"]


@posix_only
def test_the_key_file_is_private_and_so_is_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "home" / "key.json"
    load_or_create_keypair(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@posix_only
def test_a_key_file_that_others_may_read_is_refused_with_the_mending_command(
    tmp_path: Path,
) -> None:
    path = tmp_path / "key.json"
    load_or_create_keypair(path)
    path.chmod(0o640)
    with pytest.raises(BadInputError, match="chmod 600"):
        load_or_create_keypair(path)


@posix_only
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(BadInputError, match="chmod 700"):
        load_or_create_keypair(folder / "key.json")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format_version": 1}', "\xff", "[" * 5000])
def test_a_broken_key_file_is_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key.json"
    load_or_create_keypair(path)
    path.write_text(content, encoding="latin-1")
    with pytest.raises(BadInputError, match=r"key\.json: not a key file"):
        load_or_create_keypair(path)
    assert path.read_text(encoding="latin-1") == content


def test_the_error_about_a_broken_key_file_does_not_show_the_secret(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    secret = load_or_create_keypair(path).secret.decode()
    path.write_text(path.read_text().replace('"public_key"', '"public"'))
    with pytest.raises(BadInputError) as caught:
        load_or_create_keypair(path)
    assert secret not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_secret_is_in_no_representation() -> None:
    keypair = KeyPair.generate()
    for shown in (repr(keypair), str(keypair), f"{keypair}"):
        assert keypair.secret.decode() not in shown
        assert keypair.public in shown


def test_keys_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="belong together"):
        KeyPair(public=KeyPair.generate().public, secret=KeyPair.generate().secret)


@pytest.mark.parametrize("text", ["", "x" * 39, "x" * 41, "~" * 40, "#" * 40, "ä" * 40])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="40 characters"):
        check_public_key(text)


def test_public_keys_survive_decoding_and_have_short_names() -> None:
    public = KeyPair.generate().public
    assert encode_key(decode_key(public)) == public
    assert len(fingerprint(public)) == 19
    assert fingerprint(public) != fingerprint(PublicKey(public[::-1]))
