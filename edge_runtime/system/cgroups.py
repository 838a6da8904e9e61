"""Reads the kernel's control groups: CPU quotas and memory limits.

Both versions are read: version 1, where each controller has a tree of its own, and version
2, where one tree has them all. A limit of any group around this process binds it. ``devices``
makes groups; it finds trees and reads limits through this module too.
"""

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")
UNIFIED = ""
"""Name of version 2's tree, which has all controllers."""

_UNLIMITED_BYTES = 1 << 60
"""Version 1 writes its largest page count where there is no limit."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit:
    """A group's limit, and what its processes hold that the kernel cannot take back."""

    limit_bytes: int
    held_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OwnGroup:
    """This process's group in one tree.

    Attributes:
        mount: where the tree is mounted.
        folder: of the group, ``mount`` or below it.
    """

    mount: Path
    folder: Path

    @property
    def chain(self) -> Iterator[Path]:
        """Folders of the group and those around it, innermost first."""
        folders = (self.folder, *self.folder.parents)
        return itertools.takewhile(lambda folder: folder != self.mount.parent, folders)


def quota_cores(proc: Path = PROC) -> float:
    """CPU quota in cores of the groups around this process; infinite without one."""
    return min(map(group_quota_cores, _folders("cpu", proc)), default=math.inf)


def memory_limits(proc: Path = PROC) -> list[MemoryLimit]:
    """Memory limits of the groups around this process; none where nothing is limited."""
    found = map(group_memory_limit, _folders("memory", proc))
    return [limit for limit in found if limit is not None]


def memory_stall(proc: Path = PROC) -> float:
    """Part of the last 10 s in which nothing ran in this process's group for lack of memory.

    As of the group that limits it, in version 2; 0 where nothing limits it or nobody counts.
    """
    limited = (folder for folder in _folders("memory", proc) if group_memory_limit(folder))
    texts = (read_text(folder / "memory.pressure") for folder in limited)
    found = (re.search(r"^full avg10=(\d+\.\d+) ", text, re.MULTILINE) for text in texts)
    return max((float(match[1]) / 100 for match in found if match), default=0.0)


def group_quota_cores(folder: Path) -> float:
    """CPU quota in cores of one group; infinite without one."""
    text = read_text(folder / "cpu.max") or " ".join(
        (read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us"))
    )
    match = re.fullmatch(r"(\d+) (\d+)", text)
    return int(match[1]) / int(match[2]) if match and int(match[2]) else math.inf


def group_memory_limit(folder: Path) -> MemoryLimit | None:
    """Memory limit of one group; None without one."""
    text = read_text(folder / "memory.max") or read_text(folder / "memory.limit_in_bytes")
    if not text.isdigit() or int(text) >= _UNLIMITED_BYTES:
        return None
    pairs = (line.split() for line in read_text(folder / "memory.stat").splitlines())
    counts = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
    # Version 1 says "total_" of what is hierarchical, version 2 is always so. Cached files
    # are left out: the kernel drops them when memory is wanted.
    held = counts.get("anon", counts.get("total_rss", counts.get("rss", 0)))
    held += counts.get("total_shmem", counts.get("shmem", 0))
    return MemoryLimit(limit_bytes=int(text), held_bytes=held)


def own_groups(controller: str, proc: Path = PROC) -> Iterator[OwnGroup]:
    """Finds this process's group in every mounted tree of a controller.

    Args:
        controller: of version 1, or ``UNIFIED`` for version 2.
        proc: where the kernel's process files are mounted.
    """
    memberships = read_text(proc / "self/cgroup").splitlines()
    for mount in read_text(proc / "self/mountinfo").splitlines():
        before, _, after = mount.partition(" - ")
        kind, _, options = after.split()[:3] if len(after.split()) > 2 else ("", "", "")
        if kind != ("cgroup" if controller else "cgroup2"):
            continue
        if controller and controller not in options.split(","):
            continue
        root, mount_point = before.split()[3:5]
        for membership in memberships:
            _, controllers, path = membership.split(":", 2)
            if controller in controllers.split(","):
                inside = os.path.relpath(path, root) if path.startswith(root) else "."
                yield OwnGroup(mount=Path(mount_point), folder=Path(mount_point) / inside)
                break


def read_text(path: Path) -> str:
    """The stripped text of a kernel file; empty where it is not there or not readable."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _folders(controller: str, proc: Path) -> Iterator[Path]:
    for name in (controller, UNIFIED):
        for group in own_groups(name, proc):
            yield from group.chain
