import contextlib
from pathlib import Path

import pytest

from coordinator.cli.options import head_start
from devices import this_machine


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[bool]:
    """A head start that takes none; says for each whether it trains."""
    starts: list[bool] = []

    def start(_: Path, *, trains: bool) -> contextlib.AbstractContextManager[None]:
        starts.append(trains)
        return contextlib.nullcontext()

    monkeypatch.setattr(this_machine, "HeadStart", start)
    monkeypatch.setenv("PACPLUS_HOME", str(tmp_path / "home"))
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").touch()
    return starts


def test_this_machine_starts_its_device_before_anything_is_read(
    tmp_path: Path, begun: list[bool]
) -> None:
    with head_start(tmp_path / "bundle", tmp_path / "run", wanted=True, resume=False):
        assert begun == [True]


def test_what_will_be_refused_or_needs_other_devices_starts_nothing(
    tmp_path: Path, begun: list[bool]
) -> None:
    bundle, run = tmp_path / "bundle", tmp_path / "run"
    with head_start(bundle, run, wanted=False, resume=False):
        pass
    with head_start(tmp_path / "elsewhere", run, wanted=True, resume=False):
        pass
    run.mkdir()
    (run / "run.json").touch()
    with head_start(bundle, run, wanted=True, resume=False):
        pass
    assert begun == []
    with head_start(bundle, run, wanted=True, resume=True):
        assert begun == [True]
