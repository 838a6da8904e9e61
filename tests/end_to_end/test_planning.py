"""Plans are made for devices that are not here, drawn, and run as they were printed."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.conftest import TinyBundleMaker
from tests.processes import pacplus, succeed

HOUSE = """
[[device]]
name = "desk"
like = "laptop"

[[device]]
name = "nano"
like = "jetson-nano"
count = 2

[links.desk]
nano-1 = "100M"
nano-2 = "50M"
[links.nano-1]
nano-2 = "50M"
"""


@pytest.fixture
def bundle(tiny_bundle: TinyBundleMaker) -> Path:
    return tiny_bundle("bert", "int8").path


def test_devices_that_are_not_here_are_planned_for(
    home: Path, bundle: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "house.toml").write_text(HOUSE)
    planned = succeed(
        *(home, "plan", bundle, "--data", data / "train.jsonl", "--json"),
        *("--profiles", tmp_path / "house.toml", "--plot", tmp_path / "chart.svg"),
    ).report
    names = {member["device"] for stage in planned["stages"] for member in stage["devices"]}
    assert names <= {"desk", "nano-1", "nano-2"}
    assert planned["predicted"]["total_seconds"] > 0
    assert planned["simulated"]["total_seconds"] > 0
    assert {each["name"] for each in planned["alternatives"]} >= {"one device", "equal split"}
    best = min(
        each["plan"]["predicted"]["total_seconds"]
        for each in planned["alternatives"]
        if each["plan"]
    )
    assert planned["predicted"]["total_seconds"] <= best * 1.001
    assert ElementTree.parse(tmp_path / "chart.svg").getroot().tag.endswith("svg")


def test_a_printed_plan_is_run(home: Path, bundle: Path, data: Path, tmp_path: Path) -> None:
    cluster = ("--emulate", "laptop,laptop:trainer=no", "--batch-size", "8", "--json")
    planned = succeed(home, "plan", bundle, "--data", data / "train.jsonl", *cluster).report
    # Anything but the best: a stage for each, in turn.
    blocks = planned["stages"][-1]["last"]
    planned["stages"] = [
        {"first": 0, "last": 1, "devices": [{"device": "laptop-2", "share": 1.0}]},
        {"first": 1, "last": blocks, "devices": [{"device": "laptop-1", "share": 1.0}]},
    ]
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(planned))
    train = ("train", bundle, "--data", data / "train.jsonl", "--epochs", "1", *cluster)
    first = succeed(home, *train, "-o", tmp_path / "1", "--plan", path).report
    assert first["plan"]["stages"] == planned["stages"]
    assert first["plan"]["micro_batch_size"] == planned["micro_batch_size"]

    planned["stages"][0]["devices"][0]["device"] = "laptop-3"
    path.write_text(json.dumps(planned))
    refused = pacplus(home, *train, "-o", tmp_path / "3", "--plan", path)
    assert refused.code == 3
    assert refused.err.strip().splitlines()[-1] == (
        f"pacplus: {path}.stages[0].devices: 'laptop-3' is not there; there are: laptop-1, laptop-2"
    )
    assert not (tmp_path / "3").exists()
