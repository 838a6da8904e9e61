"""Checks that emulated devices are held to their limits of processor and memory.

Links are measured where encrypted sockets may be used, see
:mod:`coordinator.cluster.emulation_check`.
"""

import contextlib
import dataclasses
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Literal

from edge_runtime.contract.ids import DeviceId

from . import probe
from .emulation import EmulatedCluster, EmulatedProcess
from .specification import EmulatedDevice

Limit = Literal["cpu", "memory", "up", "down", "latency"]

CPU_TOLERANCE = 0.125
"""A quarter of a core is to be 4 +- 0.5 times slower than a whole one."""

MEMORY_TOLERANCE = 0.1
TRIED_MEMORY_BYTES = 600_000_000
"""A cap is tried out by exceeding it, which takes that much of this machine's memory; larger
ones are trusted."""

WINDOWS = 3
WINDOW_SECONDS = 1.0
ATTEMPTS = 3
BOUND_SECONDS = 60.0

_STEP_BYTES = 4 << 20
_FILL_MEMORY = f"""
import sys
held = []
for _ in range(int(sys.argv[1]) // {_STEP_BYTES}):
    held.append(b"x" * {_STEP_BYTES})
    print(len(held) * {_STEP_BYTES}, flush=True)
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One limit of one device.

    Attributes:
        unit: of both figures.
        wanted: by the device's profile, dilation included.
        measured: None where nothing was measured.
        ok: the two agree; None where nothing was tried.
        note: why nothing was measured.
    """

    device: DeviceId
    limit: Limit
    unit: str
    wanted: float
    measured: float | None
    ok: bool | None
    note: str = ""


def check_processors(cluster: EmulatedCluster) -> list[Check]:
    """Has all devices compute at the same time: what each gets, in cores of this machine.

    What else this machine does can lower that and never raise it, so a device that gets too
    little is tried again, and its best counts.
    """
    if not cluster.enforcement.cpu:
        return [_processor(cluster, device, None) for device in cluster.devices]
    best = dict.fromkeys((device.id for device in cluster.devices), 0.0)
    for _ in range(ATTEMPTS):
        for device, cores in _measure(cluster).items():
            best[device] = max(best[device], cores)
        found = [_processor(cluster, device, best[device.id]) for device in cluster.devices]
        if all(check.ok for check in found):
            break
    return found


def _processor(cluster: EmulatedCluster, device: EmulatedDevice, cores: float | None) -> Check:
    wanted = cluster.quota_cores(device)
    ok = cores is not None and abs(wanted / max(cores, 1e-9) - 1) <= CPU_TOLERANCE
    note = "" if cores is not None else "not enforced here"
    return Check(
        device=device.id, limit="cpu", unit="cores", wanted=wanted, measured=cores, ok=ok, note=note
    )


def _measure(cluster: EmulatedCluster) -> dict[DeviceId, float]:
    """Cores that each device gets while all of them compute.

    A whole core is taken as what a processor second does in the same process. A process of
    its own for comparison would meet other caches and other neighbours: on a busy machine of 2
    virtual processors a block's processor seconds differed by 30 % from one second to the next.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        running: dict[DeviceId, tuple[EmulatedProcess, Path]] = {}
        for device in cluster.devices:
            threads = max(1, math.ceil(cluster.quota_cores(device)))
            command = [sys.executable, probe.__file__]
            command += [str(WINDOWS), str(WINDOW_SECONDS), str(threads)]
            log = Path(folder) / device.id
            process = cluster.start(device, command, log_path=log)
            stack.callback(process.stop)
            running[device.id] = process, log
        return {device: _cores(*started) for device, started in running.items()}


def _cores(process: EmulatedProcess, log: Path) -> float:
    if process.wait(BOUND_SECONDS):
        raise RuntimeError(f"the probe failed: {log.read_text()[-500:]}")
    said = json.loads(log.read_text())
    return float(said["blocks_per_second"]) * float(said["cpu_seconds_per_block"])


def check_memory(cluster: EmulatedCluster) -> list[Check]:
    """Has each device in turn take more memory than it has: how far it comes."""
    return [_memory(cluster, device) for device in cluster.devices]


def _memory(cluster: EmulatedCluster, device: EmulatedDevice) -> Check:
    wanted = device.memory_bytes
    unmeasured = Check(
        device=device.id, limit="memory", unit="bytes", wanted=wanted, measured=None, ok=False
    )
    if not cluster.enforcement.memory:
        return dataclasses.replace(unmeasured, note="not enforced here")
    if wanted > TRIED_MEMORY_BYTES:
        note = f"not tried: above {TRIED_MEMORY_BYTES // 10**6}M"
        return dataclasses.replace(unmeasured, ok=None, note=note)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-I", "-S", "-c", _FILL_MEMORY, str(2 * wanted)]
        process = cluster.start(device, command, log_path=Path(folder) / "log")
        try:
            process.wait(BOUND_SECONDS)
        finally:
            process.stop()
    measured = process.peak_memory_bytes() or 0
    kept = process.oom_killed() and abs(measured / wanted - 1) <= MEMORY_TOLERANCE
    return dataclasses.replace(unmeasured, measured=measured, ok=kept)
