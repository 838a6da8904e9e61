"""Runs of two versions, of which each call of the benchmark adds what is missing."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import versions


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a call; each run is over at once."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    manifest = json.dumps({"model_id": "m", "quantization": "int8"})
    (bundle / "manifest.json").write_text(manifest, encoding="utf-8")
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    row: dict[str, Any] = {"cpu_seconds": 1.0, "fill": 0.5, "epochs": 0.5}
    row |= {"peak_megabytes": 1, "losses": [0.5]}
    monkeypatch.setattr(versions, "_run", lambda *_: row)
    return [
        *("versions", "--before", str(tmp_path / "before"), "--bundle", str(bundle)),
        *("--data", str(tmp_path / "train.jsonl"), "--out", str(tmp_path / "out.jsonl")),
    ]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", list(arguments))
    versions.main()


def test_a_call_goes_on_where_the_one_before_was_stopped(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(monkeypatch, *given)
    call(monkeypatch, *given, "--rounds", "2")
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 8


@pytest.mark.parametrize(
    "other",
    [("--lines", "5"), ("--epochs", "2"), ("--before", "elsewhere"), ("--data", "more.jsonl")],
)
def test_runs_of_other_settings_are_not_gone_on_with(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: tuple[str, str]
) -> None:
    call(monkeypatch, *given)
    monkeypatch.chdir(tmp_path)
    Path("more.jsonl").write_text('{"text": "b"}\n', encoding="utf-8")
    with pytest.raises(SystemExit, match="choose another --out"):
        call(monkeypatch, *given, *other, "--rounds", "2")
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 4
