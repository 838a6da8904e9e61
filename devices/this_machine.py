"""This machine as a device of its own, and a head start for its process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

from edge_runtime.contract.ids import DeviceId

from .emulation import EmulatedCluster, EmulatedProcess, available_cores
from .hierarchy import Hierarchy
from .specification import EmulatedDevice

THIS_MACHINE = "this-machine"
LOOPBACK = "127.0.0.1"
EMULATED = "emulated"
"""Folder of the coordinator's home with the homes of local devices, and who they are."""


def this_machine() -> EmulatedDevice:
    """This machine as one device, neither slowed nor capped."""
    cores = max(1, int(available_cores()))
    return EmulatedDevice(
        id=DeviceId(THIS_MACHINE),
        profile="",
        memory_bytes=1 << 62,
        cores=cores,
        compute_cores=float(cores),
        link_bits_per_second=1e12,
        latency_seconds=0.0,
        roles=("backbone", "trainer"),
    )


def log_of(home: Path, device: DeviceId) -> Path:
    """Where a local device's output goes, below the coordinator's ``home``."""
    folder = home / "logs"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / f"{device}.log"


def start_command(device: EmulatedDevice, home: Path, threads: int) -> list[str]:
    """The command that starts a local device, with its own folder below ``home``."""
    command = [sys.executable, "-m", "edge_runtime", "start", "--once"]
    command += ["--home", str(home / EMULATED / device.id)]
    command += ["--name", device.id, "--listen", LOOPBACK, "--threads", str(threads)]
    if "trainer" not in device.roles:
        command.append("--no-train")
    # This machine works for its user as long as it runs.
    return command if device.profile else [*command, "--min-battery", "0%"]


class HeadStart:
    """Starts this machine's device before there is a coordinator that it could be paired with.

    It takes longest to start, since it imports PyTorch, while a command reads its data.
    A context manager, which ends the process if nobody else has.
    """

    def __init__(self, home: Path, *, trains: bool) -> None:
        """Starts it; ``home`` is the coordinator's, ``trains`` has it import PyTorch at once.

        Raises:
            OSError: its log cannot be written, or the kernel refused.
        """
        device = this_machine()
        self.log = log_of(home, device.id)
        self.log.unlink(missing_ok=True)
        # Without a place for groups the cluster starts plain processes.
        nowhere = Hierarchy(version=2, cpu=None, memory=None)
        self.cluster = EmulatedCluster((device,), host_cores=available_cores(), hierarchy=nowhere)
        command = [*start_command(device, home, device.cores), "--pair", "told"]
        hears, self._tells = os.pipe()
        try:
            self.process: EmulatedProcess = self.cluster.start(
                *(device, [*command, "--trains"] if trains else command),
                log_path=self.log,
                stdin=hears,
            )
        except BaseException:
            self._hang_up()
            self.cluster.close()
            raise
        finally:
            os.close(hears)

    def __enter__(self) -> HeadStart:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tell(self, text: str) -> None:
        """Tells it where and how to pair; once. Nothing happens if it has ended already."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self._tells, f"{text}\n".encode())
        self._hang_up()

    def close(self) -> None:
        """Ends the process; at once where it has been told nothing, and so has made nothing."""
        if self._hang_up() and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
        self.cluster.close()

    def _hang_up(self) -> bool:
        """Returns whether it had been told nothing yet."""
        if self._tells < 0:
            return False
        os.close(self._tells)
        self._tells = -1
        return True
