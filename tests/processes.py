"""Runs the real command lines in real processes, and sees that none is left."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WAIT_SECONDS = 240.0


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """What ``--json`` printed: one object and nothing else."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


def environment(home: Path) -> dict[str, str]:
    """This environment with an own ``PACPLUS_HOME``."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PACPLUS_HOME": str(home), "PYTHONPATH": path}


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts ``pacplus`` with these arguments."""
    return subprocess.Popen(
        [sys.executable, "-m", "coordinator", *arguments],
        env=environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that runs the tests in the background has them ignore SIGINT.
        preexec_fn=_heed_interrupts,
    )


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def finish(process: subprocess.Popen[str]) -> Ended:
    """Waits for its end, killing it if it takes too long."""
    try:
        out, err = process.communicate(timeout=WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"took over {WAIT_SECONDS} s:\n{err[-3000:]}") from None
    return Ended(process.returncode, out, err)


def pacplus(home: Path, *arguments: str | Path) -> Ended:
    """Runs ``pacplus`` to its end."""
    return finish(start(home, *map(str, arguments)))


def succeed(home: Path, *arguments: str | Path) -> Ended:
    """Runs ``pacplus``, which must succeed."""
    ended = pacplus(home, *arguments)
    assert ended.code == 0, ended.err[-3000:]
    return ended


def events(run: Path) -> list[dict[str, Any]]:
    """The lines of ``events.jsonl`` so far; an unfinished last line is left out."""
    try:
        text = (run / "events.jsonl").read_text()
    except FileNotFoundError:
        return []
    lines = text.splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for_event(
    process: subprocess.Popen[str], run: Path, wanted: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Waits until a run has recorded an event."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        for event in events(run):
            if wanted(event):
                return event
        assert process.poll() is None, finish(process).err[-3000:]
        select_pause()
    raise AssertionError(f"no such event in {run} within {WAIT_SECONDS} s")


def select_pause() -> None:
    """Lets a file be written; files have no event to wait for."""
    time.sleep(0.02)


def processes_of(home: Path) -> Iterator[tuple[int, Sequence[str]]]:
    """Living processes that have ``home`` in their command line."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(str(home) in word for word in words):
            yield int(folder.name), words


def write_jsonl(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    """Writes one object a line."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
