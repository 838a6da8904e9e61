"""Reading control groups, on made-up systems: the kernel's files are plain files here."""

import math
from pathlib import Path

import pytest

from edge_runtime.system.cgroups import MemoryLimit, memory_limits, memory_stall, quota_cores


def proc_of(root: Path, mountinfo: str, membership: str) -> Path:
    folder = root / "proc/self"
    folder.mkdir(parents=True)
    (folder / "mountinfo").write_text(mountinfo.format(root=root))
    (folder / "cgroup").write_text(membership)
    return root / "proc"


@pytest.fixture
def version_1(tmp_path):
    """A process in the group ``user/session`` of both trees."""
    for tree in ("cpu", "memory"):
        (tmp_path / tree / "user/session").mkdir(parents=True)
    return proc_of(
        tmp_path,
        "30 1 0:1 / {root}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
        "31 1 0:2 / {root}/memory rw - cgroup cgroup rw,memory\n"
        "32 1 0:3 / {root}/unified rw - cgroup2 cgroup2 rw\n",
        "2:memory:/user/session\n1:cpu,cpuacct:/user/session\n0::/\n",
    )


@pytest.fixture
def version_2(tmp_path):
    """A process in the group ``user/session`` of the one tree."""
    (tmp_path / "tree/user/session").mkdir(parents=True)
    return proc_of(
        tmp_path, "30 1 0:1 / {root}/tree rw - cgroup2 cgroup2 rw\n", "0::/user/session\n"
    )


def test_the_smallest_quota_around_a_process_binds_it(version_1, tmp_path):
    assert quota_cores(version_1) == math.inf
    group = tmp_path / "cpu/user/session"
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    assert quota_cores(version_1) == math.inf
    (group.parent / "cpu.cfs_quota_us").write_text("25000\n")
    (group.parent / "cpu.cfs_period_us").write_text("100000\n")
    assert quota_cores(version_1) == 0.25


def test_a_quota_of_version_2_is_read(version_2, tmp_path):
    (tmp_path / "tree/user/cpu.max").write_text("max 100000\n")
    (tmp_path / "tree/user/session/cpu.max").write_text("30000 20000\n")
    assert quota_cores(version_2) == 1.5


def test_a_cap_of_version_1_comes_with_what_its_processes_hold(version_1, tmp_path):
    group = tmp_path / "memory/user/session"
    (group / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (group.parent / "memory.limit_in_bytes").write_text("400000000\n")
    (group.parent / "memory.stat").write_text(
        "cache 70\nrss 1\nshmem 2\ntotal_cache 90\ntotal_rss 50\ntotal_shmem 7\n"
    )
    assert memory_limits(version_1) == [MemoryLimit(limit_bytes=400_000_000, held_bytes=57)]


def test_a_cap_of_version_2_comes_with_what_its_processes_hold(version_2, tmp_path):
    (tmp_path / "tree/user/memory.max").write_text("max\n")
    group = tmp_path / "tree/user/session"
    (group / "memory.max").write_text("1000\n")
    (group / "memory.stat").write_text("anon 300\nfile 500\nshmem 40\n")
    assert memory_limits(version_2) == [MemoryLimit(limit_bytes=1000, held_bytes=340)]


def test_where_there_are_no_control_groups_nothing_limits(tmp_path):
    assert quota_cores(tmp_path / "proc") == math.inf
    assert memory_limits(tmp_path / "proc") == []


def test_stalls_for_lack_of_memory_count_where_there_is_a_cap(version_2, tmp_path):
    group = tmp_path / "tree/user/session"
    (group / "memory.pressure").write_text(
        "some avg10=40.00 avg60=0.00 avg300=0.00 total=9\n"
        "full avg10=25.50 avg60=0.00 avg300=0.00 total=5\n"
    )
    assert memory_stall(version_2) == 0.0, "other processes than ours lack it"
    (group / "memory.max").write_text("400000000\n")
    assert memory_stall(version_2) == 0.255
