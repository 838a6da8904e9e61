import json
import os
import stat

import pytest

from edge_runtime.cache.keys import KEY_FILE, SALT_FILE, CacheKeys, read_passphrase
from edge_runtime.contract.errors import BadInputError


def test_a_key_is_made_on_first_use_and_kept_for_its_owner_only(tmp_path):
    keys = CacheKeys(tmp_path)
    assert not list(tmp_path.iterdir())
    key = keys.key()
    assert len(key) == 32
    assert CacheKeys(tmp_path).key() == key
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


def test_two_devices_have_two_keys(tmp_path):
    assert CacheKeys(tmp_path / "a").key() != CacheKeys(tmp_path / "b").key()
    assert CacheKeys(tmp_path / "a", "x").key() != CacheKeys(tmp_path / "b", "x").key()


def test_a_passphrase_gives_the_same_key_again_and_stores_its_salt_alone(tmp_path):
    key = CacheKeys(tmp_path, "correct horse").key()
    assert CacheKeys(tmp_path, "correct horse").key() == key
    assert CacheKeys(tmp_path, "correct hors").key() != key
    (stored,) = tmp_path.iterdir()
    assert stored.name == SALT_FILE
    assert key.hex() not in stored.read_text()
    assert "horse" not in stored.read_text()


def test_letters_composed_in_two_ways_are_one_passphrase(tmp_path):
    assert CacheKeys(tmp_path, "Zürich").key() == CacheKeys(tmp_path, "Zu\u0308rich").key()


@pytest.mark.parametrize(
    "content", ["", "{}", '{"format_version": 1, "key": "abcd"}', '{"format_version": 1, "key": 1}']
)
def test_a_broken_key_file_is_refused_without_quoting_it(tmp_path, content):
    (tmp_path / KEY_FILE).write_text(content)
    (tmp_path / KEY_FILE).chmod(0o600)
    with pytest.raises(BadInputError, match="is broken") as error:
        CacheKeys(tmp_path).key()
    assert "abcd" not in str(error.value)


def test_a_cost_of_gigabytes_is_refused(tmp_path):
    salt = {"format_version": 1, "salt": "00" * 16, "log2_cost": 40}
    (tmp_path / SALT_FILE).write_text(json.dumps(salt))
    (tmp_path / SALT_FILE).chmod(0o600)
    with pytest.raises(BadInputError, match="is broken"):
        CacheKeys(tmp_path, "x").key()


def test_a_key_that_others_can_read_is_refused(tmp_path):
    CacheKeys(tmp_path).key()
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(BadInputError, match="chmod 600"):
        CacheKeys(tmp_path).key()


def test_the_passphrase_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PACPLUS_CACHE_PASSPHRASE", "from outside")
    assert read_passphrase(None) == "from outside"
    assert "PACPLUS_CACHE_PASSPHRASE" not in os.environ  # no child inherits it
    assert read_passphrase(None) == ""
    file = tmp_path / "passphrase"
    file.write_text("from a file\n")
    file.chmod(0o600)
    assert read_passphrase(file) == "from a file"


@pytest.mark.parametrize(("content", "mode"), [("", 0o600), ("\nx", 0o600), ("x", 0o644)])
def test_an_empty_or_public_passphrase_file_is_refused(tmp_path, content, mode):
    file = tmp_path / "passphrase"
    file.write_text(content)
    file.chmod(mode)
    with pytest.raises(BadInputError, match=str(file)):
        read_passphrase(file)


def test_a_passphrase_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(BadInputError, match="write the passphrase to it"):
        read_passphrase(tmp_path / "absent")
