"""Two checkpoints are kept, and the newest whole one is gone on with."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from coordinator.runs.checkpoints import Checkpoint, Checkpoints
from edge_runtime.contract.errors import BadInputError, StorageError, UnresumableError
from edge_runtime.contract.tensors import write_tensors
from tests.coordinator.runs.test_run_folder import checkpoint


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def file(run: Path, step: int, suffix: str) -> Path:
    return run / "checkpoints" / f"step-{step:08d}.{suffix}"


def test_the_last_two_are_kept(tmp_path: Path, kept: Checkpoints) -> None:
    assert kept.last() is None
    for step in (1, 2, 10):
        kept.write(checkpoint(step))
        assert kept.last() == checkpoint(step)
    assert names(tmp_path) == [
        f"step-{step:08d}.{suffix}" for step in (2, 10) for suffix in ("json", "safetensors")
    ]


@pytest.mark.parametrize(
    ("step", "epoch", "steps", "ended"), [(3, 1, 3, 0), (4, 1, 4, 1), (6, 2, 2, 1)]
)
def test_one_amid_an_epoch_knows_what_is_summed_up_of_it(
    kept: Checkpoints, step: int, epoch: int, steps: int, ended: int
) -> None:
    kept.write(checkpoint(step))
    last = kept.last()
    assert last is not None
    assert (last.step, last.sums.epoch, last.sums.steps) == (step, epoch, steps)
    assert (last.sums.samples, last.sums.loss_sum) == (8 * steps, 1 / step)
    assert [report.epoch for report in last.epochs] == list(range(1, ended + 1))


def test_steps_of_any_number_of_digits_are_in_order(kept: Checkpoints) -> None:
    for step in (9, 10, 99, 100, 99_999_999):
        written = dataclasses.replace(checkpoint(1), step=step)
        kept.write(written)
        assert kept.last() == written


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_that_is_not_finite_replaces_nothing(
    tmp_path: Path, kept: Checkpoints, value: float
) -> None:
    kept.write(checkpoint(1))
    bad = write_tensors({"head.weight": np.array([1.0, value], np.float32)})
    with pytest.raises(UnresumableError, match="is not finite"):
        kept.write(dataclasses.replace(checkpoint(2), state=bad))
    assert kept.last() == checkpoint(1)


@pytest.mark.parametrize("state", [b"", b"garbage", checkpoint(2).state[:-1]])
def test_one_that_is_garbage_replaces_nothing(
    tmp_path: Path, kept: Checkpoints, state: bytes
) -> None:
    kept.write(checkpoint(1))
    before = names(tmp_path)
    with pytest.raises(BadInputError, match="trainer state"):
        kept.write(dataclasses.replace(checkpoint(2), state=state))
    assert names(tmp_path) == before
    assert kept.last() == checkpoint(1)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # still a finite number, which only the digest tells from the right one
    path.write_bytes(content)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
@pytest.mark.parametrize("damage", [torn, flipped, emptied])
def test_a_damaged_one_is_passed_over_for_the_one_before_which_is_said(
    tmp_path: Path, kept: Checkpoints, caplog: pytest.LogCaptureFixture, damage, suffix: str
) -> None:
    for step in (1, 2):
        kept.write(checkpoint(step))
    path = file(tmp_path, 2, suffix)
    if suffix == "json":
        path.write_text(path.read_text().rstrip())  # the last byte counts now
    damage(path)
    assert kept.last() == checkpoint(1)
    assert "step-00000002" in caplog.text
    assert "going on from the checkpoint before, of update 1" in caplog.text
    kept.write(checkpoint(2))
    assert kept.last() == checkpoint(2)


def test_one_that_was_cut_short_does_not_count(tmp_path: Path, kept: Checkpoints) -> None:
    kept.write(checkpoint(1))
    file(tmp_path, 2, "safetensors").write_bytes(b"half")
    assert kept.last() == checkpoint(1)
    file(tmp_path, 3, "json").write_text("{}")
    kept.write(checkpoint(2))
    assert kept.last() == checkpoint(2)
    assert names(tmp_path)[-1] == "step-00000002.safetensors"


def test_where_none_is_whole_nothing_is_begun_anew(tmp_path: Path, kept: Checkpoints) -> None:
    for step in (1, 2):
        kept.write(checkpoint(step))
        emptied(file(tmp_path, step, "safetensors"))
    with pytest.raises(BadInputError, match=r"step-00000002.*; no other is left, start a new run"):
        kept.last()


def test_one_of_an_earlier_version_has_no_digest_and_counts(
    tmp_path: Path, kept: Checkpoints
) -> None:
    kept.write(checkpoint(1))
    path = file(tmp_path, 1, "json")
    plain = json.loads(path.read_text())
    del plain["state_sha256"]
    path.write_text(json.dumps(plain))
    assert kept.last() == checkpoint(1)


def test_wherever_writing_is_cut_off_a_whole_one_is_there(
    tmp_path: Path, kept: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, or a kill, at each call that writes: update 1 or 2 is left, never less."""
    found = set[int]()
    for refused in range(8):
        kept.write(checkpoint(1))
        calls = iter(range(100))

        def counted(real, *arguments, calls=calls, refused=refused):
            if next(calls) >= refused:
                raise OSError(28, "No space left on device")
            return real(*arguments)

        with monkeypatch.context() as patched:
            for owner, name in ((os, "fsync"), (Path, "replace")):
                real = getattr(owner, name)
                patched.setattr(owner, name, lambda *a, real=real: counted(real, *a))
            with contextlib.suppress(StorageError):
                kept.write(checkpoint(2))
        last = kept.last()
        assert isinstance(last, Checkpoint)
        assert last == checkpoint(last.step)
        found.add(last.step)
    assert found == {1, 2}
