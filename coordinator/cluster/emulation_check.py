"""Measures whether emulated devices and their links keep what was promised.

Links are measured through the same encrypted sockets and relays that sessions use.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

from devices.emulation import EmulatedCluster
from devices.selftest import Check, Limit, check_memory, check_processors
from devices.specification import EmulatedDevice
from devices.this_machine import LOOPBACK
from edge_runtime.transport import (
    Address,
    Delivery,
    KeyPair,
    SecureContext,
    SecureDealer,
    SecureRouter,
)

from .emulated_links import EmulatedLinks

RATE_TOLERANCE = 0.1
LATENCY_TOLERANCE = 0.1
LATENCY_SLACK_SECONDS = 2e-3
"""What timers, sockets and the encryption add to a small message's way."""

TRANSFER_SECONDS = 1.0
MAX_TRANSFER_BYTES = 64_000_000
PIECES = 64
"""Messages of a transfer; the first quarter is not counted: until then buffers fill."""

ROUND_TRIPS = 5
ATTEMPTS = 3
BOUND_SECONDS = 60.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EmulationReport:
    """Holds the findings of :func:`check_emulation`.

    Attributes:
        dilation: by which everything is slowed, and what is wanted with it.
        checks: every limit of every device.
        warnings: limits that cannot be enforced here.
    """

    dilation: float
    checks: tuple[Check, ...]
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """No limit is broken."""
        return not any(check.ok is False for check in self.checks)


def check_emulation(
    devices: Sequence[EmulatedDevice],
    progress: Callable[[str], None] = lambda _step: None,
    *,
    host_cores: float | None = None,
) -> EmulationReport:
    """Starts the devices together and measures each of their limits.

    ``progress`` is told what is measured next; ``host_cores`` is as of a run by default.
    """
    with EmulatedCluster(devices, host_cores=host_cores) as cluster:
        progress("processors, all devices at once")
        checks = check_processors(cluster)
        progress("memory")
        checks += check_memory(cluster)
        dilation, warnings = cluster.dilation, cluster.enforcement.warnings
    for device in devices:
        progress(f"link of {device.id}")
        checks += check_link(device, dilation)
    order = {device.id: place for place, device in enumerate(devices)}
    checks.sort(key=lambda check: order[check.device])
    return EmulationReport(dilation=dilation, checks=tuple(checks), warnings=warnings)


def check_link(device: EmulatedDevice, dilation: float) -> list[Check]:
    """Rates and latency of a device's link, for encrypted messages."""
    rate = device.link_bits_per_second / dilation
    latency = device.latency_seconds * dilation
    with _connected(device, dilation) as (far, near):
        up = _best_rate(near, far, rate)
        down = _best_rate(far, near, rate)
        one_way = min(_round_trip(near, far) for _ in range(ROUND_TRIPS)) / 2
    late = LATENCY_TOLERANCE * latency
    on_time = latency - late <= one_way <= latency + late + LATENCY_SLACK_SECONDS
    found: list[tuple[Limit, str, float, float, bool]] = [
        ("up", "bit/s", rate, up, _rate_kept(up, rate)),
        ("down", "bit/s", rate, down, _rate_kept(down, rate)),
        ("latency", "s", latency, one_way, on_time),
    ]
    return [
        Check(device=device.id, limit=limit, unit=unit, wanted=wanted, measured=measured, ok=ok)
        for limit, unit, wanted, measured, ok in found
    ]


def _rate_kept(measured: float, wanted: float) -> bool:
    return abs(measured / wanted - 1) <= RATE_TOLERANCE


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """One end of an encrypted connection."""

    send: Callable[[bytes], Delivery]
    receive: Callable[[float], bool]


@contextlib.contextmanager
def _connected(device: EmulatedDevice, dilation: float) -> Iterator[tuple[_End, _End]]:
    """Connects over the device's link, encrypted: the far end, and the device's.

    The device's end is a context of its own, as in a process of its own.
    """
    with contextlib.ExitStack() as stack:
        here, there = (stack.enter_context(SecureContext()) for _ in range(2))
        links = stack.enter_context(EmulatedLinks(dilation))
        server, client = KeyPair.generate(), KeyPair.generate()
        router = SecureRouter(here, server, domain="check")
        stack.callback(router.close)
        router.allow(device.id, client.public)
        address = router.bind(Address(host=LOOPBACK, port=0))
        address = links.way_out(links.open(device), address)
        dealer = SecureDealer(there, client, address=address, server_key=server.public)
        stack.callback(dealer.close)
        deadline = time.monotonic() + BOUND_SECONDS
        while device.id not in router.connected_devices():
            if time.monotonic() > deadline:
                raise RuntimeError(f"no connection over the link of {device.id}")
            dealer.wait_connected(0.01)
            router.recv(0.01)
        yield (
            _End(
                send=lambda data: router.send(device.id, [data]),
                receive=lambda seconds: router.recv(seconds) is not None,
            ),
            _End(
                send=lambda data: dealer.send([data]),
                receive=lambda seconds: dealer.recv(seconds) is not None,
            ),
        )


def _best_rate(sender: _End, receiver: _End, wanted: float) -> float:
    """Bits a second of the best of a few transfers; what else runs here can only slow them."""
    best = 0.0
    for _ in range(ATTEMPTS):
        best = max(best, _rate(sender, receiver, wanted))
        if _rate_kept(best, wanted):
            break
    return best


def _rate(sender: _End, receiver: _End, wanted: float) -> float:
    """Bits a second of one transfer, from the first quarter's end to the last byte."""
    size = int(min(wanted / 8 * TRANSFER_SECONDS, MAX_TRANSFER_BYTES)) // PIECES + 1
    data = bytes(size)
    sent, arrivals = 0, list[float]()
    deadline = time.monotonic() + BOUND_SECONDS
    while len(arrivals) < PIECES and time.monotonic() < deadline:
        while sent < PIECES and sender.send(data) is Delivery.QUEUED:
            sent += 1
        if receiver.receive(0.1):
            arrivals.append(time.perf_counter())
    counted = arrivals[PIECES // 4 :]
    if len(counted) < 2:
        return 0.0
    return 8 * size * (len(counted) - 1) / (counted[-1] - counted[0])


def _round_trip(near: _End, far: _End) -> float:
    """Seconds that a small message takes there and back."""
    began = time.perf_counter()
    near.send(b"ping")
    far.receive(BOUND_SECONDS)
    far.send(b"pong")
    near.receive(BOUND_SECONDS)
    return time.perf_counter() - began
