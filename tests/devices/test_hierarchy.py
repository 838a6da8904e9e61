"""Control groups are found on made-up systems: the kernel's files are plain files here."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from devices.cgroups import Group, create_group, remove_stale_groups
from devices.hierarchy import Hierarchy, find_hierarchy

if TYPE_CHECKING:
    from pathlib import Path


def _proc(root: Path, mountinfo: str, membership: str) -> Path:
    folder = root / "proc" / "self"
    folder.mkdir(parents=True)
    (folder / "mountinfo").write_text(mountinfo.format(root=root))
    (folder / "cgroup").write_text(membership)
    return root / "proc"


def _version_1(root: Path, own: str = "/user/session") -> Path:
    for controller in ("cpu", "memory"):
        (root / controller / own.lstrip("/")).mkdir(parents=True)
    return _proc(
        root,
        "30 1 0:1 / {root}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        "31 1 0:2 / {root}/memory rw - cgroup cgroup rw,memory\n"
        "32 1 0:3 / {root}/unified rw - cgroup2 cgroup2 rw\n",
        f"2:memory:{own}\n1:cpu,cpuacct:{own}\n0::/\n",
    )


def _version_2(root: Path, *levels: str) -> Path:
    """A tree in which this process is in the innermost of ``levels``."""
    folder = root / "tree"
    for level in ("", *levels):
        folder = folder / level
        folder.mkdir()
        (folder / "cgroup.procs").write_text("")
        (folder / "cgroup.subtree_control").write_text("cpuset cpu memory")
    return _proc(
        root,
        "30 1 0:1 / {root}/tree rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
        f"0::/{'/'.join(levels)}\n",
    )


def test_version_1_groups_are_made_at_the_top_of_each_tree(tmp_path: Path) -> None:
    found = find_hierarchy(_version_1(tmp_path))
    assert found == Hierarchy(version=1, cpu=tmp_path / "cpu", memory=tmp_path / "memory")


def test_a_group_stays_below_a_limit_that_binds_this_process(tmp_path: Path) -> None:
    proc = _version_1(tmp_path)
    (tmp_path / "memory/user/memory.limit_in_bytes").write_text("1000000000")
    found = find_hierarchy(proc)
    assert found.memory == tmp_path / "memory/user"
    assert found.cpu == tmp_path / "cpu"


def test_a_container_whose_mount_starts_at_its_own_group_uses_the_mount(tmp_path: Path) -> None:
    proc = _version_1(tmp_path)
    for controller in ("cpu", "memory"):
        (tmp_path / controller / "user" / "session").rmdir()
    text = (proc / "self/mountinfo").read_text().replace(" 0:1 / ", " 0:1 /user/session ")
    (proc / "self/mountinfo").write_text(text)
    assert find_hierarchy(proc).cpu == tmp_path / "cpu"


def test_a_tree_that_is_not_mounted_is_said(tmp_path: Path) -> None:
    proc = _version_1(tmp_path)
    lines = (proc / "self/mountinfo").read_text().splitlines(keepends=True)
    (proc / "self/mountinfo").write_text("".join(line for line in lines if "/memory" not in line))
    found = find_hierarchy(proc)
    assert found.cpu is not None
    assert found.memory is None
    assert found.problems == ("no control group for memory is mounted",)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    proc = _version_1(tmp_path, own="/")
    (tmp_path / "cpu").rmdir()
    found = find_hierarchy(proc)
    assert found.cpu is None
    assert "no group for cpu can be made" in found.problems[0]


def test_version_2_has_one_folder_for_both(tmp_path: Path) -> None:
    found = find_hierarchy(_version_2(tmp_path, "user.slice", "session"))
    assert found == Hierarchy(version=2, cpu=tmp_path / "tree", memory=tmp_path / "tree")


def test_version_2_uses_the_part_of_the_tree_that_is_delegated(tmp_path: Path) -> None:
    proc = _version_2(tmp_path, "user.slice", "user@1000", "app")
    for closed in ("tree", "tree/user.slice"):
        (tmp_path / closed / "cgroup.procs").unlink()
    assert find_hierarchy(proc).cpu == tmp_path / "tree/user.slice/user@1000"


def test_version_2_switches_the_controllers_on_where_they_are_off(tmp_path: Path) -> None:
    proc = _version_2(tmp_path)
    (tmp_path / "tree/cgroup.subtree_control").write_text("pids")
    assert find_hierarchy(proc).memory == tmp_path / "tree"
    assert (tmp_path / "tree/cgroup.subtree_control").read_text() == "+cpu +memory"


def test_version_2_without_any_delegation_says_so(tmp_path: Path) -> None:
    proc = _version_2(tmp_path, "app")
    for closed in ("tree", "tree/app"):
        (tmp_path / closed / "cgroup.procs").unlink()
    found = find_hierarchy(proc)
    assert (found.cpu, found.memory) == (None, None)
    assert "may be divided by this user" in found.problems[0]


def test_a_system_without_control_groups_says_so(tmp_path: Path) -> None:
    found = find_hierarchy(tmp_path / "no-proc")
    assert found.problems == ("this system has no control groups",)


def test_version_2_limits_are_written_in_its_words(tmp_path: Path) -> None:
    (tmp_path / "memory.swap.max").write_text("max")
    group = Group(version=2, cpu=tmp_path, memory=tmp_path)
    group.limit_cpu(0.25)
    group.limit_memory(400_000_000)
    assert (tmp_path / "cpu.max").read_text() == "5000 20000"
    assert (tmp_path / "memory.max").read_text() == "400000000"
    assert (tmp_path / "memory.swap.max").read_text() == "0"
    group.limit_cpu(None)
    assert (tmp_path / "cpu.max").read_text() == "max 20000"


def test_a_tiny_share_gets_a_longer_period_since_the_kernel_takes_no_quota_below_1_ms(
    tmp_path: Path,
) -> None:
    Group(version=2, cpu=tmp_path, memory=None).limit_cpu(0.01)
    quota, period = map(int, (tmp_path / "cpu.max").read_text().split())
    assert quota >= 1_000
    assert quota / period == 0.01 or abs(quota / period - 0.01) < 1e-4


def test_version_2_peak_and_kills_are_read(tmp_path: Path) -> None:
    group = Group(version=2, cpu=tmp_path, memory=tmp_path)
    assert group.peak_memory_bytes() is None
    assert group.oom_kills() == 0
    (tmp_path / "memory.peak").write_text("12345\n")
    (tmp_path / "memory.events").write_text("low 0\nmax 7\noom 2\noom_kill 1\noom_group_kill 0\n")
    assert group.peak_memory_bytes() == 12345
    assert group.oom_kills() == 1


def test_groups_of_dead_coordinators_are_removed_and_those_of_living_ones_stay(
    tmp_path: Path,
) -> None:
    hierarchy = Hierarchy(version=2, cpu=tmp_path, memory=tmp_path)
    mine = create_group(hierarchy, "0-laptop-1").folders[0]
    another_life = tmp_path / f"pacplus-{os.getpid()}-1-0-laptop-1"
    dead, foreign = tmp_path / "pacplus-999999999-5-0-laptop-1", tmp_path / "pacplus-notes"
    for folder in (another_life, dead, foreign):
        folder.mkdir()
    remove_stale_groups(hierarchy)
    assert sorted(tmp_path.iterdir()) == sorted((mine, foreign))
