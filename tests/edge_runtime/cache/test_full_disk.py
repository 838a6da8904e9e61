"""A disk that is full, or refuses, tears nothing: what fits is kept."""

import contextlib
import errno
import os
import resource
import subprocess

import numpy as np
import pytest

from edge_runtime.contract.errors import BadInputError
from tests.edge_runtime.cache.samples import append, assert_reads, open_cache


@pytest.fixture
def cache(tmp_path):
    with open_cache(tmp_path) as cache:
        yield cache


def fill_up(monkeypatch, error):
    """From now on writing stops in the middle."""
    real = os.pwritev

    def write(file, buffers, offset):
        real(file, buffers[:1], offset)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "pwritev", write)


def test_a_disk_that_cannot_be_written_is_explained_and_leaves_what_was_there(cache, monkeypatch):
    append(cache, [1])
    before = cache.bytes_used
    fill_up(monkeypatch, errno.EIO)
    with pytest.raises(BadInputError, match="Input/output error; free space"):
        append(cache, [2])
    monkeypatch.undo()
    assert cache.bytes_used == before == sum(p.stat().st_size for p in cache.folder.iterdir())
    append(cache, [3])
    assert_reads(cache, [1, 3])


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_no_failure_and_tears_nothing(cache, monkeypatch, caplog, error):
    append(cache, [1])
    before = cache.bytes_used
    fill_up(monkeypatch, error)
    assert not append(cache, [2, 3]).any()
    assert append(cache, [1, 4]).tolist() == [True, False]
    monkeypatch.undo()
    assert cache.bytes_used == before == sum(p.stat().st_size for p in cache.folder.iterdir())
    append(cache, [2])
    assert_reads(cache, [1, 2])
    (told,) = caplog.messages
    assert "has no room for all of its samples" in told


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_what_a_full_disk_loses_when_it_is_flushed_has_no_place(tmp_path, monkeypatch, error):
    def refuse(_):
        raise OSError(error, os.strerror(error))

    with open_cache(tmp_path) as cache:
        append(cache, [1])
        cache.flush()
        append(cache, [2, 3])
        monkeypatch.setattr(os, "fsync", refuse)
        cache.flush()
        monkeypatch.undo()
        assert cache.samples == 1
        assert append(cache, [1, 2]).tolist() == [True, False]
        assert_reads(cache, [1])
    with open_cache(tmp_path) as cache:
        assert cache.samples == 1
        assert append(cache, [2]).all()


def test_what_fits_on_a_nearly_full_disk_is_kept(tmp_path):
    """A limit to the size of files refuses as a full disk does."""
    with open_cache(tmp_path) as cache:
        append(cache, [0])
        with file_size_limit(10 * cache.bytes_used):
            held = append(cache, list(range(1, 60)))
        assert 0 < held.sum() < 59
        kept = [0, *(1 + np.flatnonzero(held)).tolist()]
        assert_reads(cache, kept)
        assert cache.samples == len(kept)
    assert_whole_after_opening_again(tmp_path, kept)


@contextlib.contextmanager
def file_size_limit(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_whole_after_opening_again(root, kept):
    with open_cache(root) as cache:
        assert cache.samples == len(kept)
        assert_reads(cache, kept)


def test_a_disk_that_runs_full_and_is_freed_again(tmp_path, caplog):
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(200 << 10))
        with open_cache(disk / "cache") as cache:
            held = np.concatenate(
                [append(cache, list(range(n, n + 40))) for n in range(0, 240, 40)]
            )
            assert 0 < held.sum() < 240
            kept = np.flatnonzero(held).tolist()
            assert_reads(cache, kept)
        assert_whole_after_opening_again(disk / "cache", kept)
        assert not [each for each in caplog.messages if "damaged" in each]
        ballast.unlink()
        with open_cache(disk / "cache") as cache:
            assert append(cache, list(range(240))).all()
        assert_whole_after_opening_again(disk / "cache", list(range(240)))
    finally:
        subprocess.run(["umount", str(disk)], check=True)
