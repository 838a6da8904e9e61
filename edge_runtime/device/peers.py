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
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.messaging.failures import explain
from edge_runtime.messaging.session_link import SessionLink
from edge_runtime.messaging.tagging import current_tag, tagged
from edge_runtime.profiling.link import LinkProber
from edge_runtime.training.role import TrainerRole

from .compute_thread import Job, Worker
from .standing import Standing

logger = logging.getLogger(__name__)

REACH_PEERS_SECONDS = 10.0
"""All get the list of peers at the same time; one that is not there by then has a firewall."""


class PeerDispatch:
    """The I/O thread's part in what devices say to each other."""

    def __init__(
        self,
        link: SessionLink,
        worker: Worker,
        standing: Standing,
        *,
        backbone: BackboneRole,
        trainer: TrainerRole,
        prober: LinkProber,
    ) -> None:
        self._link, self._worker, self._standing = link, worker, standing
        self._backbone, self._trainer = backbone, trainer
        self._reach_until: float | None = None
        self._asked: list[Tag] = []
        self._parked: list[tuple[DeviceId, Tag, m.Message, int]] = []
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
        self._asked.append(current_tag())
        self._reach_until = time.monotonic() + REACH_PEERS_SECONDS

    def watch(self, now: float) -> None:
        """Answers ``Peers`` once all are reached or time is up; tells of connections lost since."""
        for peer in self._link.take_lost(now):
            reason = f"the connection to {peer} broke and could not be made again"
            with tagged(self._standing.tag):
                self._link.to_coordinator(m.PeerLost(peer=peer, reason=reason))
        if self._reach_until is None:
            return
        unreached = self._link.unreached_peers()
        if unreached and now <= self._reach_until:
            return
        for peer, address in unreached.items():
            logger.info("cannot reach %s at %s; check its firewall or its --listen", peer, address)
        for tag in self._asked:
            with tagged(tag):
                self._link.to_coordinator(m.PeersReady(unreached=tuple(unreached)))
        self._asked.clear()
        self._reach_until = None

    def begin_term(self) -> None:
        """Takes in what waited for this term, and forgets requests of earlier ones."""
        self._asked = [tag for tag in self._asked if self._standing.admits(tag)]
        parked, self._parked = self._parked, []
        for item in parked:  # those of terms that are still to come wait again
            self.receive(*item)

    def receive(self, peer: DeviceId, tag: Tag, message: m.Message, size: int) -> None:
        """Handles a message of ``size`` bytes; heavy work is queued, and credited when done."""
        match self._standing.of_peer(tag):
            case "take":
                with tagged(tag):
                    self._receive(peer, message, size)
            case "later":  # credit bounds how much
                self._parked.append((peer, tag, message, size))
            case _:
                logger.debug("dropped a late %s of %s", type(message).__name__, peer)
                self._link.acknowledge(peer, size)

    def _receive(self, peer: DeviceId, message: m.Message, size: int) -> None:
        match message:
            case m.Activations():
                run = partial(self._backbone.run, message.batch, message.stage, message.rows)
                self._submit(run, peer, size)
            case m.States(sequences=Sequences()):
                self._submit(partial(self._trainer.keep, message), peer, size)
            case _:
                self._handle(peer, message)
                self._link.acknowledge(peer, size)

    def _submit(self, job: Job, peer: DeviceId, size: int) -> None:
        """Credits only when the job is over: until then, the message takes memory here."""
        credit = partial(self._link.credit_later, peer, size)
        self._worker.submit(partial(self._run, job, peer), after=credit)

    def _run(self, job: Job, peer: DeviceId) -> None:
        try:
            job()
        except RemoteError as error:
            self.reject(peer, str(error))

    def _handle(self, peer: DeviceId, message: m.Message) -> None:
        try:
            handler = self._at_once.get(type(message))
            if handler is None:
                raise RemoteError(f"{type(message).__name__} is not for peers to send")
            handler(peer, message)
        except RemoteError as error:
            self.reject(peer, str(error))
        except (UserError, OSError) as error:
            # Whoever waits for what the message should have brought would wait for ever.
            failed = explain(error, f"could not take in a message of {peer}: ")
            logger.info("%s", failed.reason)
            self._link.to_coordinator(failed)

    def reject(self, peer: DeviceId, reason: str) -> None:
        """Tells the coordinator who is to blame; this device goes on."""
        logger.info("rejected a message of %s: %s", peer, reason)
        with tagged(self._standing.tag):
            self._link.to_coordinator(m.Rejected(peer=peer, reason=reason))
