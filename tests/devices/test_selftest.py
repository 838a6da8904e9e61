"""The self-test measures what the emulation enforces, and sees when it does not.

Where this process may not make control groups there is nothing to measure, and the tests that
need them are skipped; as root they must run.
"""

from __future__ import annotations

import os

import pytest

from devices import selftest
from devices.cgroups import Group
from devices.emulation import EmulatedCluster
from devices.hierarchy import Hierarchy
from devices.selftest import check_memory, check_processors
from devices.specification import parse_emulate

pytestmark = pytest.mark.alone

NOWHERE = Hierarchy(version=2, cpu=None, memory=None, problems=("for the test",))


def enforced(cluster: EmulatedCluster) -> EmulatedCluster:
    """The cluster, unless this user may not make control groups."""
    if not (cluster.enforcement.cpu and cluster.enforcement.memory) and os.geteuid() != 0:
        pytest.skip("; ".join(cluster.enforcement.warnings))
    return cluster


def test_a_quarter_of_a_core_runs_a_block_four_times_slower_than_a_core() -> None:
    with EmulatedCluster(parse_emulate("laptop:cpu=0.25"), host_cores=1) as cluster:
        (check,) = check_processors(enforced(cluster))
    assert check.measured is not None
    assert 3.5 <= 1 / check.measured <= 4.5
    assert (check.ok, check.wanted) == (True, 0.25)


def test_devices_of_two_cores_each_on_too_small_a_host_run_alike_slower() -> None:
    """Two devices of 2 cores where half a core is to be had: dilation 8, a quarter for each."""
    pair = parse_emulate("laptop:cpu=2,laptop:cpu=2")
    with EmulatedCluster(pair, host_cores=0.5) as cluster:
        assert cluster.dilation == 8
        first, second = check_processors(enforced(cluster))
    assert first.measured == pytest.approx(0.25, rel=selftest.CPU_TOLERANCE)
    assert second.measured == pytest.approx(first.measured, rel=0.1)
    assert first.ok
    assert second.ok


def test_a_device_that_gets_less_than_it_is_promised_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selftest, "ATTEMPTS", 1)
    monkeypatch.setattr(selftest, "WINDOW_SECONDS", 1.0)
    limit = Group.limit_cpu
    monkeypatch.setattr(Group, "limit_cpu", lambda group, cores: limit(group, cores and cores / 2))
    with EmulatedCluster(parse_emulate("laptop:cpu=0.2"), host_cores=1) as cluster:
        (check,) = check_processors(enforced(cluster))
    assert check.ok is False
    assert check.measured is not None
    assert check.measured < 0.15


def test_a_device_comes_as_far_as_its_memory() -> None:
    with EmulatedCluster(parse_emulate("laptop:memory=80M,laptop:memory=4G")) as cluster:
        tried, trusted = check_memory(enforced(cluster))
    assert tried.measured == pytest.approx(80e6, rel=selftest.MEMORY_TOLERANCE)
    assert tried.ok
    assert (trusted.ok, trusted.measured) == (None, None)
    assert "not tried" in trusted.note


def test_a_cap_that_does_not_hold_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with EmulatedCluster(parse_emulate("laptop:memory=40M")) as cluster:
        enforced(cluster)
        monkeypatch.setattr(Group, "limit_memory", lambda group, limit: None)
        (check,) = check_memory(cluster)
    assert check.ok is False
    assert check.measured is not None
    assert check.measured > 70e6


def test_where_nothing_is_enforced_nothing_is_ok() -> None:
    with EmulatedCluster(parse_emulate("laptop"), hierarchy=NOWHERE) as cluster:
        checks = [*check_processors(cluster), *check_memory(cluster)]
    assert [(check.ok, check.measured, check.note) for check in checks] == [
        (False, None, "not enforced here")
    ] * 2
