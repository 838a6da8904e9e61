"""Where this process may make Linux control groups.

Both versions are spoken: version 1, where each controller has a tree of its own, and
version 2, where one tree has them all. Where the trees are and where this process is in
them is read from ``/proc/self/mountinfo`` and ``/proc/self/cgroup``.

A new group is made below the outermost ancestor of this process's group that imposes no
limit which its descendants would then escape.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUP_PREFIX = "pacplus"

_UNLIMITED_BYTES = 2**60
_Kind = Literal["cpu", "memory"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """Where groups can be made.

    Attributes:
        version: of the control groups.
        cpu: folder for groups that cap CPU, or ``None`` where that is not possible.
        memory: folder for groups that cap memory, or ``None``; version 2 has one for both.
        problems: why a folder is missing, in words for the user.
    """

    version: Literal[1, 2]
    cpu: Path | None
    memory: Path | None
    problems: tuple[str, ...] = ()


def find_hierarchy(proc: Path = Path("/proc")) -> Hierarchy:
    """Finds where this process may make groups, and tries it.

    Args:
        proc: where the kernel's process files are mounted.
    """
    try:
        mounts = (proc / "self/mountinfo").read_text()
        memberships = (proc / "self/cgroup").read_text()
    except OSError:
        problem = "this system has no control groups"
        return Hierarchy(version=2, cpu=None, memory=None, problems=(problem,))
    cpu = _own_folder("cpu", mounts, memberships)
    memory = _own_folder("memory", mounts, memberships)
    if cpu is None and memory is None:
        return _find_unified(mounts, memberships)
    problems: list[str] = []
    return Hierarchy(
        version=1,
        cpu=_usable("cpu", cpu, problems),
        memory=_usable("memory", memory, problems),
        problems=tuple(problems),
    )


def own_quota_cores(proc: Path = Path("/proc")) -> float:
    """CPU seconds a second that this process's own group allows; infinite without a quota."""
    try:
        mounts = (proc / "self/mountinfo").read_text()
        memberships = (proc / "self/cgroup").read_text()
    except OSError:
        return math.inf
    own = _own_folder("cpu", mounts, memberships) or _own_folder("", mounts, memberships)
    if own is None:
        return math.inf
    mount, folder = own
    folders = itertools.takewhile(lambda parent: parent != mount.parent, (folder, *folder.parents))
    return min(map(_quota_cores, folders))


def _quota_cores(folder: Path) -> float:
    text = read_text(folder / "cpu.max") or " ".join(
        (read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us"))
    )
    match = re.fullmatch(r"(\d+) (\d+)", text)
    return int(match[1]) / int(match[2]) if match else math.inf


def _own_folder(controller: str, mounts: str, memberships: str) -> tuple[Path, Path] | None:
    """The mount point of ``controller``'s tree and this process's folder in it.

    ``controller`` is a version 1 controller, or the empty string for version 2.
    """
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        root, mount_point = before.split()[3:5]
        kind, _, super_options = after.split()[:3]
        if kind != ("cgroup" if controller else "cgroup2"):
            continue
        if controller and controller not in super_options.split(","):
            continue
        for membership in memberships.splitlines():
            _, controllers, path = membership.split(":", 2)
            if controller in controllers.split(","):
                mount = Path(mount_point)
                inside = os.path.relpath(path, root) if path.startswith(root) else "."
                return mount, mount / inside
    return None


def _usable(kind: _Kind, own: tuple[Path, Path] | None, problems: list[str]) -> Path | None:
    if own is None:
        problems.append(f"no control group for {kind} is mounted")
        return None
    folder = next(_outermost_first(*own))
    try:
        probe = folder / f"{group_prefix()}-probe-{kind}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        problems.append(f"no group for {kind} can be made in {folder} ({error.strerror})")
        return None
    return folder


def _outermost_first(mount: Path, own: Path) -> Iterator[Path]:
    """Ancestors of ``own`` and itself, from the outermost whose limits bind ``own`` anyway."""
    chain = [own]
    while chain[-1] != mount and not _is_limited(chain[-1]):
        chain.append(chain[-1].parent)
    return reversed(chain)


def _is_limited(folder: Path) -> bool:
    limit = read_text(folder / "memory.limit_in_bytes") or read_text(folder / "memory.max") or "max"
    quota = read_text(folder / "cpu.cfs_quota_us") or read_text(folder / "cpu.max") or "max"
    limited_memory = limit != "max" and int(limit) < _UNLIMITED_BYTES
    return limited_memory or quota.split()[0] not in ("max", "-1")


def _find_unified(mounts: str, memberships: str) -> Hierarchy:
    own = _own_folder("", mounts, memberships)
    if own is None:
        problem = "no control groups are mounted"
        return Hierarchy(version=2, cpu=None, memory=None, problems=(problem,))
    for folder in _outermost_first(*own):
        if _delegates(folder):
            return Hierarchy(version=2, cpu=folder, memory=folder)
    problem = f"none of the control groups above {own[1]} may be divided by this user"
    return Hierarchy(version=2, cpu=None, memory=None, problems=(problem,))


def _delegates(folder: Path) -> bool:
    """Whether groups in ``folder`` get both controllers and processes can be moved there."""
    wanted = {"cpu", "memory"}
    if not os.access(folder / "cgroup.procs", os.W_OK):
        return False
    if not wanted <= set(read_text(folder / "cgroup.subtree_control").split()):
        try:
            (folder / "cgroup.subtree_control").write_text("+cpu +memory")
        except OSError:  # not ours, or it holds processes itself
            return False
    try:
        probe = folder / f"{group_prefix()}-probe"
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def group_prefix() -> str:
    """First part of the name of every group that this process makes."""
    return f"{GROUP_PREFIX}-{os.getpid()}-{start_time(os.getpid())}"


def start_time(pid: int) -> str:
    """When the process started, in ticks since boot; empty if there is none."""
    stat = read_text(Path(f"/proc/{pid}/stat"))
    # Field 22; the second one may hold blanks, but ends with the last parenthesis.
    return stat.rpartition(")")[2].split()[19] if stat else ""


def read_text(path: Path) -> str:
    """The stripped text of a kernel file; empty where it is not there or not readable."""
    try:
        return path.read_text().strip()
    except OSError:
        return ""
