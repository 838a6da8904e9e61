"""Control groups that cap the CPU and the memory of one process.

A group's name holds the pid and the start time of the process that made it, so that a
later run knows a left-over when it sees one.
"""

import contextlib
import dataclasses
import logging
import os
import re
import select
import signal
import time
from pathlib import Path
from typing import Literal

from edge_runtime.system.cgroups import read_text

from .hierarchy import GROUP_PREFIX, Hierarchy, group_prefix, start_time

_logger = logging.getLogger(__name__)

PERIOD_MICROSECONDS = 20_000
"""Period over which the CPU quota is enforced.

Measured at a quarter of a core, one busy loop: the share is right within 0.5 % from 5 to
100 ms. Its pauses are 14 ms here (18 at most) against 76 ms at the kernel's default of
100 ms, which would look like a slow link; shorter periods bring no shorter pauses, since
the scheduler ticks every 4 ms.
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One process's group: a folder in each tree (version 1) or one folder (version 2)."""

    version: Literal[1, 2]
    cpu: Path | None
    memory: Path | None

    @property
    def folders(self) -> tuple[Path, ...]:
        """Its folders, each once."""
        return tuple(dict.fromkeys(folder for folder in (self.cpu, self.memory) if folder))

    def limit_cpu(self, quota_cores: float | None) -> None:
        """Sets the CPU quota in cores; ``None`` lifts it."""
        if self.cpu is None:
            return
        # The kernel accepts no quota below 1 ms a period.
        period = PERIOD_MICROSECONDS
        if quota_cores is not None:
            period = max(period, min(1_000_000, int(1_000 / quota_cores) + 1))
        quota = None if quota_cores is None else max(1_000, round(quota_cores * period))
        if self.version == 2:
            (self.cpu / "cpu.max").write_text(f"{'max' if quota is None else quota} {period}")
            return
        (self.cpu / "cpu.cfs_period_us").write_text(str(period))
        (self.cpu / "cpu.cfs_quota_us").write_text(str(-1 if quota is None else quota))

    def limit_memory(self, limit_bytes: int) -> None:
        """Caps memory, swap included: beyond it the kernel kills the process."""
        if self.memory is None:
            return
        if self.version == 2:
            (self.memory / "memory.max").write_text(str(limit_bytes))
            swap, allowed = self.memory / "memory.swap.max", "0"
        else:
            (self.memory / "memory.limit_in_bytes").write_text(str(limit_bytes))
            swap, allowed = self.memory / "memory.memsw.limit_in_bytes", str(limit_bytes)
        if swap.exists():  # absent where the kernel does not account swap
            swap.write_text(allowed)

    def peak_memory_bytes(self) -> int | None:
        """Most memory that the group has held, file cache included; ``None`` if unknown."""
        if self.memory is None:
            return None
        name = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        text = read_text(self.memory / name)
        return int(text) if text else None

    def oom_kills(self) -> int:
        """Counts the processes that were killed for lack of memory."""
        if self.memory is None:
            return 0
        name = "memory.events" if self.version == 2 else "memory.oom_control"
        match = re.search(r"^oom_kill (\d+)$", read_text(self.memory / name), re.MULTILINE)
        return int(match[1]) if match else 0

    def remove(self, timeout_seconds: float = 5.0) -> None:
        """Kills what is left in the group and removes it."""
        deadline = time.monotonic() + timeout_seconds
        for folder in self.folders:
            for pid in read_text(folder / "cgroup.procs").split():
                _kill(int(pid), deadline)
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError as error:
                _logger.warning("control group %s stays behind: %s", folder, error.strerror)


def create_group(hierarchy: Hierarchy, name: str) -> Group:
    """Makes a group without limits. Also removes groups that dead coordinators left behind.

    Raises:
        OSError: the kernel refused.
    """
    remove_stale_groups(hierarchy)
    full = f"{group_prefix()}-{name}"
    folders = {
        "cpu": hierarchy.cpu / full if hierarchy.cpu else None,
        "memory": hierarchy.memory / full if hierarchy.memory else None,
    }
    group = Group(version=hierarchy.version, cpu=folders["cpu"], memory=folders["memory"])
    for folder in group.folders:
        folder.mkdir()
    return group


def remove_stale_groups(hierarchy: Hierarchy) -> None:
    """Removes groups whose makers are gone; their processes died with them."""
    for parent in {folder for folder in (hierarchy.cpu, hierarchy.memory) if folder}:
        for folder in parent.glob(f"{GROUP_PREFIX}-*"):
            match = re.fullmatch(rf"{GROUP_PREFIX}-(\d+)-(\d+)-.+", folder.name)
            if match and start_time(int(match[1])) != match[2]:
                with contextlib.suppress(OSError):  # busy, or another run was quicker
                    folder.rmdir()


def _kill(pid: int, deadline: float) -> None:
    """Kills a process that need not be our child and waits until it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)
