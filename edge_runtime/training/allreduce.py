"""Sums gradients over trainers: reduce-scatter, then all-gather, over the encrypted mesh.

Of n trainers, trainer j reduces part j of the flat gradient: everyone sends it that part, it
adds the parts in the order of the trainers (so that the sum has the same bits everywhere) and
sends the sum to everyone. Each trainer sends and receives 2 (n - 1) / n of the gradient a
step. A part comes with the count, of samples or tokens, that it is summed over, so that all
divide by the same global count.

A step's parts may arrive while this trainer still computes its own gradient; a peer can
be at most one step ahead, since it cannot pass a step without everyone's part.
"""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias, TypeVar

import numpy as np

from edge_runtime.contract.errors import AllReduceClosedError, RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages import Array, GradientPart, ReducedPart

IMPLAUSIBLE = 1e4
"""A trainer's mean gradient is refused where it is so many times as large as any of the others'
and as 1. Samples differ by far less; what is scaled wrong on purpose may differ by less too, which
nobody can tell from an odd sample."""

MAX_SCALE = 2.0**120

Part: TypeAlias = GradientPart | ReducedPart
P = TypeVar("P", GradientPart, ReducedPart)


class Rounding(Protocol):
    """Encodes values for the way; :class:`.parallel_adapters.rounding.HalfPrecision` in truth."""

    def shrink(self, values: Array) -> tuple[Array, float]:
        """Encodes (n,) float32; returns the code, element by element, and its scale."""

    def add(self, total: Array, values: Array, scale: float) -> None:
        """Adds what :meth:`shrink` made to ``total``, (n,) float32."""


class AllReduce:
    """One trainer's side. ``reduce`` runs in the compute thread, ``deliver`` in the I/O thread."""

    def __init__(
        self,
        *,
        me: DeviceId,
        trainers: Sequence[DeviceId],
        size: int,
        send: Callable[[DeviceId, Part], None],
        rounding: Rounding,
    ) -> None:
        """Divides ``size`` values of a flat gradient among ``trainers``, in the session's order.

        ``send`` hands a message over and must not block for long.

        Raises:
            RemoteError: ``me`` is not among the trainers.
        """
        if me not in trainers:
            raise RemoteError("a device was told to train but is not among the trainers")
        self._me, self._trainers, self._send = me, tuple(trainers), send
        self._rounding = rounding
        self._peers = [trainer for trainer in trainers if trainer != me]
        bounds = np.linspace(0, size, len(trainers) + 1).astype(int).tolist()
        parts = map(slice, bounds, bounds[1:])
        self._parts = dict(zip(trainers, parts, strict=True))
        self._inbox: dict[tuple[type[Part], int, DeviceId], Part] = {}
        self._largest: dict[DeviceId, float] = {me: 0.0}
        """Largest value of a sample's mean gradient, by trainer."""
        self._step, self._closed = 0, False
        self._changed = threading.Condition()

    def deliver(self, sender: DeviceId, part: Part) -> None:
        """Takes in a peer's message.

        Raises:
            RemoteError: not a peer, a step out of turn, twice the same, a wrong size, not finite,
                or implausibly large.
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
            if part.values.dtype != np.float16 or not _is_scale(part.scale):
                raise RemoteError("gradient part of another dtype or without a scale")
            if not math.isfinite(largest := _largest(part)):
                raise RemoteError(f"gradient part of step {part.step} that is not finite")
            if isinstance(part, GradientPart):
                self._check_size(sender, part, largest)
            self._inbox[key] = part
            self._changed.notify_all()

    def _check_size(self, sender: DeviceId, part: GradientPart, largest: float) -> None:
        """Compares a part with all that the other trainers have sent so far."""
        others = (size for trainer, size in self._largest.items() if trainer != sender)
        mean = largest / max(1, part.count)
        if mean > IMPLAUSIBLE * max(1.0, *others, 0.0):
            raise RemoteError(f"gradient part of step {part.step} with values of {mean:.3g}")
        self._largest[sender] = max(self._largest.get(sender, 0.0), mean)

    def reduce(self, gradient: Array, count: int, samples: int | None = None) -> int:
        """Replaces ``gradient``, (P,) float32, by its sum over all trainers.

        Blocks until every peer has taken part in the step.

        Args:
            gradient: of this trainer's summed loss.
            count: samples, or counted tokens, that the loss is summed over.
            samples: of all trainers in this step, where counts are samples.

        Returns:
            The counts of all trainers together.

        Raises:
            AllReduceClosedError: the session ended first.
            RemoteError: the counts do not add up to ``samples``.
            PacplusError: the gradient is not finite.
        """
        if not self._peers:
            return count
        step = self._step
        rounded, scale = self._rounding.shrink(gradient)
        for peer in self._peers:
            values = rounded[self._parts[peer]]
            self._send(peer, GradientPart(step=step, values=values, count=count, scale=scale))
        mine = gradient[self._parts[self._me]]
        # One's own part is rounded like the others', or the sum would depend on who sums.
        own = rounded[self._parts[self._me]].copy()
        parts = {self._me: GradientPart(step=step, values=own, count=count, scale=scale)}
        mean = _largest(parts[self._me]) / max(1, count)
        self._largest[self._me] = max(self._largest[self._me], mean)
        for peer in self._peers:
            parts[peer] = self._take(GradientPart, step, peer)
        _check_counts({name: part.count for name, part in parts.items()}, samples, self._me)
        mine[:] = 0
        for trainer in self._trainers:
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
            self._step += 1
        return sum(part.count for part in parts.values())

    def _take(self, kind: type[P], step: int, sender: DeviceId) -> P:
        key = (kind, step, sender)
        with self._changed:
            self._changed.wait_for(lambda: key in self._inbox or self._closed)
            if key not in self._inbox:
                raise AllReduceClosedError("the session ended during a training step")
            part = self._inbox.pop(key)
        assert isinstance(part, kind)
        return part

    def close(self) -> None:
        """Makes a waiting ``reduce`` raise."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def _is_scale(scale: float) -> bool:
    """Tells whether ``scale`` is a power of two that a trainer may have rounded with."""
    return 1 / MAX_SCALE <= scale <= MAX_SCALE and math.frexp(scale)[0] == 0.5


def _largest(part: Part) -> float:
    """The largest magnitude of a part; infinite if a value is not finite."""
    # As integers: the bits of magnitudes are in their order, and numpy compares them faster.
    bits = np.bitwise_and(part.values.view(np.uint16), np.uint16(0x7FFF)).max(initial=0)
    largest = float(np.uint16(bits).view(np.float16))
    return largest / part.scale if math.isfinite(largest) else math.inf


def _check_counts(counts: Mapping[DeviceId, int], samples: int | None, me: DeviceId) -> None:
    """Raises RemoteError unless ``counts`` add up to ``samples``; names who must be wrong."""
    if samples is None or (total := sum(counts.values())) == samples:
        return
    rest = samples - counts[me]
    liars = [name for name in counts if name != me and (counts[name] > rest or len(counts) == 2)]
    who = liars[0] if liars else "a trainer"
    raise RemoteError(f"{who} sent a wrong count: {total} samples in a step of {samples}")
