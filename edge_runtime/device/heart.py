"""Tells the coordinator that this device lives, in which condition, and when it needs relief."""

import dataclasses
from collections.abc import Callable

from edge_runtime.contract.messages import Heartbeat, Message, Relief
from edge_runtime.contract.messages.telemetry import CELSIUS
from edge_runtime.system.usage import available_memory_bytes, resident_bytes

from .condition import ConditionWatch

CONDITION_SECONDS = 10.0
"""Memory is read so often; heartbeats in between repeat what was read."""


class Heart:
    """Beats for one session. I/O thread only.

    Attributes:
        period_seconds: between heartbeats.
    """

    def __init__(self, say: Callable[[Message], None], watch: ConditionWatch | None) -> None:
        """Without a ``watch`` nothing but memory is told, and no relief asked for."""
        self._say, self._watch = say, watch
        self._beaten: float | None = None
        self._read: float | None = None
        self._memory = Heartbeat()
        self._asked = False
        self.period_seconds = 2.0

    def welcomed(self, period_seconds: float) -> None:
        """Begins anew for a coordinator that has just let this device in."""
        self.period_seconds, self._asked = period_seconds, False

    def beat(self, now: float, *, joined: bool) -> None:
        """Sends a heartbeat if it is time, and asks for relief, or no longer; once joined."""
        if self._watch is not None:
            self._watch.look(now)
            if joined and bool(self._watch.reason) != self._asked:
                self._asked = bool(self._watch.reason)
                self._say(Relief(reason=self._watch.reason))
        if self._beaten is None:
            self._beaten = now
        elif now - self._beaten >= self.period_seconds:
            self._beaten = now
            if joined:  # otherwise nobody expects to hear of this device
                self._say(self._heartbeat(now))

    def _heartbeat(self, now: float) -> Heartbeat:
        if self._read is None or now - self._read >= CONDITION_SECONDS:
            self._read = now
            self._memory = Heartbeat(
                resident_bytes=resident_bytes(), available_bytes=available_memory_bytes()
            )
        if self._watch is None:
            return self._memory
        seen = self._watch.condition
        celsius = seen.celsius
        return dataclasses.replace(
            self._memory,
            battery=None if seen.battery is None else min(1.0, max(0.0, seen.battery)),
            charging=seen.charging,
            celsius=None if celsius is None else min(CELSIUS[1], max(CELSIUS[0], celsius)),
        )
