"""Measures this process: processor time per phase, memory, and its limits."""

from __future__ import annotations

import os
import re
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from . import cgroups

if TYPE_CHECKING:
    from edge_runtime.contract.messages import Phase


class CpuClock:
    """Splits the user + system time of this process, and of those it started, into phases."""

    def __init__(self) -> None:
        self._phase: Phase = "start"
        self._began = 0.0
        self._seconds: dict[str, float] = {}

    def begin(self, phase: Phase) -> Phase:
        """Starts ``phase`` and returns the one that ended."""
        now = _processor_seconds()
        ended = self._phase
        self._seconds[ended] = self._seconds.get(ended, 0.0) + now - self._began
        self._phase, self._began = phase, now
        return ended

    def seconds(self) -> dict[str, float]:
        """Processor seconds of the phases that have ended."""
        return {phase: round(value, 4) for phase, value in self._seconds.items()}


def _processor_seconds() -> float:
    """Of this process, and of children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


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
    lines = (line.split() for line in text.splitlines() if line.startswith(("Vm", "Rss")))
    return {name.rstrip(":"): int(value) * 1024 for name, value, *_ in lines}


def usable_memory_bytes() -> int:
    """Computes the memory that this process may have resident: what it has, plus what is free.

    Free is what the machine can give without swapping, and what the caps of the control
    groups around this process leave beside the other processes in them.
    """
    fields = _status()
    private = fields.get("RssAnon", 0) + fields.get("RssShmem", 0)
    rooms = [
        limit.limit_bytes - max(0, limit.held_bytes - private) for limit in cgroups.memory_limits()
    ]
    return max(1, min([_free_memory_bytes() + fields.get("VmRSS", 0), *rooms]))


def available_memory_bytes() -> int:
    """Computes the memory that this process may take besides what it has.

    What the machine can give without swapping, and what the groups around this process have
    left, cached files not counted.
    """
    rooms = (limit.limit_bytes - limit.held_bytes for limit in cgroups.memory_limits())
    return max(0, min([_free_memory_bytes(), *rooms]))


def _free_memory_bytes() -> int:
    """Reads the machine's available memory; its total memory where it does not say."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return total
    match = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else total


def free_storage_bytes(folder: Path) -> int:
    """Space that this user may still fill on the file system of ``folder``."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def usable_threads() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_cores() -> float:
    """Cores that this process may use: a CPU quota may allow a fraction only."""
    return min(float(usable_threads()), cgroups.quota_cores())
