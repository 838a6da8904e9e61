"""Stages that were cut once are read, if they are whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.cluster import kept_cuts
from coordinator.cluster.kept_cuts import Forms, KeptCuts
from edge_runtime.contract.ids import Sha256

GRAPHS = (b"fast", b"the exact one")


class Cutter:
    """Counts how often it cuts."""

    def __init__(self) -> None:
        self.cuts = 0

    def __call__(self) -> Forms:
        self.cuts += 1
        return GRAPHS


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def test_a_stage_is_cut_once_for_each_bundle_and_blocks(home: Path) -> None:
    cut = Cutter()
    for bundle, last in (("a", 2), ("a", 2), ("a", 3), ("b", 2), ("b", 2)):
        assert KeptCuts(home, Sha256(bundle)).get(0, last, cut) == GRAPHS
    assert cut.cuts == 3


@pytest.mark.parametrize("content", [b"", b"short", b"\0" * 80])
def test_a_damaged_file_is_cut_again(home: Path, content: bytes) -> None:
    cut, kept = Cutter(), KeptCuts(home, Sha256("a"))
    kept.get(0, 2, cut)
    (file,) = (home / "cuts").iterdir()
    file.write_bytes(content)
    assert kept.get(0, 2, cut) == kept.get(0, 2, cut) == GRAPHS
    assert cut.cuts == 2


def test_the_newest_are_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_cuts, "MOST_FILES", 2)
    cut, kept = Cutter(), KeptCuts(home, Sha256("a"))
    for last in (1, 2, 3):
        kept.get(0, last, cut)
    assert len(list((home / "cuts").iterdir())) == 2
    kept.get(0, 3, cut)
    assert cut.cuts == 3


def test_where_nothing_can_be_written_stages_are_cut(home: Path) -> None:
    (home / "cuts").touch()
    cut, kept = Cutter(), KeptCuts(home, Sha256("a"))
    assert kept.get(0, 1, cut) == kept.get(0, 1, cut) == GRAPHS
    assert cut.cuts == 2


def test_whether_a_bundles_stages_are_kept_is_known_without_reading_them(home: Path) -> None:
    KeptCuts(home, Sha256("a")).get(0, 2, Cutter())
    assert KeptCuts(home, Sha256("a")).has_any()
    assert not KeptCuts(home, Sha256("b")).has_any()
    assert not KeptCuts(home / "nowhere", Sha256("a")).has_any()
