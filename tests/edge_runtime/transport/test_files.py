import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime.contract.errors import BadInputError
from edge_runtime.transport.files import create_private, read_private, write_private


def test_only_the_first_creator_wins(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert create_private(path, b"first")
    assert not create_private(path, b"second")
    assert read_private(path) == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_creating_works_where_hard_links_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "file"
    assert create_private(path, b"first")
    assert not create_private(path, b"second")
    assert read_private(path) == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_replaced_file_is_private_whatever_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_private(path, b"new")
    assert read_private(path) == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_write_that_fails_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_private(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInputError, match="No space left"):
        write_private(path, b"new")
    assert read_private(path) == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [write_private, create_private])
def test_content_is_on_the_disk_before_its_name_and_the_name_before_the_call_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, bytes], object]
) -> None:
    path, done = tmp_path / "file", list[tuple[str, str]]()

    def note(owner: object, name: str, what: Callable[..., str]) -> None:
        real = getattr(owner, name)

        def noting(*arguments: object) -> None:
            done.append((name, what(*arguments)))
            real(*arguments)

        monkeypatch.setattr(owner, name, noting)

    note(os, "fsync", lambda file: Path(f"/proc/self/fd/{file}").readlink().name)
    note(Path, "replace", lambda _, target: Path(target).name)
    note(os, "link", lambda _, target: Path(target).name)
    write(path, b"content")
    (first, temporary), (second, named), (third, folder) = done
    assert (first, temporary.startswith(".file.")) == ("fsync", True)
    assert (second in ("replace", "link"), named) == (True, "file")
    assert (third, folder) == ("fsync", tmp_path.name)


def test_a_folder_that_cannot_be_synced_is_no_reason_to_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def refuse_folders(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(22, "Invalid argument")
        real(file)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_private(tmp_path / "file", b"content")
    assert read_private(tmp_path / "file") == b"content"
