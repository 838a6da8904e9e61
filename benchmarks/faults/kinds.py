"""The kinds of faults: each is done to one device, or to the coordinator, at a moment."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from .device import CHUNK_BYTES, GROWS, LIES
from .run import Run, RunError

STOPPED_SECONDS = 20.0
CUT_SECONDS = 10.0
LATECOMER = "laptop-3"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A fault.

    Attributes:
        name: in the table.
        do: does it, at its moment; it may take a while.
        prepare: before that, as soon as the devices have joined.
        phase: where it makes sense only in one.
        latecomer: :data:`LATECOMER` has no part in the first plan.
    """

    name: str
    do: Callable[[Run, str], None]
    prepare: Callable[[Run], None] = lambda _run: None
    phase: Literal["fill", "training", "any"] = "any"
    latecomer: bool = False


def kill(run: Run, device: str) -> None:
    run.signal(device, signal.SIGKILL)


def stop(run: Run, device: str) -> None:
    pid = run.pid_of(device)
    os.kill(pid, signal.SIGSTOP)
    run.pause(STOPPED_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def cut(run: Run, device: str) -> None:
    run.order("cut", device)


def cut_for_a_while(run: Run, device: str) -> None:
    run.order("cut", device)
    if not run.pause(CUT_SECONDS):
        run.order("mend", device)


def fill_disk(run: Run, device: str, room_bytes: int = 0) -> None:
    """No file of the device may grow further; ``EFBIG`` where a full disk says ``ENOSPC``."""
    files = [path for path in run.home_of(device).rglob("*.records") if path.is_file()]
    limit = max((path.stat().st_size for path in files), default=room_bytes)
    resource.prlimit(run.pid_of(device), resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def exhaust_memory(run: Run, device: str) -> None:
    """Lowers the cap of the device's control group to what it uses, and has it take more."""
    folder = _memory_group(run.pid_of(device))
    if not folder.name.startswith("pacplus-"):
        raise RunError(f"the memory of {device} is not capped here")
    limit, usage = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes")
        if (folder / "memory.limit_in_bytes").exists()
        else ("memory.max", "memory.current")
    )
    (folder / limit).write_text(str(int((folder / usage).read_text()) + CHUNK_BYTES))
    (run.home_of(device) / GROWS).touch()


def _memory_group(pid: int) -> Path:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            return Path("/sys/fs/cgroup/memory") / path.lstrip("/")
        if controllers == "":
            unified = Path("/sys/fs/cgroup") / path.lstrip("/")
    return unified


def kill_coordinator(run: Run, _: str) -> None:
    run.process.kill()
    run.process.wait()
    run.left_behind()
    run.resume()


def leave_early(run: Run) -> None:
    """The latecomer is gone before there is a plan."""
    run.wait_for("device_joined", device=LATECOMER)
    run.signal(LATECOMER, signal.SIGKILL)


def come(run: Run, _: str) -> None:
    run.start_by_hand(LATECOMER)


def drain_battery(run: Run, device: str) -> None:
    _set_battery(run, device, 0.05)


def charge_battery(run: Run, device: str) -> None:
    _set_battery(run, device, 1.0)


def _set_battery(run: Run, device: str, charge: float) -> None:
    file = run.home_of(device) / "condition.json"
    fresh = file.with_name("condition.new")
    fresh.write_text(json.dumps({"battery": charge, "charging": False}))
    fresh.replace(file)


def send_nan(run: Run, device: str) -> None:
    (run.home_of(device) / LIES).touch()


KINDS = (
    Kind("SIGKILL of a device", kill),
    Kind(f"SIGSTOP for {STOPPED_SECONDS:.0f} s", stop),
    Kind(f"link cut for {CUT_SECONDS:.0f} s", cut_for_a_while),
    Kind("link cut for good", cut),
    Kind("disk full", fill_disk, phase="fill"),
    Kind("memory cap hit", exhaust_memory),
    Kind("SIGKILL of the coordinator, --resume", kill_coordinator),
    Kind("a device joins late", come, prepare=leave_early, latecomer=True),
    Kind("a device leaves by its battery", drain_battery),
    Kind("NaN from a device", send_nan),
)


def now() -> float:
    """Time as in ``events.jsonl``."""
    return time.time()
