"""The shipped data are what examples/README.md says, and the demo finds them."""

from __future__ import annotations

import collections
import runpy
from pathlib import Path

import pytest

from coordinator.cli.demo import EVAL_FILE, TRAIN_FILE, demo_data
from coordinator.data import DataSet, read_evaluation_data, read_training_data

ROOT = Path(__file__).parents[1]
SNIPS = ROOT.parent / "shared" / "data" / "snips"


@pytest.fixture(scope="module")
def train() -> DataSet:
    return read_training_data(demo_data() / TRAIN_FILE, "classification", None)


@pytest.fixture(scope="module")
def evaluation(train: DataSet) -> DataSet:
    return read_evaluation_data(demo_data() / EVAL_FILE, "classification", train.labels, None)


def test_every_intent_has_equally_many_lines(train: DataSet, evaluation: DataSet) -> None:
    assert collections.Counter(train.targets.tolist()) == dict.fromkeys(range(7), 286)
    assert collections.Counter(evaluation.targets.tolist()) == dict.fromkeys(range(7), 100)


def test_nothing_to_be_evaluated_is_trained_on(train: DataSet, evaluation: DataSet) -> None:
    assert not set(train.inputs.texts) & set(evaluation.inputs.texts)


def test_the_files_are_made_again_byte_by_byte(tmp_path: Path) -> None:
    assert SNIPS.exists(), f"{SNIPS} is needed"
    make = runpy.run_path(str(ROOT / "examples" / "make_assistant_data.py"))["main"]
    make(SNIPS, tmp_path)
    for name in (TRAIN_FILE, EVAL_FILE):
        assert (tmp_path / name).read_bytes() == (ROOT / "examples" / name).read_bytes()
