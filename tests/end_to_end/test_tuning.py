"""Settings are tried on this machine, and the best one's adapter is used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import TinyBundleMaker
from tests.processes import events, pacplus, succeed

WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture
def bundle(tiny_bundle: TinyBundleMaker) -> Path:
    return tiny_bundle("bert", "int8").path


def test_the_best_of_several_settings_is_kept_and_comes_to_the_same_alone(
    home: Path, bundle: Path, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    asked = (
        *("train", bundle, "--data", data / "train.jsonl", "--eval", data / "eval.jsonl"),
        *("--epochs", "2", "--batch-size", "8"),
    )
    report = succeed(
        home,
        *(*asked, "-o", run, "--reduction", "1", "--learning-rate", "0.003"),
        *("--tune", "4", "--json"),
    ).report

    tuning = report["tuning"]
    best = tuning["settings"][tuning["best"]]
    assert [each["number"] for each in tuning["settings"]] == [0, 1, 2, 3]
    assert [len(each["held_out_loss"]) for each in tuning["settings"]].count(3) == 2
    assert len(tuning["settings"][0]["held_out_loss"]) == 3, "the one asked for trains to the end"
    kept = tuning["steps"].index(tuning["step"])
    asked_for = tuning["settings"][0]
    at_best = tuning["steps"].index(asked_for["best_step"])
    assert (best["held_out_accuracy"][kept], -best["held_out_loss"][kept]) >= (
        asked_for["held_out_accuracy"][at_best],
        -asked_for["held_out_loss"][at_best],
    )
    assert all(each["cpu_seconds"] > 0 for each in tuning["settings"])
    assert tuning["repeat"]["--adapter"] == best["adapter"]
    assert report["eval"]["after"]["accuracy"] == best["held_out_accuracy"][kept]
    assert report["eval"]["after"]["loss"] == pytest.approx(best["held_out_loss"][kept], rel=1e-3)
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert (config["kind"], config["reduction"]) == (best["adapter"], best["reduction"])
    names = [event["event"] for event in events(run)]
    assert names.count("settings_trained") == 3
    assert names.count("setting_chosen") == 1

    alone = tmp_path / "alone"
    succeed(
        home, *asked, "-o", alone, *(part for pair in tuning["repeat"].items() for part in pair)
    )
    assert (alone / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()


def test_without_held_out_data_nothing_is_tried(
    home: Path, bundle: Path, data: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    failed = pacplus(
        home, "train", bundle, "--data", data / "train.jsonl", "-o", run, "--tune", "4"
    )
    assert failed.code == 2
    assert "--eval" in failed.err
    assert len(failed.err.strip().splitlines()) == 1
    assert not run.exists()
