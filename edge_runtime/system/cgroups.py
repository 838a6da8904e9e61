"""What the kernel's control groups allow this process: processor time and memory.

Both versions are read: version 1, where each controller has a tree of its own, and version
2, where one tree has them all. A limit of any group around this process binds it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")

_UNLIMITED_BYTES = 1 << 60
"""Version 1 writes its largest page count where there is no limit."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit:
    """A group's cap, and what its processes hold that the kernel cannot take back."""

    limit_bytes: int
    held_bytes: int


def quota_cores(proc: Path = PROC) -> float:
    """Processor seconds a second that the groups around this process allow; inf: no quota."""
    return min(map(_quota, _folders("cpu", proc)), default=math.inf)


def memory_limits(proc: Path = PROC) -> list[MemoryLimit]:
    """Caps of the groups around this process; none where nothing is capped."""
    found = (_memory_limit(folder) for folder in _folders("memory", proc))
    return [limit for limit in found if limit is not None]


def _quota(folder: Path) -> float:
    text = _read(folder / "cpu.max") or " ".join(
        (_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))
    )
    match = re.fullmatch(r"(\d+) (\d+)", text)
    return int(match[1]) / int(match[2]) if match and int(match[2]) else math.inf


def _memory_limit(folder: Path) -> MemoryLimit | None:
    text = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
    if not text.isdigit() or int(text) >= _UNLIMITED_BYTES:
        return None
    pairs = (line.split() for line in _read(folder / "memory.stat").splitlines())
    counts = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
    # Version 1 says "total_" of what is hierarchical, version 2 is always so. Cached files
    # are left out: the kernel drops them when memory is wanted.
    held = counts.get("anon", counts.get("total_rss", counts.get("rss", 0)))
    held += counts.get("total_shmem", counts.get("shmem", 0))
    return MemoryLimit(limit_bytes=int(text), held_bytes=held)


def _folders(controller: str, proc: Path) -> Iterator[Path]:
    """This process's group and those around it, in the tree that has ``controller``."""
    mounts = _read(proc / "self/mountinfo").splitlines()
    memberships = _read(proc / "self/cgroup").splitlines()
    for name in (controller, ""):  # the empty name is version 2's
        for mount in mounts:
            found = _own_folder(name, mount, memberships)
            if found is not None:
                yield from _up_to(*found)


def _up_to(top: Path, own: Path) -> Iterator[Path]:
    return itertools.takewhile(lambda folder: folder != top.parent, (own, *own.parents))


def _own_folder(controller: str, mount: str, memberships: list[str]) -> tuple[Path, Path] | None:
    """Where the tree is mounted and this process's folder in it, if it is that tree."""
    before, _, after = mount.partition(" - ")
    kind, _, options = after.split()[:3] if len(after.split()) > 2 else ("", "", "")
    if kind != ("cgroup" if controller else "cgroup2"):
        return None
    if controller and controller not in options.split(","):
        return None
    root, mount_point = before.split()[3:5]
    for membership in memberships:
        _, controllers, path = membership.split(":", 2)
        if controller in controllers.split(","):
            inside = os.path.relpath(path, root) if path.startswith(root) else "."
            return Path(mount_point), Path(mount_point) / inside
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
