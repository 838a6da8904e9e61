"""Runs real device processes on this machine, each slowed and capped to its profile."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edge_runtime.contract.ids import DeviceId
from edge_runtime.system.cgroups import quota_cores

from . import launch
from .cgroups import Group, create_group
from .hierarchy import Hierarchy, find_hierarchy
from .probe import THREAD_VARIABLES
from .specification import HOST_SHARE, EmulatedDevice, dilation, thread_count

_logger = logging.getLogger(__name__)

STOP_SECONDS = 5.0
"""Time that a process has between SIGTERM and SIGKILL."""

_group_numbers = itertools.count()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Enforcement:
    """The limits that are really in force.

    Attributes:
        cpu: the kernel enforces CPU shares; otherwise devices have one thread each.
        memory: the kernel enforces memory caps; otherwise nothing does.
        warnings: one line for each limit that is not enforced, for the user.
    """

    cpu: bool
    memory: bool
    warnings: tuple[str, ...]


def enforcement(hierarchy: Hierarchy) -> Enforcement:
    """Finds what groups in ``hierarchy`` can enforce; without problems, none were wanted."""
    why = "; ".join(hierarchy.problems)
    warnings = []
    if why and hierarchy.cpu is None:
        warnings.append(f"emulated devices are not slowed down, only held to one thread: {why}")
    if why and hierarchy.memory is None:
        # RLIMIT_DATA is no stand-in: it counts what is reserved, not what is used.
        warnings.append(f"the memory of emulated devices is not capped: {why}")
    cpu, memory = hierarchy.cpu is not None, hierarchy.memory is not None
    return Enforcement(cpu=cpu, memory=memory, warnings=tuple(warnings))


def available_cores() -> float:
    """Cores that this process may use, its control group's quota included."""
    affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
    return min(float(cores), quota_cores())


class EmulatedProcess:
    """A running device. Made by :meth:`EmulatedCluster.start`."""

    def __init__(
        self,
        device: EmulatedDevice,
        process: subprocess.Popen[bytes],
        group: Group,
        *,
        threads: int,
        quota_cores: float,
    ) -> None:
        self.device = device
        self.threads = threads
        self._process = process
        self._group = group
        self._quota_cores = quota_cores
        self._peak_memory_bytes: int | None = None
        self._oom_kills = 0

    @property
    def pid(self) -> int:
        """Of the device's process."""
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status, negative for a signal; ``None`` while it runs."""
        return self._process.poll()

    def wait(self, timeout_seconds: float | None = None) -> int:
        """Waits for its end.

        Raises:
            TimeoutError: it still runs.
        """
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.device.id} still runs") from None

    def hold(self) -> None:
        """Puts its CPU quota on, with its next instruction; for one that starts freely.

        Raises:
            OSError: the kernel refused.
        """
        self._group.limit_cpu(self._quota_cores)

    def let_go(self) -> None:
        """Lifts its CPU quota: it was told to end, and nothing else is wanted of it."""
        with contextlib.suppress(OSError):
            self._group.limit_cpu(None)

    def terminate(self) -> None:
        """Asks it to end, at full speed; does not wait."""
        if self.poll() is None:
            self.let_go()
            self._process.terminate()

    def stop(self, timeout_seconds: float = STOP_SECONDS) -> int:
        """Ends it (SIGTERM, then SIGKILL), removes its group and returns the exit status."""
        self.terminate()
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            _logger.warning("%s did not end within %.1f s: killed", self.device.id, timeout_seconds)
            self._process.kill()
        status = self._process.wait()
        self.peak_memory_bytes()
        self.oom_killed()
        self._group.remove()
        return status

    def peak_memory_bytes(self) -> int | None:
        """Most memory it has held, file cache included; ``None`` where it is not capped."""
        self._peak_memory_bytes = self._group.peak_memory_bytes() or self._peak_memory_bytes
        return self._peak_memory_bytes

    def oom_killed(self) -> bool:
        """True if the kernel killed it, or a child of it, for exceeding its memory."""
        self._oom_kills = max(self._oom_kills, self._group.oom_kills())
        return self._oom_kills > 0

    def describe_end(self) -> str:
        """Explains to the user why it is gone; empty while it runs."""
        status = self.poll()
        if status is None:
            return ""
        if self.oom_killed():
            megabytes = self.device.memory_bytes / 1e6
            return f"{self.device.id} was killed: out of its {megabytes:.0f}M memory"
        if status < 0:
            return f"{self.device.id} was killed by {signal.Signals(-status).name}"
        return f"{self.device.id} ended with status {status}"


class EmulatedCluster:
    """Emulated devices that share this machine; a context manager that leaves nothing behind.

    A device never outlives the coordinator: the kernel kills it when the coordinator
    dies, however it dies. Ctrl-C in the terminal reaches only the coordinator.
    """

    def __init__(
        self,
        devices: Sequence[EmulatedDevice],
        *,
        host_cores: float | None = None,
        hierarchy: Hierarchy | None = None,
    ) -> None:
        """Prepares; starts nothing yet.

        Args:
            devices: all devices that will run together.
            host_cores: cores that they may share; by default this machine's without what
                the coordinator and the links need.
            hierarchy: where to make control groups; found by default.
        """
        self._hierarchy = hierarchy or find_hierarchy()
        self.devices = tuple(devices)
        self.enforcement = enforcement(self._hierarchy)
        self.dilation = dilation(self.devices, host_cores or HOST_SHARE * available_cores())
        self._running: dict[DeviceId, EmulatedProcess] = {}
        # The kernel ties a child to the thread that forked it, so one thread forks them all.
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

    def __enter__(self) -> EmulatedCluster:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops every device and removes its group."""
        for process in self._running.values():
            process.terminate()
        while self._running:
            self._running.popitem()[1].stop()
        self._spawner.shutdown()

    def quota_cores(self, device: EmulatedDevice) -> float:
        """CPU quota of ``device`` here, in cores."""
        return device.compute_cores / self.dilation

    def threads(self, device: EmulatedDevice) -> int:
        """Threads that ``device`` computes with here."""
        return thread_count(device, self.quota_cores(device)) if self.enforcement.cpu else 1

    def start(
        self,
        device: EmulatedDevice,
        command: Sequence[str],
        *,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        stdin: bytes | int | None = None,
        cwd: Path | None = None,
        starts_freely: bool = False,
    ) -> EmulatedProcess:
        """Starts ``command`` as ``device``, within its limits from its first instruction on.

        A device that has ended may be started again.

        How fast Python starts is no part of what is emulated, and takes eight devices half a
        minute that have a tenth of a core each. One that ``starts_freely`` has all but the CPU
        quota from its first instruction on, and that from :meth:`EmulatedProcess.hold` on, which
        whoever starts it has to call before it has anything to compute.

        Args:
            device: one of the cluster's.
            command: program and arguments.
            log_path: standard output and error are appended to it.
            env: added to this process's environment and the variables that set the threads.
            stdin: its standard input, or a descriptor of it; nothing by default.
            cwd: its working folder.
            starts_freely: without its CPU quota.

        Raises:
            OSError: the program or the folder is not there, or the kernel refused.
        """
        if earlier := self._running.get(device.id):
            if earlier.poll() is None:
                raise ValueError(f"{device.id} already runs")
            self._running.pop(device.id).stop()
        group = create_group(self._hierarchy, f"{next(_group_numbers)}-{device.id}")
        try:
            if not starts_freely:
                group.limit_cpu(self.quota_cores(device))
            group.limit_memory(device.memory_bytes)
            threads = self.threads(device)
            variables = {
                **os.environ,
                **dict.fromkeys(THREAD_VARIABLES, str(threads)),
                **(env or {}),
            }
            spawning = self._spawner.submit(_spawn, command, group, variables, stdin, log_path, cwd)
            popen = spawning.result()
        except BaseException:
            group.remove()
            raise
        quota = self.quota_cores(device)
        process = EmulatedProcess(device, popen, group, threads=threads, quota_cores=quota)
        self._running[device.id] = process
        return process


def _spawn(
    command: Sequence[str],
    group: Group,
    env: Mapping[str, str],
    stdin: bytes | int | None,
    log_path: Path,
    cwd: Path | None,
) -> subprocess.Popen[bytes]:
    joins = [text for folder in group.folders for text in ("--join", str(folder / "cgroup.procs"))]
    # -I -S: no site packages and nothing from the environment, which is meant for the device.
    launcher = [sys.executable, "-I", "-S", str(Path(launch.__file__))]
    # A file instead of a pipe: writing it never waits for the device to read.
    with tempfile.TemporaryFile() as given, open(log_path, "ab", opener=_private) as log:
        if not isinstance(stdin, int):
            given.write(stdin or b"")
            given.seek(0)
        return subprocess.Popen(
            [*launcher, str(os.getpid()), *joins, "--", *command],
            stdin=stdin if isinstance(stdin, int) else given,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
