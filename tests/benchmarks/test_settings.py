"""A benchmark goes on with what an earlier call left, if that is of the same settings."""

from pathlib import Path

import pytest

from benchmarks.settings import check_settings

GIVEN = {"lines": 6000, "data": "train.jsonl", "max_length": None}


def test_results_of_the_same_settings_are_gone_on_with(tmp_path: Path) -> None:
    path, results = tmp_path / "settings.json", tmp_path / "results.jsonl"
    check_settings(path, GIVEN, results)
    results.write_text("{}\n", encoding="utf-8")
    check_settings(path, GIVEN, results)


def test_results_of_other_settings_are_refused_in_one_line(tmp_path: Path) -> None:
    path, results = tmp_path / "settings.json", tmp_path / "results.jsonl"
    check_settings(path, GIVEN, results)
    with pytest.raises(SystemExit, match="choose another --out") as refused:
        check_settings(path, {**GIVEN, "lines": 100}, results)
    assert len(str(refused.value).splitlines()) == 1
    check_settings(path, GIVEN, results)


def test_results_that_do_not_say_their_settings_are_refused(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text("{}\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"settings\.json is not there"):
        check_settings(tmp_path / "settings.json", GIVEN, results)
    assert not (tmp_path / "settings.json").exists()
