"""A language model that learns its few lines by heart is stopped, and was best before that."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import TinyBundleMaker
from tests.end_to_end.conftest import lines
from tests.processes import events, succeed, write_jsonl


def test_a_model_that_overfits_is_stopped_and_its_best_epoch_is_the_adapter(
    tiny_bundle: TinyBundleMaker, home: Path, tmp_path: Path
) -> None:
    texts = [each["text"].split() for each in lines(40, 5)]
    rows = [{"prompt": " ".join(each[:2]), "completion": " ".join(each[2:])} for each in texts]
    data = write_jsonl(tmp_path / "train.jsonl", rows[:12])
    evaluation = write_jsonl(tmp_path / "eval.jsonl", rows[12:])
    run = tmp_path / "run"
    report = succeed(
        home,
        *("train", tiny_bundle("llama", "int8").path, "--data", data, "--eval", evaluation),
        *("-o", run, "--epochs", "60", "--learning-rate", "0.05", "--reduction", "1", "--json"),
    ).report
    losses = [epoch["eval"]["loss"] for epoch in report["epochs"]]
    best = losses.index(min(losses)) + 1
    assert report["stopped_early"]
    assert (report["kept_epoch"], len(losses)) == (best, best + 2)
    assert report["eval"]["after"]["loss"] == losses[best - 1] < losses[-1]
    assert report["batch_size"] == 4
    (stopped,) = [event for event in events(run) if event["event"] == "stopped_early"]
    assert (stopped["epoch"], stopped["best"]) == (best + 2, best)
    found = succeed(home, "evaluate", run, "--data", evaluation, "--json").report
    assert found["loss"] == pytest.approx(losses[best - 1], rel=1e-3)
