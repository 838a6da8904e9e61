"""Devices are measured once, and again when that is asked for."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import TinyBundleMaker
from tests.processes import events, succeed

DEVICES = "laptop:cpu=0.5,link=100M,laptop:cpu=0.5,link=100M"


def contents(home: Path) -> dict[str, object]:
    """What was measured, by file; neither what is free now nor what runs have found since."""
    return {
        path.name: _times(json.loads(path.read_bytes())) for path in (home / "profiles").iterdir()
    }


def _times(file: dict) -> object:
    times = file.get("known", {}).get("times")
    return file if times is None else times["blocks"]


def test_a_second_run_measures_nothing_again_and_reprofile_does(
    home: Path, tiny_bundle: TinyBundleMaker, data: Path, tmp_path: Path
) -> None:
    bundle = tiny_bundle("bert", "int8").path
    work = (bundle, "--data", data / "train.jsonl", "--emulate", DEVICES, "--json")

    def seconds_of_profiling(run: str) -> list[float]:
        report = succeed(home, "train", *work, "-o", tmp_path / run, "--epochs", "1").report
        assert "plan_made" in [event["event"] for event in events(tmp_path / run)]
        return [device["cpu_seconds"]["profile"] for device in report["devices"]]

    first = seconds_of_profiling("first")
    known = contents(home)
    assert not any(name.endswith("-links.json") for name in known)  # they are given

    again = seconds_of_profiling("again")
    assert contents(home) == known
    assert sum(again) < sum(first) / 4

    plan = succeed(home, "plan", *work, "--epochs", "1", "--reprofile").report
    assert plan["predicted"]["total_seconds"] > 0
    fresh = contents(home)
    links = {name for name in fresh if name.endswith("-links.json")}
    assert len(links) == 2
    assert fresh.keys() == known.keys() | links
    assert all(fresh[name] != known[name] for name in known)
