"""What epochs are worth is kept with the best one's adapter, whatever is interrupted."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest

from coordinator.runs import evaluations
from coordinator.runs.evaluations import EvaluationFiles, Evaluations
from edge_runtime.contract.errors import StorageError, UnresumableError
from edge_runtime.contract.tensors import read_tensors, write_tensors

LOSSES = {1: {"loss": 2.0}, 2: {"loss": 1.0, "perplexity": math.inf}}


def state(value: float) -> bytes:
    moments = np.ones(3, np.float32)
    return write_tensors(
        {"weight": np.full(3, value, np.float32), "optimizer.first_moment": moments}
    )


@pytest.fixture
def files(tmp_path: Path) -> EvaluationFiles:
    kept = EvaluationFiles(tmp_path)
    kept.write({1: LOSSES[1]}, 1, state(1.0))
    return kept


def value(found: Evaluations) -> float:
    tensors = read_tensors(found.weights)
    assert tensors.keys() == {"weight"}, "the optimizer is not needed any more"
    return float(tensors["weight"][0])


def test_the_best_adapter_is_read_with_what_all_epochs_are_worth(files, tmp_path):
    files.write(LOSSES, 2, state(2.0))
    found = files.read()
    assert (found.best, value(found), found.by_epoch) == (2, 2.0, LOSSES)
    names = sorted(path.name for path in (tmp_path / "best").iterdir())
    assert names == ["epoch-0002.safetensors", "evaluations.json"]


def test_an_epoch_that_is_no_better_leaves_the_adapter(files):
    files.write({1: {"loss": 1.0}, 2: {"loss": 1.5}}, 1, b"")
    found = files.read()
    assert (found.best, value(found), len(found.by_epoch)) == (1, 1.0, 2)


def test_where_writing_is_interrupted_the_best_before_is_still_there(files, monkeypatch):
    write = evaluations.write_private

    def fail(path: Path, content: bytes) -> None:
        if path.suffix == ".json":
            raise StorageError("no space")
        write(path, content)

    monkeypatch.setattr(evaluations, "write_private", fail)
    with pytest.raises(StorageError):
        files.write(LOSSES, 2, state(2.0))
    found = files.read()
    assert (found.best, value(found), found.by_epoch) == (1, 1.0, {1: LOSSES[1]})


@pytest.mark.parametrize("name", ["epoch-0001.safetensors", "evaluations.json"])
def test_what_is_damaged_is_not_used_and_named(files, tmp_path, caplog, name):
    (tmp_path / "best" / name).write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        assert files.read() == Evaluations()
    assert name in caplog.text


def test_a_run_without_evaluations_has_none(tmp_path):
    assert EvaluationFiles(tmp_path).read() == Evaluations()


def test_an_adapter_that_is_not_finite_is_never_kept(files):
    with pytest.raises(UnresumableError):
        files.write(LOSSES, 2, state(math.nan))
    assert files.read().best == 1
