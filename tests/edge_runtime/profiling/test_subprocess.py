import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.profiling import subprocess as measuring
from tests.edge_runtime.profiling.test_training import TEXTS

TRAINER = {"device": DeviceId("d"), "roles": ("trainer",), "threads": 1}
WAIT_SECONDS = 60

MEASURE_AND_LIST_MODULES = """
import sys
from pathlib import Path
from edge_runtime.profiling.subprocess import _read, measure_in_subprocess
request = _read(sys.stdin.buffer)
home = Path(sys.argv[1])
found = measure_in_subprocess(request, device="d", roles=("trainer",), threads=1, home=home)
print("torch" in sys.modules, found.trainer.parameters > 0, found.base_memory_bytes)
"""


def test_the_device_itself_never_imports_pytorch_to_be_measured(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MEASURE_AND_LIST_MODULES, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        measuring._write(process.stdin, TEXTS)
        torch, measured, base_bytes = process.stdout.read().split()
    assert (torch, measured) == (b"False", b"True")
    assert int(base_bytes) < 150_000_000


@pytest.fixture
def measuring_children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen]:
    """The processes that were started to measure, from the moment that they run."""
    started = []
    original = subprocess.Popen

    class Recorded(original):  # type: ignore[type-arg, valid-type, misc]
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(measuring.subprocess, "Popen", Recorded)
    return started


def test_where_memory_does_not_suffice_for_two_processes_the_device_measures_itself(
    tmp_path: Path, measuring_children: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_stream: object) -> None:
        os.kill(measuring_children[0].pid, signal.SIGKILL)
        raise EOFError

    monkeypatch.setattr(measuring, "_read", killed)
    found = measuring.measure_in_subprocess(TEXTS, home=tmp_path, **TRAINER)
    assert found.trainer is not None


def test_a_measurement_that_fails_says_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("no folder")
    with pytest.raises(RemoteError, match="weights/x/weights: Not a directory"):
        measuring.measure_in_subprocess(TEXTS, home=tmp_path / "weights" / "x", **TRAINER)


def test_the_measuring_process_ends_when_the_device_is_gone(tmp_path: Path) -> None:
    command = [sys.executable, "-m", measuring.MODULE, "d", str(tmp_path), "1", "trainer"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        reader = threading.Thread(target=process.stdout.read, daemon=True)
        reader.start()
        measuring._write(process.stdin, TEXTS)
        process.stdin.close()  # as the kernel does when the device dies
        assert process.wait(WAIT_SECONDS) == 1
