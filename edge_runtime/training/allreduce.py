"""Sums gradients over trainers: reduce-scatter, then all-gather, over the encrypted mesh.

Of n trainers, trainer j reduces part j of the flat gradient: everyone sends it that part, it
adds the parts in the order of the trainers (so that the sum has the same bits everywhere) and
sends the sum to everyone. Each trainer sends and receives 2 (n - 1) / n of the gradient a
step. A part comes with its sender's samples, count and loss, so that all divide by the same
global count and know what the whole group has trained on.

A step's parts may arrive while this trainer still computes its own gradient; a peer can
be at most one step ahead, since it cannot pass a step without everyone's part. A group is of
one term: its trainers do not change, and it ends with the term.
"""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

from edge_runtime.contract.errors import AllReduceClosedError, RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Array, GradientPart, ReducedPart

from .part_checks import Limits, Part, PartChecks, liars

P = TypeVar("P", GradientPart, ReducedPart)

AWAITING_SECONDS = 3.0
"""A step that waits longer for others says so, and again after as long."""


class Rounding(Protocol):
    """Encodes values for the way; :class:`.parallel_adapters.rounding.HalfPrecision` in truth."""

    def shrink(self, values: Array) -> tuple[Array, float]:
        """Encodes (n,) float32; returns the code, element by element, and its scale."""

    def add(self, total: Array, values: Array, scale: float) -> None:
        """Adds what :meth:`shrink` made to ``total``, (n,) float32."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What a trainer, or all of them, put into a step.

    Attributes:
        samples: trained on.
        count: divisor of a mean loss: samples, or counted tokens.
        loss_sum: over the samples.
    """

    samples: int = 0
    count: int = 0
    loss_sum: float = 0.0


class AllReduce:
    """One trainer's side. ``reduce`` runs in the compute thread, ``deliver`` in the I/O thread.

    Attributes:
        step: update that comes next, counted from 0.
        trainers: of the group, in the order that fixes who reduces which part.
    """

    def __init__(
        self,
        *,
        me: DeviceId,
        trainers: Sequence[DeviceId],
        size: int,
        send: Callable[[DeviceId, Part], None],
        rounding: Rounding,
        limits: Limits,
        step: int = 0,
        report: Callable[[int, tuple[DeviceId, ...]], None],
        reject: Callable[[DeviceId, str], None],
    ) -> None:
        """Divides ``size`` values of a flat gradient among ``trainers``, in the session's order.

        ``send`` hands a message over and must not block for long. ``report`` is told which
        step waits for whom when that takes long, ``reject`` who has sent what is wrong.

        Raises:
            RemoteError: ``me`` is not among the trainers.
        """
        if me not in trainers:
            raise RemoteError("a device was told to train but is not among the trainers")
        self._me, self.trainers, self._send = me, tuple(trainers), send
        self._rounding, self._checks = rounding, PartChecks(limits)
        self._report, self._reject = report, reject
        self._peers = [trainer for trainer in trainers if trainer != me]
        bounds = np.linspace(0, size, len(trainers) + 1).astype(int).tolist()
        parts = map(slice, bounds, bounds[1:])
        self._parts = dict(zip(trainers, parts, strict=True))
        self._inbox: dict[tuple[type[Part], int, DeviceId], Part] = {}
        self.step, self._closed = step, False
        self._changed = threading.Condition()

    def deliver(self, sender: DeviceId, part: Part) -> None:
        """Takes in a peer's message.

        Raises:
            RemoteError: not a peer, a step out of turn, twice the same, or what cannot be.
        """
        if sender not in self._peers:
            raise RemoteError("gradient part of a device that does not train with this one")
        place = self._parts[self._me if isinstance(part, GradientPart) else sender]
        key = (type(part), part.step, sender)
        with self._changed:
            timely = self.step <= part.step <= self.step + 1
            if not timely or key in self._inbox:
                raise RemoteError(f"unexpected gradient part of step {part.step}")
            self._checks.check(sender, part, place.stop - place.start)
            if isinstance(part, GradientPart):
                self._checks.note(sender, part)
            self._inbox[key] = part
            self._changed.notify_all()

    def reduce(self, gradient: Array, own: Contribution, samples: int) -> Contribution:
        """Replaces ``gradient``, (P,) float32, by its sum over all trainers.

        Blocks until every peer has taken part in the step.

        Args:
            gradient: of this trainer's summed loss.
            own: what that loss is summed over.
            samples: of the step, over all trainers.

        Returns:
            The contributions of all trainers together.

        Raises:
            AllReduceClosedError: the term or the session ended first.
            RemoteError: the others' samples and one's own are not the step's.
            PacplusError: the gradient is not finite.
        """
        self.check_open()
        step = self.step
        if not self._peers:
            if own.samples != samples:
                raise RemoteError(f"{own.samples} samples in a step of {samples}")
            self.step += 1
            return own
        rounded, scale = self._rounding.shrink(gradient)
        for peer in self._peers:
            self._send(peer, _part(step, rounded[self._parts[peer]], scale, own))
        mine = gradient[self._parts[self._me]]
        # One's own part is rounded like the others', or the sum would depend on who sums.
        parts = {self._me: _part(step, rounded[self._parts[self._me]].copy(), scale, own)}
        with self._changed:
            self._checks.note(self._me, parts[self._me])
        for peer in self._peers:
            parts[peer] = self._take(GradientPart, step, peer)
        self._check_samples({name: part.samples for name, part in parts.items()}, samples)
        mine[:] = 0
        for trainer in self.trainers:
            self._rounding.add(mine, parts[trainer].values, parts[trainer].scale)
        total, scale = self._rounding.shrink(mine)
        for peer in self._peers:
            self._send(peer, ReducedPart(step=step, values=total, scale=scale))
        gradient[:] = 0
        self._rounding.add(mine, total, scale)
        for peer in self._peers:
            reduced = self._take(ReducedPart, step, peer)
            self._rounding.add(gradient[self._parts[peer]], reduced.values, reduced.scale)
        with self._changed:
            self.step += 1
        in_order = [parts[trainer] for trainer in self.trainers]
        return Contribution(
            samples=sum(part.samples for part in in_order),
            count=sum(part.count for part in in_order),
            loss_sum=sum(part.loss_sum for part in in_order),
        )

    def _check_samples(self, given: dict[DeviceId, int], samples: int) -> None:
        if sum(given.values()) == samples:
            return
        reason = f"{sum(given.values())} samples in a step of {samples}"
        found = liars(given, samples, self._me)
        if not found:
            raise RemoteError(f"a trainer sent a wrong number of samples: {reason}")
        for name in found:
            self._reject(name, f"{given[name]} of {reason}")
        with self._changed:
            self._changed.wait_for(lambda: self._closed)
        self.check_open()

    def _take(self, kind: type[P], step: int, sender: DeviceId) -> P:
        key = (kind, step, sender)
        while not self._has(key):
            self._report(step, self._missing(key))
        with self._changed:
            part = self._inbox.pop(key)
        assert isinstance(part, kind)
        return part

    def _has(self, key: tuple[type[Part], int, DeviceId]) -> bool:
        """Waits for a part; False if it has not come for some time."""
        with self._changed:
            self._changed.wait_for(lambda: key in self._inbox or self._closed, AWAITING_SECONDS)
            if self._closed:
                raise AllReduceClosedError("a training step was given up")
            return key in self._inbox

    def _missing(self, key: tuple[type[Part], int, DeviceId]) -> tuple[DeviceId, ...]:
        """Names whose part has not come, of those that have not been taken before ``key``."""
        kind, step, sender = key
        untaken = self._peers[self._peers.index(sender) :]
        with self._changed:
            return tuple(peer for peer in untaken if (kind, step, peer) not in self._inbox)

    def check_open(self) -> None:
        """Raises AllReduceClosedError once the group has ended."""
        if self._closed:
            raise AllReduceClosedError("a training step was given up")

    def close(self) -> None:
        """Makes a waiting ``reduce`` raise, and every later one."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _part(step: int, values: Array, scale: float, own: Contribution) -> GradientPart:
    return GradientPart(
        step=step,
        values=values,
        scale=scale,
        count=own.count,
        samples=own.samples,
        loss_sum=own.loss_sum,
    )
