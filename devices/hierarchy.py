"""Finds where this process may make Linux control groups, of version 1 or 2.

A new group is made below the outermost ancestor of this process's group that imposes no
limit which its descendants would then escape.
"""

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from edge_runtime.system.cgroups import (
    PROC,
    UNIFIED,
    OwnGroup,
    group_memory_limit,
    group_quota_cores,
    own_groups,
    read_text,
)

GROUP_PREFIX = "pacplus"

_Kind = Literal["cpu", "memory"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """Places where control groups can be made.

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


def find_hierarchy(proc: Path = PROC) -> Hierarchy:
    """Finds where this process may make groups, and tries it.

    Args:
        proc: where the kernel's process files are mounted.
    """
    if not all(os.access(proc / "self" / name, os.R_OK) for name in ("mountinfo", "cgroup")):
        problem = "this system has no control groups"
        return Hierarchy(version=2, cpu=None, memory=None, problems=(problem,))
    cpu, memory = _own_group("cpu", proc), _own_group("memory", proc)
    if cpu is None and memory is None:
        return _find_unified(proc)
    problems: list[str] = []
    return Hierarchy(
        version=1,
        cpu=_usable("cpu", cpu, problems),
        memory=_usable("memory", memory, problems),
        problems=tuple(problems),
    )


def _own_group(controller: str, proc: Path) -> OwnGroup | None:
    return next(own_groups(controller, proc), None)


def _usable(kind: _Kind, own: OwnGroup | None, problems: list[str]) -> Path | None:
    if own is None:
        problems.append(f"no control group for {kind} is mounted")
        return None
    folder = next(_outermost_first(own))
    try:
        probe = folder / f"{group_prefix()}-probe-{kind}"
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        problems.append(f"no group for {kind} can be made in {folder} ({error.strerror})")
        return None
    return folder


def _outermost_first(own: OwnGroup) -> Iterator[Path]:
    """Ancestors of ``own`` and itself, from the outermost whose limits bind ``own`` anyway."""
    chain = list(own.chain)
    limited = next((i for i, folder in enumerate(chain) if _is_limited(folder)), len(chain))
    return reversed(chain[: limited + 1])


def _is_limited(folder: Path) -> bool:
    return group_memory_limit(folder) is not None or group_quota_cores(folder) < math.inf


def _find_unified(proc: Path) -> Hierarchy:
    own = _own_group(UNIFIED, proc)
    if own is None:
        problem = "no control groups are mounted"
        return Hierarchy(version=2, cpu=None, memory=None, problems=(problem,))
    for folder in _outermost_first(own):
        if _delegates(folder):
            return Hierarchy(version=2, cpu=folder, memory=folder)
    problem = f"none of the control groups above {own.folder} may be divided by this user"
    return Hierarchy(version=2, cpu=None, memory=None, problems=(problem,))


def _delegates(folder: Path) -> bool:
    """Checks that groups in ``folder`` get both controllers and may take processes."""
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
    """Reads a process's start, in ticks since boot; empty if there is none."""
    stat = read_text(PROC / f"{pid}/stat")
    # Field 22; the second one may hold blanks, but ends with the last parenthesis.
    return stat.rpartition(")")[2].split()[19] if stat else ""
