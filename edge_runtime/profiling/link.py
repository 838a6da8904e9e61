"""Measures the link to a peer, over the encrypted connection that a run uses.

The sender sends trains of messages; the receiver says how long each took to come in,
first to last, by its own clock, so neither clocks nor the way back matter to the rate.
Trains grow until one takes long enough to be judged by: a slow link is not kept busy for
long, a fast one is given enough. Buffers on the way make up for a quota's pauses, so the
mean over a train is the link's rate, unless the processor cannot encrypt as fast; then the
link is at least as fast as measured, and a plan has to count the processor. Other events on
the way only make trains and round trips longer: the fastest of several trains is the rate,
and half of the shortest of several round trips the latency.
"""

import time
from collections.abc import Callable

import numpy as np

from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import LinkMeasured, Probe, ProbeEcho, ProbeLink
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.messaging.outbox import Outbox
from edge_runtime.messaging.tagging import current_tag, tagged

PINGS = 8
TRAINS = 3
"""Trains of full length, of which the fastest counts."""

MESSAGES = 32
FIRST_BYTES = 16 << 10
GROWTH = 16
MOST_BYTES = 8 << 20
MOST_TRAINS = 8
SHORTEST_PART = 0.25
"""Least duration of a train that counts, as a part of the time to measure for."""


class LinkProbe:
    """The sending side: one measurement. Pure; time comes with each call."""

    def __init__(self, seconds: float, first_train: int = 0) -> None:
        """Measures for about ``seconds``; its trains are numbered from ``first_train``."""
        self._seconds = seconds
        self._train = first_train - 1
        self._train_bytes = 0
        self._began = 0.0
        self._round_trips: list[float] = []
        self._rates: list[float] = []
        self._counted: list[float] = []

    @property
    def next_train(self) -> int:
        """The number that no train has had so far."""
        return self._train + 1

    def start(self, now: float) -> list[Probe]:
        """The first messages to send."""
        return self._probes(1, 1, now)

    def echoed(self, echo: ProbeEcho, now: float) -> list[Probe] | tuple[float, float]:
        """The next messages, or the result: bits a second, and seconds of latency.

        Raises:
            RemoteError: it is no echo of the latest train.
        """
        if echo.train != self._train:
            raise RemoteError(f"echo of train {echo.train} of probes instead of {self._train}")
        if len(self._round_trips) < PINGS:
            self._round_trips.append(now - self._began)
            if len(self._round_trips) < PINGS:
                return self._probes(1, 1, now)
            return self._send(FIRST_BYTES, now)
        # All but the first message came in that time; no clock tells less than a microsecond.
        seconds = max(echo.seconds, 1e-6)
        self._rates.append(8 * self._train_bytes * (MESSAGES - 1) / MESSAGES / seconds)
        if seconds >= SHORTEST_PART * self._seconds / TRAINS or self._train_bytes >= MOST_BYTES:
            self._counted.append(self._rates[-1])
        if len(self._counted) >= TRAINS or len(self._rates) >= MOST_TRAINS:
            return self._result()
        if self._counted and now - self._began > self._seconds:
            return self._result()  # one train alone took longer than all were meant to
        wanted = int(self._rates[-1] / 8 * self._seconds / TRAINS)
        return self._send(min(wanted, GROWTH * self._train_bytes, MOST_BYTES), now)

    def _result(self) -> tuple[float, float]:
        return max(self._counted or self._rates[-1:]), min(self._round_trips) / 2

    def _send(self, size: int, now: float) -> list[Probe]:
        payload_bytes = max(1, size // MESSAGES)
        self._train_bytes = MESSAGES * payload_bytes
        return self._probes(MESSAGES, payload_bytes, now)

    def _probes(self, count: int, payload_bytes: int, now: float) -> list[Probe]:
        self._train += 1
        self._began = now
        payload = np.zeros(payload_bytes, np.uint8)
        return [
            Probe(train=self._train, index=index, count=count, payload=payload)
            for index in range(count)
        ]


class LinkProber:
    """A device's part in measurements: its own, and those of its peers. I/O thread only."""

    def __init__(self, outbox: Outbox, clock: Callable[[], float] = time.perf_counter) -> None:
        """``clock`` tells seconds since any time."""
        self._outbox, self._clock = outbox, clock
        self._own: tuple[DeviceId, LinkProbe, Tag] | None = None
        self._outdated = 0
        self._first: dict[DeviceId, float] = {}

    def begin(self, request: ProbeLink) -> None:
        """Starts to measure the link to a peer; the coordinator gets the result."""
        self._end()
        probe = LinkProbe(request.seconds, self._outdated)
        self._own = request.peer, probe, current_tag()
        self._send(request.peer, probe.start(self._clock()))

    def take(self, peer: DeviceId, message: Probe | ProbeEcho) -> None:
        """Handles a peer's probe, or its echo of an own one.

        Raises:
            RemoteError: nobody asked for it.
        """
        now = self._clock()
        if isinstance(message, Probe):
            if message.index == 0:
                self._first[peer] = now
            if message.index == message.count - 1:
                seconds = now - self._first.get(peer, now)
                self._outbox.to_peer(peer, ProbeEcho(train=message.train, seconds=seconds))
            return
        if message.train < self._outdated:
            return  # of a measurement that was given up for another
        if self._own is None or self._own[0] != peer:
            raise RemoteError("an echo of probes that were not sent")
        _, probe, tag = self._own
        following = probe.echoed(message, now)
        if isinstance(following, list):
            self._send(peer, following)
            return
        self._end()
        rate, latency = following
        with tagged(tag):
            self._outbox.to_coordinator(
                LinkMeasured(peer=peer, bits_per_second=rate, latency_seconds=latency)
            )

    def _end(self) -> None:
        """Ends the present measurement; echoes of its trains mean nothing from now on."""
        if self._own is not None:
            self._outdated, self._own = self._own[1].next_train, None

    def _send(self, peer: DeviceId, probes: list[Probe]) -> None:
        for probe in probes:
            self._outbox.to_peer(peer, probe)
