"""What is kept on disk of a training run in work."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from coordinator.api.inputs import Prepared
from coordinator.api.training_run import TrainingRun
from coordinator.protocol.actions import SaveCheckpoint
from coordinator.protocol.record import SessionRecord
from coordinator.runs.run_folder import RunFolder
from edge_runtime.contract.errors import UnresumableError
from edge_runtime.contract.messages import EpochSums
from edge_runtime.contract.tensors import read_tensors, write_tensors
from tests.coordinator.runs.test_run_folder import SETTINGS


def state(value: float) -> bytes:
    tensors: dict[str, Any] = {
        "head.weight": np.array([1.0, value], np.float32),
        "optimizer.step": np.array([3, 3]),
    }
    return write_tensors(tensors)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_an_adapter_that_is_not_finite_is_not_kept_and_the_last_good_one_is(
    tmp_path: Path, bad: float
) -> None:
    folder = RunFolder.create(tmp_path / "run", SETTINGS)
    prepared = cast(Prepared, SimpleNamespace(tables={}))
    run = TrainingRun(folder=folder, settings=SETTINGS, prepared=prepared, began=0.0)
    sums = EpochSums(epoch=1, steps=3, samples=24, count=24, loss_sum=9.0)
    save = SaveCheckpoint(epoch=0, state=state(2.0), step=3, sums=sums)
    run.save(save, SessionRecord())
    with pytest.raises(UnresumableError, match=r"'head\.weight' of the adapter is not finite"):
        run.save(dataclasses.replace(save, step=6, state=state(bad)), SessionRecord())
    kept = folder.last_checkpoint()
    assert kept is not None
    assert (kept.step, kept.sums) == (3, sums)
    assert read_tensors(kept.state)["head.weight"].tolist() == [1.0, 2.0]
