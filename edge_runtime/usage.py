"""What this process uses: processor time per phase, memory, and how much it may use."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path

from .contract.messages import Phase


class CpuClock:
    """Splits this process's user + system time into phases."""

    def __init__(self) -> None:
        self._phase: Phase = "start"
        self._began = 0.0
        self._seconds: dict[str, float] = {}

    def begin(self, phase: Phase) -> Phase:
        """Starts ``phase`` and returns the one that ended."""
        now = time.process_time()
        ended = self._phase
        self._seconds[ended] = self._seconds.get(ended, 0.0) + now - self._began
        self._phase, self._began = phase, now
        return ended

    def seconds(self) -> dict[str, float]:
        """Processor seconds of the phases that have ended."""
        return {phase: round(value, 4) for phase, value in self._seconds.items()}


def resident_bytes() -> int:
    """Resident set of this process now."""
    fields = _status()
    return fields["VmRSS"] if "VmRSS" in fields else peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Largest resident set of this process so far.

    ``ru_maxrss`` would count the parent's pages between fork and exec, so Linux's
    ``VmHWM`` is preferred.
    """
    fields = _status()
    if "VmHWM" in fields:
        return fields["VmHWM"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status() -> dict[str, int]:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return {}
    lines = (line.split() for line in text.splitlines() if line.startswith("Vm"))
    return {name.rstrip(":"): int(value) * 1024 for name, value, *_ in lines}


def memory_limit_bytes() -> int:
    """What this process may use at most: the machine's memory or its control group's cap."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([total, *_cgroup_limits()])


def _cgroup_limits() -> list[int]:
    """Caps of every control group around this process (version 1 and 2)."""
    limits = []
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            root, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder == root.parent:
                break
            limits += _read_limit(folder / name)
    return limits


def _read_limit(path: Path) -> list[int]:
    try:
        text = path.read_text().strip()
    except OSError:
        return []
    return [int(text)] if text.isdigit() else []


def free_storage_bytes(folder: Path) -> int:
    """Space that this user may still fill on the file system of ``folder``."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def usable_threads() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
