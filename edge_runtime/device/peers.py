"""Connects to the session's other devices and dispatches what they send."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from edge_runtime.backbone.role import BackboneRole
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import RemoteError, UserError
from edge_runtime.contract.generation import Sequences
from edge_runtime.contract.ids import DeviceId
from edge_runtime.messaging.failures import explain
from edge_runtime.messaging.session_link import SessionLink
from edge_runtime.profiling.link import LinkProber
from edge_runtime.training.role import TrainerRole

from .compute_thread import Job, Worker

logger = logging.getLogger(__name__)

REACH_PEERS_SECONDS = 10.0
"""All get the list of peers at the same time; one that is not there by then has a firewall."""


class PeerDispatch:
    """The I/O thread's part in what devices say to each other."""

    def __init__(
        self,
        link: SessionLink,
        worker: Worker,
        *,
        backbone: BackboneRole,
        trainer: TrainerRole,
        prober: LinkProber,
    ) -> None:
        self._link, self._worker = link, worker
        self._backbone, self._trainer = backbone, trainer
        self._reach_until: float | None = None
        self._at_once: dict[type[m.Message], Callable[[DeviceId, Any], None]] = {
            m.States: lambda _, states: trainer.store(states),
            m.Probe: prober.take,
            m.ProbeEcho: prober.take,
            m.GradientPart: trainer.deliver,
            m.ReducedPart: trainer.deliver,
        }

    def connect(self, request: m.Peers) -> None:
        """Admits these peers and no others; :meth:`watch` answers."""
        self._link.set_peers(request.peers)
        self._reach_until = time.monotonic() + REACH_PEERS_SECONDS

    def watch(self, now: float) -> None:
        """Answers ``Peers`` once all are reached or time is up; tells of connections lost since."""
        for peer in self._link.take_lost(now):
            reason = f"the connection to {peer} broke and could not be made again"
            self._link.to_coordinator(m.PeerLost(peer=peer, reason=reason))
        if self._reach_until is None:
            return
        unreached = self._link.unreached_peers()
        if unreached and now <= self._reach_until:
            return
        for peer, address in unreached.items():
            logger.info("cannot reach %s at %s; check its firewall or its --listen", peer, address)
        self._link.to_coordinator(m.PeersReady(unreached=tuple(unreached)))
        self._reach_until = None

    def receive(self, peer: DeviceId, message: m.Message, size: int) -> None:
        """Handles a message of ``size`` bytes; heavy work is queued, and credited when done."""
        match message:
            case m.Activations():
                run = partial(self._backbone.run, message.batch, message.stage, message.rows)
                self._worker.submit(partial(self._run_and_credit, run, peer, size))
            case m.States(sequences=Sequences()):
                keep = partial(self._trainer.keep, message)
                self._worker.submit(partial(self._run_and_credit, keep, peer, size))
            case _:
                self._handle(peer, message)
                self._link.acknowledge(peer, size)

    def _handle(self, peer: DeviceId, message: m.Message) -> None:
        try:
            handler = self._at_once.get(type(message))
            if handler is None:
                raise RemoteError(f"{type(message).__name__} is not for peers to send")
            handler(peer, message)
        except (RemoteError, UserError, OSError) as error:
            # Whoever waits for what the message should have brought would wait for ever.
            failed = explain(error, f"rejected a message of {peer}: ")
            logger.info("%s", failed.reason)
            self._link.to_coordinator(failed)

    def _run_and_credit(self, job: Job, peer: DeviceId, size: int) -> None:
        """Credits only now: until then, the message takes memory here."""
        try:
            job()
        finally:
            self._link.credit_later(peer, size)
