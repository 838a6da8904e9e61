"""Emulated devices are real processes, held to their limits, that leave nothing behind.

Where this process may not make control groups (an ordinary user, say), the tests of the
limits assert instead that the enforcement says so. As root they must be in force.
"""

from __future__ import annotations

import math
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from devices.emulation import EmulatedCluster, EmulatedProcess, available_cores, enforcement
from devices.hierarchy import Hierarchy, find_hierarchy, group_prefix
from devices.specification import HOST_SHARE, EmulatedDevice, parse_emulate
from edge_runtime.system.cgroups import group_memory_limit, group_quota_cores

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT_SECONDS = 20.0
SLEEPER = [sys.executable, "-c", "import signal; print('ready', flush=True); signal.pause()"]
NOWHERE = Hierarchy(version=2, cpu=None, memory=None, problems=("for the test",))


def one(text: str) -> EmulatedDevice:
    (device,) = parse_emulate(text)
    return device


def groups_of(prefix: str) -> list[Path]:
    hierarchy = find_hierarchy()
    parents = {folder for folder in (hierarchy.cpu, hierarchy.memory) if folder}
    return [folder for parent in parents for folder in parent.glob(f"{prefix}-*")]


def run(cluster: EmulatedCluster, code: str, log: Path) -> str:
    process = cluster.start(cluster.devices[0], [sys.executable, "-c", code], log_path=log)
    assert process.wait(WAIT_SECONDS) == 0, log.read_text()
    return log.read_text()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "device.log"


@pytest.fixture(autouse=True)
def _no_group_stays_behind() -> Iterator[None]:
    yield
    assert groups_of(group_prefix()) == []


def is_enforced(cluster: EmulatedCluster, limit: str) -> bool:
    """Tells if ``limit`` is in force; as root on Linux it has to be."""
    in_force: bool = getattr(cluster.enforcement, limit)
    if not in_force:
        assert os.geteuid() != 0, cluster.enforcement.warnings
        assert cluster.enforcement.warnings
    return in_force


BUSY = """
import time
wall, cpu = time.perf_counter(), time.process_time()
while time.perf_counter() - wall < 1.5:
    sum(range(1000))
print((time.process_time() - cpu) / (time.perf_counter() - wall))
"""


def cpu_share(cluster: EmulatedCluster, at_least: float, log: Path) -> float:
    """CPU seconds a second that a busy device gets: the first of three tries that suffices.

    A machine that is busy otherwise can lower the share, but never raise it.
    """
    share = 0.0
    for attempt in range(3):
        share = float(run(cluster, BUSY, log.with_name(f"{attempt}.log")))
        if share >= at_least:
            break
    return share


@pytest.mark.alone
def test_a_quarter_of_a_core_computes_four_times_slower(log: Path) -> None:
    with EmulatedCluster([one("laptop:cpu=0.25")], host_cores=1) as cluster:
        if is_enforced(cluster, "cpu"):
            assert 3.5 <= 1 / cpu_share(cluster, 1 / 4.5, log) <= 4.5


@pytest.mark.alone
def test_when_the_host_is_too_small_every_device_slows_alike(log: Path) -> None:
    pair = parse_emulate("laptop:cpu=0.8,laptop:cpu=0.2")
    with EmulatedCluster(pair, host_cores=0.5) as cluster:
        assert cluster.dilation == pytest.approx(2)
        assert [cluster.quota_cores(device) for device in pair] == pytest.approx([0.4, 0.1])
        if is_enforced(cluster, "cpu"):
            assert cpu_share(cluster, 0.36, log) == pytest.approx(0.4, abs=0.04)


def test_devices_leave_the_coordinator_and_the_links_their_part_of_this_machine() -> None:
    cores = available_cores()
    pair = parse_emulate(f"laptop:cpu={cores},laptop:cpu={cores}")
    with EmulatedCluster(pair) as cluster:
        assert cluster.dilation == pytest.approx(2 / HOST_SHARE)
        quota = sum(cluster.quota_cores(device) for device in pair)
        assert quota == pytest.approx(HOST_SHARE * cores)


def test_a_device_that_takes_more_than_its_memory_is_killed_and_it_is_said_why(
    log: Path,
) -> None:
    with EmulatedCluster([one("laptop:memory=60M")]) as cluster:
        if not is_enforced(cluster, "memory"):
            return
        greedy = [sys.executable, "-c", "held = bytearray(b'x') * 120_000_000"]
        process = cluster.start(cluster.devices[0], greedy, log_path=log)
        assert process.wait(WAIT_SECONDS) == -signal.SIGKILL
        assert process.oom_killed()
        assert process.describe_end() == "laptop-1 was killed: out of its 60M memory"
        assert (process.peak_memory_bytes() or 0) <= 60_000_000
    assert process.oom_killed()


def test_a_device_within_its_memory_lives_and_its_peak_is_known(log: Path) -> None:
    with EmulatedCluster([one("laptop:memory=100M")]) as cluster:
        run(cluster, "held = bytearray(b'x') * 40_000_000", log)
        process = cluster._running[cluster.devices[0].id]
        assert not process.oom_killed()
        if is_enforced(cluster, "memory"):
            assert 40_000_000 <= (process.peak_memory_bytes() or 0) <= 100_000_000
    peak = process.peak_memory_bytes()
    assert (peak is not None) == cluster.enforcement.memory


def test_a_device_is_within_its_limits_before_its_first_instruction(log: Path) -> None:
    with EmulatedCluster([one("laptop:cpu=0.5,memory=200M")]) as cluster:
        membership = run(cluster, "print(open('/proc/self/cgroup').read())", log)
        for limit in ("cpu", "memory"):
            if is_enforced(cluster, limit):
                assert group_prefix() in membership


def test_a_device_that_starts_freely_has_all_limits_but_the_processors_until_it_is_held() -> None:
    (device,) = parse_emulate("laptop:cpu=0.25,memory=200M")
    with EmulatedCluster([device], host_cores=1) as cluster:
        process = _start_ready(cluster, SLEEPER, starts_freely=True)
        if is_enforced(cluster, "memory"):
            assert (limit := group_memory_limit(process._group.memory or Path())) is not None
            assert limit.limit_bytes == pytest.approx(200_000_000, abs=4096)
        if is_enforced(cluster, "cpu"):
            folder = process._group.cpu or Path()
            assert (folder / "cgroup.procs").read_text() == f"{process.pid}\n"
            assert group_quota_cores(folder) == math.inf
            process.hold()
            assert group_quota_cores(folder) == pytest.approx(0.25)
            process.let_go()
            assert group_quota_cores(folder) == math.inf


WAITS_AND_IS_BUSY = f"""
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGUSR1}})
print("ready", flush=True)
signal.sigwait({{signal.SIGUSR1}})
sys.stdout = open(sys.argv[1], "w")
{BUSY}
"""


@pytest.mark.alone
def test_a_device_that_started_freely_is_as_slow_as_any_once_it_is_held(tmp_path: Path) -> None:
    share = 0.0
    with EmulatedCluster([one("laptop:cpu=0.25")], host_cores=1) as cluster:
        if not is_enforced(cluster, "cpu"):
            return
        for attempt in range(3):
            said = tmp_path / f"{attempt}"
            command = [sys.executable, "-c", WAITS_AND_IS_BUSY, str(said)]
            process = _start_ready(cluster, command, starts_freely=True)
            process.hold()
            os.kill(process.pid, signal.SIGUSR1)
            assert process.wait(WAIT_SECONDS) == 0
            if (share := float(said.read_text())) >= 1 / 4.5:
                break
    assert 3.5 <= 1 / share <= 4.5


def test_without_control_groups_a_device_has_one_thread_and_the_user_is_warned(log: Path) -> None:
    with EmulatedCluster([one("laptop")], host_cores=8, hierarchy=NOWHERE) as cluster:
        assert run(cluster, "import os; print(os.environ['OMP_NUM_THREADS'])", log) == "1\n"
        assert cluster.enforcement == enforcement(NOWHERE)
        slow, large = cluster.enforcement.warnings
        assert "only held to one thread: for the test" in slow
        assert "memory of emulated devices is not capped: for the test" in large


def test_threads_are_set_in_the_environment_and_the_caller_may_add_to_it(log: Path) -> None:
    with EmulatedCluster([one("laptop:cpu=1.5")], host_cores=8) as cluster:
        code = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['COLOUR'])"
        process = cluster.start(
            cluster.devices[0], [sys.executable, "-c", code], log_path=log, env={"COLOUR": "red"}
        )
        assert process.wait(WAIT_SECONDS) == 0
        assert process.threads == (2 if is_enforced(cluster, "cpu") else 1)
        assert log.read_text() == f"{process.threads} red\n"


def test_standard_input_reaches_the_device_and_its_output_the_log(
    log: Path, tmp_path: Path
) -> None:
    token = b"secret " * 50_000
    code = "import os, sys; print(len(sys.stdin.read()), os.getcwd()); print('!', file=sys.stderr)"
    with EmulatedCluster([one("laptop")]) as cluster:
        process = cluster.start(
            cluster.devices[0],
            [sys.executable, "-c", code],
            log_path=log,
            stdin=token,
            cwd=tmp_path,
        )
        assert process.wait(WAIT_SECONDS) == 0
    assert sorted(log.read_text().splitlines()) == ["!", f"{len(token)} {tmp_path.resolve()}"]


def _start_ready(
    cluster: EmulatedCluster, command: list[str], *, starts_freely: bool = False
) -> EmulatedProcess:
    """Starts a device and waits until it prints, which it does into a pipe instead of the log."""
    reading, writing = os.pipe()
    try:
        pipe = Path(f"/proc/{os.getpid()}/fd/{writing}")
        device = cluster.devices[0]
        process = cluster.start(device, command, log_path=pipe, starts_freely=starts_freely)
        said = b""
        while not said.endswith(b"\n"):
            assert select.select([reading], [], [], WAIT_SECONDS)[0]
            said += os.read(reading, 4096)
        assert said == b"ready\n"
    finally:
        os.close(reading)
        os.close(writing)
    return process


def test_stop_asks_first() -> None:
    polite = (
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7));"
        "print('ready', flush=True); signal.pause()"
    )
    with EmulatedCluster([one("laptop:cpu=0.2")]) as cluster:
        process = _start_ready(cluster, [sys.executable, "-c", polite])
        assert process.stop() == 7


def test_stop_kills_what_does_not_listen() -> None:
    deaf = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('ready', flush=True)\nwhile True: signal.pause()"
    )
    with EmulatedCluster([one("laptop")]) as cluster:
        process = _start_ready(cluster, [sys.executable, "-c", deaf])
        assert process.stop(timeout_seconds=0.1) == -signal.SIGKILL
        assert process.describe_end() == "laptop-1 was killed by SIGKILL"


def test_closing_the_cluster_ends_every_device(tmp_path: Path) -> None:
    three = parse_emulate("laptop:cpu=0.2,laptop:cpu=0.2,jetson-nano")
    with EmulatedCluster(three) as cluster:
        running = [
            cluster.start(device, SLEEPER, log_path=tmp_path / device.id) for device in three
        ]
        assert [process.poll() for process in running] == [None, None, None]
    assert all(process.poll() is not None for process in running)


def test_a_device_can_be_started_again_but_not_twice(log: Path) -> None:
    with EmulatedCluster([one("laptop")]) as cluster:
        device = cluster.devices[0]
        process = cluster.start(device, SLEEPER, log_path=log)
        with pytest.raises(ValueError, match="laptop-1 already runs"):
            cluster.start(device, SLEEPER, log_path=log)
        process.stop()
        again = cluster.start(device, SLEEPER, log_path=log)
        assert again.poll() is None
        assert again.pid != process.pid


def test_a_failed_start_leaves_no_group(tmp_path: Path) -> None:
    with EmulatedCluster([one("laptop")]) as cluster:
        with pytest.raises(FileNotFoundError):
            cluster.start(cluster.devices[0], SLEEPER, log_path=tmp_path / "no" / "folder")
        assert groups_of(group_prefix()) == []


def test_children_of_a_device_die_with_it() -> None:
    parent = (
        "import subprocess, sys, signal;"
        "subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']);"
        "print('ready', flush=True); signal.pause()"
    )
    with EmulatedCluster([one("laptop")]) as cluster:
        process = _start_ready(cluster, [sys.executable, "-c", parent])
        if not is_enforced(cluster, "cpu"):
            return
        (folder, *_) = process._group.folders
        members = [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
        assert len(members) == 2
        process.stop()
    assert not any(Path(f"/proc/{pid}").exists() and _is_running(pid) for pid in members)


def _is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"


COORDINATOR = """
import sys, threading
from pathlib import Path
from devices.emulation import EmulatedCluster
from devices.specification import parse_emulate
from devices.hierarchy import group_prefix
devices = parse_emulate("laptop:cpu=0.5")
cluster = EmulatedCluster(devices)
command = [sys.executable, "-c", "import signal; signal.pause()"]
started = []
def start():
    started.append(cluster.start(devices[0], command, log_path=Path(sys.argv[1])))
thread = threading.Thread(target=start)
thread.start()
thread.join()
print(started[0].pid, group_prefix(), flush=True)
sys.stdin.read()
"""


def test_devices_die_with_a_killed_coordinator_and_the_next_run_removes_their_groups(
    log: Path,
) -> None:
    coordinator = subprocess.Popen(
        [sys.executable, "-c", COORDINATOR, str(log)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with coordinator:
        assert coordinator.stdout is not None
        pid, prefix = coordinator.stdout.readline().decode().split()
        device = os.pidfd_open(int(pid))
        # The thread that asked for the device has ended; the device lives on.
        assert select.select([device], [], [], 0.2)[0] == []
        coordinator.kill()
    assert select.select([device], [], [], WAIT_SECONDS)[0] == [device]
    os.close(device)
    with EmulatedCluster([one("laptop")]) as cluster:
        if is_enforced(cluster, "cpu"):
            assert groups_of(prefix) != []
        cluster.start(cluster.devices[0], SLEEPER, log_path=log)
        assert groups_of(prefix) == []


def test_ctrl_c_in_the_terminal_does_not_reach_the_devices(log: Path) -> None:
    with EmulatedCluster([one("laptop")]) as cluster:
        process = cluster.start(cluster.devices[0], SLEEPER, log_path=log)
        assert os.getsid(process.pid) != os.getsid(0)


@pytest.mark.alone
def test_a_device_knows_its_quota_and_times_work_as_the_quota_lets_it_run(log: Path) -> None:
    program = (
        "import time\n"
        "from edge_runtime.profiling.timing import seconds_per_run\n"
        "from edge_runtime.system.usage import usable_cores\n"
        "def work():\n"
        "    end = time.process_time() + 0.002\n"
        "    while time.process_time() < end: pass\n"
        "print(usable_cores(), seconds_per_run(work, usable_cores()))\n"
    )
    with EmulatedCluster([one("laptop:cpu=0.25")], host_cores=1) as cluster:
        said = run(cluster, program, log)
        if is_enforced(cluster, "cpu"):
            cores, seconds = map(float, said.split())
            assert cores == pytest.approx(0.25)
            assert seconds == pytest.approx(0.008, rel=0.25)
