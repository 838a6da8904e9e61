import json
import os
import time
from pathlib import Path

import pytest

from edge_runtime.device.care import Condition, Limits
from edge_runtime.device.condition import EMULATED_SECONDS, ConditionWatch, read_file


def test_an_emulated_condition_is_what_its_file_says_now(tmp_path: Path) -> None:
    path = tmp_path / "condition.json"
    path.write_text('{"battery": 0.12, "charging": false}')
    assert read_file(path) == Condition(battery=0.12, charging=False)
    path.write_text('{"celsius": 85}')
    assert read_file(path) == Condition(celsius=85.0)


def test_a_value_may_change_over_time(tmp_path: Path) -> None:
    path = tmp_path / "condition.json"
    path.write_text(json.dumps({"battery": [0.3, 0.1, 60]}))
    for age, battery in ((0, 0.3), (30, 0.2), (600, 0.1)):
        os.utime(path, (0, time.time() - age))
        found = read_file(path).battery
        assert found == pytest.approx(battery, abs=0.02), f"after {age} s"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"battery": "much"}', '{"battery": [1, 2]}'])
def test_nothing_is_known_of_a_file_that_is_not_whole(tmp_path: Path, text: str) -> None:
    path = tmp_path / "condition.json"
    assert read_file(path) == Condition()
    path.write_text(text)
    assert read_file(path) == Condition()


def test_a_watch_reads_seldom_and_tells_changes(tmp_path: Path) -> None:
    path = tmp_path / "condition.json"
    path.write_text('{"battery": 0.5}')
    watch = ConditionWatch.of_file(path, Limits())
    assert not watch.look(100.0)
    path.write_text('{"battery": 0.1}')
    assert not watch.look(100.1)
    assert watch.look(100.0 + EMULATED_SECONDS)
    assert (watch.condition.battery, watch.reason[:23]) == (0.1, "its battery is at 10%; ")
