"""Sums gradients over trainers: reduce-scatter, then all-gather, over the encrypted mesh.

Of n trainers, trainer j reduces part j of the flat gradient. Everyone sends it that part,
it adds the parts in the order of the trainers (so the sum has the same bits everywhere,
whoever was first), and sends the sum to everyone. Each trainer sends and receives
2 (n - 1) / n of the gradient a step, whatever n is.

A step's parts may arrive while this trainer still computes its own gradient; a peer can
be at most one step ahead, since it cannot pass a step without everyone's part.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from .contract.errors import PacplusError, RemoteError
from .contract.ids import DeviceId
from .contract.messages import GradientPart, ReducedPart

Array: TypeAlias = np.ndarray[Any, Any]
Part: TypeAlias = GradientPart | ReducedPart


class ExchangeClosedError(PacplusError):
    """The session ended while a step waited for its peers."""


class GradientExchange:
    """One trainer's side. ``reduce`` runs in the compute thread, ``deliver`` in the I/O thread."""

    def __init__(
        self,
        *,
        me: DeviceId,
        trainers: Sequence[DeviceId],
        size: int,
        send: Callable[[DeviceId, Part], None],
    ) -> None:
        """Sets the parts.

        Args:
            me: this trainer.
            trainers: all trainers, in the session's order.
            size: number of values in the flat gradient.
            send: hands a message over for sending; must not block for long.

        Raises:
            RemoteError: this device is not among the trainers.
        """
        if me not in trainers:
            raise RemoteError("a device was told to train but is not among the trainers")
        self._me, self._trainers, self._send = me, tuple(trainers), send
        self._peers = [trainer for trainer in trainers if trainer != me]
        bounds = np.linspace(0, size, len(trainers) + 1).astype(int)
        self._parts = {
            trainer: slice(int(bounds[i]), int(bounds[i + 1])) for i, trainer in enumerate(trainers)
        }
        self._inbox: dict[tuple[type[Part], int, DeviceId], Part] = {}
        self._step = 0
        self._closed = False
        self._changed = threading.Condition()

    def deliver(self, sender: DeviceId, part: Part) -> None:
        """Takes in a peer's message.

        Raises:
            RemoteError: not a peer, a step out of turn, twice the same, or a wrong size.
        """
        owner = self._me if isinstance(part, GradientPart) else sender
        place = self._parts[owner] if sender in self._peers else slice(0, 0)
        key = (type(part), part.step, sender)
        with self._changed:
            timely = self._step <= part.step <= self._step + 1
            if sender not in self._peers or not timely or key in self._inbox:
                raise RemoteError(f"unexpected gradient part of step {part.step}")
            if part.values.shape != (place.stop - place.start,):
                raise RemoteError(f"gradient part of {part.values.shape} values")
            self._inbox[key] = part
            self._changed.notify_all()

    def reduce(self, gradient: Array) -> None:
        """Replaces ``gradient``, (P,) float32, by its sum over all trainers.

        Blocks until every peer has taken part in the step.

        Raises:
            ExchangeClosedError: the session ended first.
        """
        step = self._step
        for peer in self._peers:
            values, scale = shrink(gradient[self._parts[peer]])
            self._send(peer, GradientPart(step=step, values=values, scale=scale))
        mine = self._parts[self._me]
        total = np.zeros(mine.stop - mine.start, np.float32)
        for trainer in self._trainers:
            # One's own part is rounded like the others', or the sum would depend on who sums.
            part = (
                shrink(gradient[mine])
                if trainer == self._me and self._peers
                else self._take(GradientPart, step, trainer)
                if trainer != self._me
                else (gradient[mine], 1.0)
            )
            grow_into(total, *part)
        values, scale = shrink(total) if self._peers else (total, 1.0)
        for peer in self._peers:
            self._send(peer, ReducedPart(step=step, values=values, scale=scale))
        gradient[:] = 0
        grow_into(gradient[mine], values, scale)
        for peer in self._peers:
            grow_into(gradient[self._parts[peer]], *self._take(ReducedPart, step, peer))
        with self._changed:
            self._step += 1

    def _take(self, kind: type[Part], step: int, sender: DeviceId) -> tuple[Array, float]:
        key = (kind, step, sender)
        with self._changed:
            self._changed.wait_for(lambda: key in self._inbox or self._closed)
            if key not in self._inbox:
                raise ExchangeClosedError("the session ended during a training step")
            part = self._inbox.pop(key)
        return part.values, part.scale

    def close(self) -> None:
        """Makes a waiting ``reduce`` raise."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def shrink(values: Array) -> tuple[Array, float]:
    """Rounds (n,) float32 to float16 under one power-of-two scale: half the bytes.

    The largest value lands within a factor of two below 2^15, so nothing overflows, and
    what falls below 2^-24 of that scale is lost, as it would be in the float32 sum.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(largest):
        raise PacplusError("the gradient is not finite; lower the learning rate")
    exponent = 14 - int(np.frexp(np.float32(largest))[1]) if largest else 0
    scale = float(2.0 ** max(-120, min(120, exponent)))
    return (values * np.float32(scale)).astype(np.float16), scale


def grow_into(total: Array, values: Array, scale: float) -> None:
    """Adds what :func:`shrink` made to ``total``, (n,) float32."""
    total += values.astype(np.float32) * np.float32(1 / scale)
