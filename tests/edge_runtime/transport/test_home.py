from pathlib import Path

import pytest

from edge_runtime.contract.errors import BadInputError
from edge_runtime.transport import home_directory


def test_the_home_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PACPLUS_HOME", str(tmp_path / "mine"))
    assert home_directory() == tmp_path / "mine"
    assert (tmp_path / "mine").is_dir()


def test_the_home_follows_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PACPLUS_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr("sys.platform", "linux")
    assert home_directory() == tmp_path / "data" / "pacplus"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert home_directory() == tmp_path / ".local" / "share" / "pacplus"
    monkeypatch.setattr("sys.platform", "darwin")
    assert home_directory() == tmp_path / "Library" / "Application Support" / "pacplus"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert home_directory() == tmp_path / "local" / "pacplus"


def test_a_home_that_is_a_file_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PACPLUS_HOME", str(tmp_path / "file"))
    with pytest.raises(BadInputError, match="cannot be used as a folder"):
        home_directory()
