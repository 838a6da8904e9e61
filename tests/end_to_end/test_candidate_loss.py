"""Language models learn over candidates what they learn over the whole vocabulary."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TinyBundleMaker
from tests.end_to_end.conftest import lines
from tests.processes import finish, start, succeed, wait_for_event, write_jsonl

EPOCHS = 4
ADAPTER = "adapter/adapter_model.safetensors"

pytestmark = pytest.mark.slow


@pytest.fixture
def command(tiny_bundle: TinyBundleMaker, tmp_path: Path) -> list[str]:
    bundle = tiny_bundle("llama", "int8").path
    texts = [each["text"].split() for each in lines(600, 3)]
    rows = [{"prompt": " ".join(each[:2]), "completion": " ".join(each[2:])} for each in texts]
    data = write_jsonl(tmp_path / "train.jsonl", rows)
    evaluation = write_jsonl(tmp_path / "eval.jsonl", rows[:40])
    return [
        *("train", str(bundle), "--data", str(data), "--eval", str(evaluation), "--json"),
        *("--epochs", str(EPOCHS), "--batch-size", "8", "--reduction", "2"),
        *("--learning-rate", "0.003"),
    ]


def test_the_loss_is_that_of_the_whole_vocabulary_on_one_device_and_on_two(
    command: list[str], home: Path, tmp_path: Path
) -> None:
    found = {
        name: succeed(home, *command, "-o", tmp_path / name, *more).report
        for name, more in {
            "alone": (),
            "two": ("--emulate", "laptop,laptop"),
            "exact": ("--loss", "exact"),
        }.items()
    }
    assert [report["loss"] for report in found.values()] == ["candidates", "candidates", "exact"]
    losses = {name: report["eval"]["after"]["loss"] for name, report in found.items()}
    assert losses["exact"] < found["exact"]["eval"]["before"]["loss"] - 0.1
    np.testing.assert_allclose(losses["two"], losses["alone"], rtol=2e-3)
    np.testing.assert_allclose(losses["alone"], losses["exact"], rtol=5e-3)


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    command: list[str], home: Path, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    succeed(home, *command, "-o", whole)
    process = start(home, *command, "-o", str(stopped))
    wait_for_event(process, stopped, lambda event: event["event"] == "checkpoint")
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    if ended.code:  # it may have been quicker
        succeed(home, *command, "-o", stopped, "--resume")
    assert (stopped / ADAPTER).read_bytes() == (whole / ADAPTER).read_bytes()
