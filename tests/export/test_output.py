"""Output is made before the work and is all there or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from edge_runtime.contract.errors import BadInputError
from export.output import check_file, check_folder, check_new_file, check_space, new_folder


def fill(output):
    with new_folder(output) as partial:
        (partial / "weights").mkdir()
        (partial / "weights" / "a.bin").write_text("a")
        (partial / "manifest.json").write_text("{}")


def fail(output, error):
    with new_folder(output) as partial:
        (partial / "half").write_text("half")
        raise error


def assert_filled(output):
    assert sorted(path.name for path in output.iterdir()) == ["manifest.json", "weights"]
    assert (output / "weights" / "a.bin").read_text() == "a"


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    fill(tmp_path / "a" / "b")
    assert_filled(tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_new_folder_may_be_entered_as_any_other(tmp_path):
    fill(tmp_path / "out")
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_the_folder_where_one_stands_can_be_filled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(Path())
    assert_filled(tmp_path)


def test_an_empty_folder_stays_the_one_it_was(tmp_path):
    """It may be a mount point, which cannot be replaced."""
    output = tmp_path / "out"
    output.mkdir()
    before = output.stat().st_ino
    fill(output)
    assert output.stat().st_ino == before
    assert_filled(output)


def test_a_link_to_an_empty_folder_is_followed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to("far")
    fill(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert_filled(tmp_path / "far")


@pytest.mark.parametrize("exists", [True, False])
def test_after_an_error_everything_is_as_it_was(tmp_path, exists):
    output = tmp_path / "made" / "out" if exists else tmp_path / "new" / "out"
    (tmp_path / "made" / "out").mkdir(parents=True)
    with pytest.raises(ZeroDivisionError):
        fail(output, ZeroDivisionError())
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["made", "made/out"]


def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(tmp_path):
    output = tmp_path / "out"
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(BadInputError, match=f"{output}: No space left.*nothing was written to"):
        fail(output, full)
    assert not list(tmp_path.iterdir())


def made(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    return tmp_path / name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("full", "not an empty folder"),
        ("file", "not an empty folder"),
        ("file/out", "file: Not a directory"),
        ("file/deep/out", "file: Not a directory"),
        ("dangling", "is a link to nowhere, which does not exist"),
        ("dangling/out", "No such file"),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_cannot_be_a_folder_is_refused_before_any_work(tmp_path, name, message):
    output = made(tmp_path, name)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInputError, match=f"{message}.*-o"), new_folder(output):
        pytest.fail("work began")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("full", "is a folder; name a file: -o .*full/model.onnx"),
        ("file", "exists"),
        ("file/model.onnx", "file: Not a directory"),
        ("dangling", "is a link to nowhere"),
    ],
)
def test_what_cannot_be_a_file_is_refused(tmp_path, name, message):
    output = made(tmp_path, name)
    with pytest.raises(BadInputError, match=message):
        check_new_file(output, example="model.onnx")


def test_a_file_in_folders_to_be_made_is_fine_and_leaves_nothing(tmp_path):
    check_new_file(tmp_path / "a" / "b" / "model.onnx", example="model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_seen_before_the_work(tmp_path):
    output, free = tmp_path / "new" / "out", shutil.disk_usage(tmp_path).free
    with pytest.raises(BadInputError, match=r"out: needs .* MB or more, and .* MB are free"):
        check_space(2 * free, output)
    check_space(1, output)


def test_a_folder_that_can_be_made_is_not_made_by_the_check(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_path: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BadInputError, match="No space left on device; choose another -o"):
        check_folder(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_may_be_replaced_and_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "chart.svg").write_text("old")
    check_file(tmp_path / "chart.svg")
    assert (tmp_path / "chart.svg").read_text() == "old"
    with pytest.raises(BadInputError, match="is a folder; name a file"):
        check_file(tmp_path)
