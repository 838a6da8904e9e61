import os
import sys
import time
from pathlib import Path

import pytest

from devices import this_machine
from devices.this_machine import HeadStart


@pytest.fixture
def listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is a program that says what it hears, and how it was called."""
    says = "import sys; print(sys.stdin.readline().strip(), *sys.argv[1:], flush=True)"
    monkeypatch.setattr(
        this_machine, "start_command", lambda *_: [sys.executable, "-c", says, "start"]
    )


def heard(start: HeadStart) -> str:
    start.process.wait(20)
    return start.log.read_text()


@pytest.mark.usefixtures("listens")
def test_a_device_that_was_started_early_is_told_later_how_to_pair(tmp_path: Path) -> None:
    with HeadStart(tmp_path, trains=False) as start:
        assert start.process.poll() is None
        start.tell("127.0.0.1:7 token")
        assert heard(start) == "127.0.0.1:7 token start --pair told\n"


@pytest.mark.usefixtures("listens")
def test_only_a_device_that_will_train_imports_pytorch_ahead(tmp_path: Path) -> None:
    with HeadStart(tmp_path, trains=True) as start:
        start.tell("")
        assert heard(start).split() == ["start", "--pair", "told", "--trains"]


@pytest.mark.usefixtures("listens")
def test_a_head_start_that_nobody_needs_leaves_no_process(tmp_path: Path) -> None:
    began = time.monotonic()
    with HeadStart(tmp_path, trains=True) as start:
        pid = start.process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert time.monotonic() - began < 5


@pytest.mark.usefixtures("listens")
def test_telling_a_device_that_has_ended_does_nothing(tmp_path: Path) -> None:
    with HeadStart(tmp_path, trains=False) as start:
        start.process.stop()
        start.tell("127.0.0.1:7 token")
        assert start.process.poll() is not None
