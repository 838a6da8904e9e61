"""Device processes on this machine: emulated ones, or this machine as it is.

They are started, paired and talked to exactly like devices elsewhere: own home, own
keys, encrypted sockets on loopback, weights over the wire. Emulated ones have links of
their own, see :mod:`.emulated_links`, and a CPU quota from the moment on at which they pair:
Python and its packages are loaded by then, and nothing has been asked of them yet.
"""

import contextlib
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coordinator.protocol.events import Lost
from devices.emulation import EmulatedCluster, EmulatedProcess, available_cores
from devices.hierarchy import Hierarchy
from devices.specification import EmulatedDevice
from devices.this_machine import EMULATED, LOOPBACK, HeadStart, log_of, start_command
from edge_runtime.contract.errors import StoppedError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.structure import to_plain
from edge_runtime.transport import (
    Address,
    KeyPair,
    PairedDevices,
    PairingServer,
    SecureContext,
    SecureRouter,
)
from edge_runtime.transport.files import write_private

from .emulated_links import EmulatedLinks

logger = logging.getLogger(__name__)

PAIRING_SECONDS = 90.0
WAIT_SECONDS = 0.1

CONDITION = "condition.json"
"""In an emulated device's home, read in place of sensors; whoever rewrites it changes them."""

EMULATED_MAX_CELSIUS = 80


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LocalPlace:
    """Holds the addresses and keys that local devices are paired with."""

    keypair: KeyPair
    router: SecureRouter
    control: Address
    paired: PairedDevices
    home: Path


class LocalDevices:
    """Watches running local devices.

    Attributes:
        links: what connections of emulated devices pass through.
    """

    def __init__(
        self,
        cluster: EmulatedCluster,
        processes: Mapping[DeviceId, EmulatedProcess],
        links: EmulatedLinks,
        home: Path,
    ) -> None:
        self._cluster, self._processes, self._home = cluster, processes, home
        self._reported: set[DeviceId] = set()
        self.links = links

    @property
    def ids(self) -> tuple[DeviceId, ...]:
        """Ids of the devices, in the order asked for."""
        return tuple(self._processes)

    @property
    def dilation(self) -> float:
        """Dilation factor: everything runs so many times slower."""
        return self._cluster.dilation

    @property
    def warnings(self) -> tuple[str, ...]:
        """Limits that are not in force, for the user."""
        return self._cluster.enforcement.warnings

    def profile_of(self, device: DeviceId) -> str:
        """Names the device's profile in the catalogue of devices."""
        process = self._processes.get(device)
        return process.device.profile if process else ""

    def place_of(self, device: DeviceId) -> Any:
        """Lists a device's limits as plain values."""
        enforced = self._cluster.enforcement
        limits = [self._cluster.dilation, enforced.cpu, enforced.memory]
        return [to_plain(self._processes[device].device.limits), *limits]

    def ended(self) -> list[Lost]:
        """Devices whose process has ended since the last call, and why."""
        gone = []
        for device, process in self._processes.items():
            if device not in self._reported and process.poll() is not None:
                self._reported.add(device)
                name = process.device.id
                end = process.describe_end().removeprefix(f"{name} ")
                # Who is killed says nothing of it; the last line would be about something else.
                tail = "" if "killed" in end else log_tail(log_of(self._home, name))
                reason = f"its process {end}{tail}"
                killed = process.oom_killed()
                gone.append(Lost(device=device, reason=reason, out_of_memory=killed, ended=True))
        return gone

    def wait(self, timeout_seconds: float) -> None:
        """Gives the processes time to end by themselves after ``Shutdown``, at full speed."""
        for process in self._processes.values():
            process.let_go()
        deadline = time.monotonic() + timeout_seconds
        for process in self._processes.values():
            with contextlib.suppress(TimeoutError):
                process.wait(max(0.0, deadline - time.monotonic()))


def log_tail(log: Path) -> str:
    """Reads the last line of a log, to be appended to an explanation."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f" ({lines[-1][-200:]}; see {log})" if lines else ""


@contextlib.contextmanager
def local_devices(place: LocalPlace, devices: tuple[EmulatedDevice, ...]) -> Iterator[LocalDevices]:
    """Starts and pairs local devices; none is left when the context ends.

    Raises:
        StoppedError: a device did not start.
    """
    emulated = any(device.profile for device in devices)
    # Without a place for groups the cluster starts plain processes.
    hierarchy = None if emulated else Hierarchy(version=2, cpu=None, memory=None)
    cores = None if emulated else available_cores()
    with (
        EmulatedCluster(devices, host_cores=cores, hierarchy=hierarchy) as cluster,
        EmulatedLinks(cluster.dilation) as links,
    ):
        with contextlib.ExitStack() as pairing:
            starting = []
            for device in devices:
                control, link = place.control, None
                if device.profile:
                    link = links.open(device)
                    control = links.way_out(link, control)
                threads = cluster.threads(device) if emulated else device.cores
                reached = dataclasses.replace(place, control=control)
                # Only one pairs in a context at a time.
                context = pairing.enter_context(SecureContext())
                log = log_of(place.home, device.id)
                started = _start(reached, context, cluster, device, log, threads)
                pairing.callback(started.server.close)
                starting.append((started, link))
            ids = _pair([started for started, _ in starting])
        processes = {}
        for paired, (started, link) in zip(ids, starting, strict=True):
            processes[paired] = started.process
            if link is not None:
                links.attach(paired, link)
        yield LocalDevices(cluster, processes, links, place.home)


@contextlib.contextmanager
def this_machine_alone(
    place: LocalPlace, context: SecureContext, begun: HeadStart
) -> Iterator[LocalDevices]:
    """Pairs this machine's device, which has been started and is ended elsewhere.

    Raises:
        StoppedError: it did not start.
    """
    with contextlib.closing(_pairing(place, context, begun.process.hold)) as server:
        begun.tell(f"{server.address} {server.token.text()}")
        (paired,) = _pair([_Starting(process=begun.process, server=server, log=begun.log)])
    with EmulatedLinks(begun.cluster.dilation) as links:
        yield LocalDevices(begun.cluster, {paired: begun.process}, links, place.home)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Starting:
    """A device that was started, and waits for it to pair."""

    process: EmulatedProcess
    server: PairingServer
    log: Path


def _start(
    place: LocalPlace,
    context: SecureContext,
    cluster: EmulatedCluster,
    device: EmulatedDevice,
    log: Path,
    threads: int,
) -> _Starting:
    """Starts one device; waits for nothing."""
    server = _pairing(place, context, lambda: process.hold())
    log.unlink(missing_ok=True)
    command = [*start_command(device, place.home, threads), "--pair", str(server.address)]
    if device.profile:
        command += _care(device, place.home / EMULATED / device.id)
    token = f"{server.token.text()}\n".encode()
    try:
        process = cluster.start(device, command, log_path=log, stdin=token, starts_freely=True)
    except BaseException:
        server.close()
        raise
    return _Starting(process=process, server=server, log=log)


def _pairing(
    place: LocalPlace, context: SecureContext, before_reply: Callable[[], None]
) -> PairingServer:
    return PairingServer(
        context,
        place.keypair,
        listen=Address(host=LOOPBACK, port=0),
        devices=place.paired,
        allow_list=place.router.allow_list,
        control_address=place.control,
        before_reply=before_reply,
    )


def _pair(starting: Sequence[_Starting]) -> list[DeviceId]:
    """Pairs devices as they come; returns their ids in the order given.

    Raises:
        StoppedError: one did not start.
    """
    deadline = time.monotonic() + PAIRING_SECONDS
    paired: dict[int, DeviceId] = {}
    while left := [(i, each) for i, each in enumerate(starting) if i not in paired]:
        for i, each in left:
            if (found := each.server.handle(WAIT_SECONDS / len(left))) is not None:
                paired[i] = found.device_id
                continue
            if each.process.poll() is not None:
                raise StoppedError(f"{each.process.describe_end()}{log_tail(each.log)}")
            if time.monotonic() > deadline:
                name = each.process.device.id
                raise StoppedError(f"{name} did not start in {PAIRING_SECONDS:.0f} seconds")
    return [paired[i] for i in range(len(starting))]


def _care(device: EmulatedDevice, home: Path) -> list[str]:
    """Options that say what spares an emulated device: it has sensors of its own."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(home / CONDITION, json.dumps(device.condition).encode())
    file = ["--condition", str(home / CONDITION)]
    return [*file, "--max-temperature", str(EMULATED_MAX_CELSIUS)]
