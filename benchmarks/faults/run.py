"""One run of ``pacplus train`` in a folder of its own: started, watched, and cleared away."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from devices import launch

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 0.02
EMULATE = "laptop,laptop,laptop"
SILENCE = "PACPLUS_FAULTS_SILENCE"
"""Names the seconds after which :mod:`.coordinator` gives a silent device up."""
DEVICES = ("laptop-1", "laptop-2", "laptop-3")
Event = dict[str, Any]


class RunError(Exception):
    """A run did not do what the benchmark waits for."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What is trained, and what an undisturbed run needs for it.

    Attributes:
        options: more of ``pacplus train``.
        emulate: the three laptops.
        silence_seconds: after which a device is given up; the product's own where it is None.
        limit_seconds: after which a run counts as hanging.
    """

    bundle: Path
    train: Path
    evaluation: Path
    epochs: int
    options: tuple[str, ...] = ()
    emulate: str = EMULATE
    silence_seconds: float | None = None
    limit_seconds: float = 300.0


class Run:
    """A coordinator and its emulated devices; a context manager that leaves no process."""

    def __init__(self, task: Task, folder: Path, plan: Path | None) -> None:
        self.task, self.folder, self.plan = task, folder, plan
        self.home, self.output = folder / "home", folder / "run"
        self.began = time.monotonic()
        self.coordinators: list[int] = []
        self._events: list[Event] = []
        self._read = 0
        self._others: list[subprocess.Popen[bytes]] = []
        self.process = self._start()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.kill()  # harmless once it has ended
        self.process.communicate()
        self._end_others()

    def _end_others(self) -> None:
        while self._others:
            process = self._others.pop()
            process.kill()
            process.communicate()

    def _start(self, *more: str) -> subprocess.Popen[bytes]:
        task = self.task
        command = [sys.executable, "-m", "benchmarks.faults.coordinator", "train", task.bundle]
        command += ["--data", task.train, "--eval", task.evaluation, "-o", self.output]
        command += ["--emulate", task.emulate, "--epochs", str(task.epochs), *task.options]
        if self.plan is not None:
            command += ["--plan", self.plan]
        process = self._spawn([*map(str, command), *more], "coordinator.log")
        self.coordinators.append(process.pid)
        return process

    def _spawn(self, command: list[str], log: str) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        more = {"PACPLUS_HOME": str(self.home), "PYTHONPATH": path}
        if self.task.silence_seconds is not None:
            more[SILENCE] = str(self.task.silence_seconds)
        with (self.folder / log).open("ab") as out:
            return subprocess.Popen(
                command,
                env={**os.environ, **more},
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
                # A shell that runs this in the background has it ignore SIGINT.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def stop(self) -> int:
        """Interrupts it as a user would, and ends what was started by hand."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        self._end_others()
        return int(self.process.returncode)

    def resume(self) -> None:
        """Gives the command again, with ``--resume``; the coordinator has ended."""
        self.process.communicate()
        self.process = self._start("--resume")

    def start_by_hand(self, device: str) -> None:
        """Starts ``pacplus-device`` of a device whose process is gone, within its limits."""
        address = self.last("coordinator_listening")["address"].removeprefix("tcp://")
        groups = Path("/sys/fs/cgroup").glob(f"**/pacplus-{self.process.pid}-*-{device}")
        joins = [word for group in groups for word in ("--join", str(group / "cgroup.procs"))]
        command = [sys.executable, launch.__file__, str(os.getpid()), *joins, "--"]
        command += [sys.executable, "-m", "benchmarks.faults.device", "start", "--once"]
        command += ["--home", str(self.home_of(device)), "--coordinator", address]
        command += ["--listen", "127.0.0.1", "--threads", "1"]
        self._others.append(self._spawn(command, f"{device}.log"))

    def order(self, *words: str) -> None:
        """Gives an order to :mod:`.coordinator`."""
        assert self.process.stdin is not None
        self.process.stdin.write((" ".join(words) + "\n").encode())
        self.process.stdin.flush()

    def home_of(self, device: str) -> Path:
        """Folder of an emulated device."""
        return self.home / "emulated" / device

    def signal(self, device: str, number: signal.Signals) -> None:
        """Sends a signal to a device's process, which has joined."""
        os.kill(self.pid_of(device), number)

    def pid_of(self, device: str) -> int:
        """Process of a device, as it said when it joined last."""
        return int(self.last("device_joined", device=device)["pid"])

    # ---- what is seen

    def events(self) -> list[Event]:
        """What the run has written down so far."""
        with contextlib.suppress(FileNotFoundError), (self.output / "events.jsonl").open() as file:
            file.seek(self._read)
            while (line := file.readline()).endswith("\n"):
                self._events.append(json.loads(line))
                self._read = file.tell()
        return self._events

    def last(self, event: str, **fields: Any) -> Event:
        """The newest event of a kind."""
        return [found for found in self.events() if _is(found, event, fields)][-1]

    def wait_for(self, event: str, **fields: Any) -> Event:
        """Waits for the first event of a kind.

        Raises:
            RunError: the run ended, or hangs.
        """
        self.wait_until(lambda: any(_is(found, event, fields) for found in self.events()))
        return next(found for found in self.events() if _is(found, event, fields))

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Waits until something is so.

        Raises:
            RunError: the run ended, or hangs.
        """
        while not is_so():
            if self.pause(POLL_SECONDS):
                raise RunError(f"ended with status {self.process.returncode}: {self.last_words()}")

    def pause(self, seconds: float) -> bool:
        """Waits for a time, or the end of the run; true if it has ended.

        Raises:
            RunError: the run hangs.
        """
        if time.monotonic() - self.began > self.task.limit_seconds:
            raise RunError(f"not finished after {self.task.limit_seconds:.0f} s")
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def finish(self) -> int:
        """Waits for its end and returns its exit status."""
        while not self.pause(1.0):
            pass
        return int(self.process.returncode)

    def cached_bytes(self) -> int:
        """Bytes of activations that devices have written."""
        return sum(path.stat().st_size for path in self.home.glob("emulated/*/cache/*/*.records"))

    def last_words(self) -> str:
        """The last line that the coordinator printed."""
        lines = (self.folder / "coordinator.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def left_behind(self) -> list[str]:
        """Processes and control groups that are left; to be asked once the run has ended."""
        until = time.monotonic() + 5.0  # the kernel ends a killed coordinator's devices
        while (left := self.processes()) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        for pid in self.coordinators:
            groups = Path("/sys/fs/cgroup").glob(f"**/pacplus-{pid}-*")
            left += [str(path) for path in groups if path.is_dir()]
        return left

    def processes(self) -> list[str]:
        """Command lines of the run's living processes."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(self.folder) in words:
                found.append(words.replace("\0", " "))
        return found


def _is(found: Event, event: str, fields: dict[str, Any]) -> bool:
    return found["event"] == event and fields.items() <= found.items()
