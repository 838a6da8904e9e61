"""Bundle, run and cache that an earlier version wrote; see tests/fixtures.

They were written by the last version with flat folders (commit e69bb42): a tiny BERT in int8,
48 lines, a finished run of 3 epochs and one of 300 that was stopped in its sixth.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from export.partition.stages import open_bundle
from tests.processes import ROOT, succeed

EARLIER = ROOT / "tests" / "fixtures" / "earlier_formats"
TEXTS = ("a very good cat", "the bad film")


@pytest.fixture
def earlier(home: Path, tmp_path: Path) -> Path:
    """A writable copy, its cache where this machine's device looks for it."""
    folder = tmp_path / "earlier"
    shutil.copytree(EARLIER, folder)
    for run in ("run", "stopped"):
        settings = json.loads((folder / run / "run.json").read_text())
        settings["bundle"] = str(folder / "bundle")
        (folder / run / "run.json").write_text(json.dumps(settings))
    home.mkdir(mode=0o700, exist_ok=True)
    shutil.copytree(folder / "cache", home / "emulated" / "this-machine" / "cache")
    return folder


def train(home: Path, earlier: Path, run: Path, *options: object) -> dict:
    data = earlier / "data.jsonl"
    given = (earlier / "bundle", "--data", data, "--eval", data, "-o", run, *options)
    return succeed(home, "train", *map(str, given), "--json").report


def test_the_bundle_is_whole_and_has_the_digest_that_it_had() -> None:
    bundle = open_bundle(EARLIER / "bundle")
    report = json.loads((EARLIER / "run" / "report.json").read_text())
    assert bundle.manifest.digest == report["bundle_digest"]
    assert len({block.block_class for block in bundle.manifest.blocks}) == 2


def test_a_finished_run_predicts_what_it_predicted(home: Path, earlier: Path) -> None:
    texts = [argument for text in TEXTS for argument in ("--text", text)]
    found = succeed(home, "predict", str(earlier / "run"), *texts, "--json").report["predictions"]
    expected = json.loads((earlier / "predictions.json").read_text())["predictions"]
    assert [each["label"] for each in found] == [each["label"] for each in expected]
    for now, before in zip(found, expected, strict=True):
        assert now["scores"] == pytest.approx(before["scores"], abs=1e-4)


def test_nothing_that_the_earlier_cache_holds_is_computed_again(home: Path, earlier: Path) -> None:
    report = train(home, earlier, earlier / "again", "--epochs", "3")
    assert report["fill"]["computed"] == report["fill"]["eval_computed"] == 0
    before = json.loads((earlier / "run" / "report.json").read_text())
    losses = [[epoch["train_loss"] for epoch in each["epochs"]] for each in (report, before)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_stopped_run_goes_on_after_its_last_checkpoint(home: Path, earlier: Path) -> None:
    report = train(home, earlier, earlier / "stopped", "--epochs", "300", "--resume")
    assert [report["epochs"][0]["epoch"], report["epochs"][-1]["epoch"]] == [1, 300]
    assert report["fill"]["computed"] == 0
