"""The device process: takes requests and activations in, has them worked on, answers.

Two threads. This one owns the sockets and never computes; the worker computes and never
touches a socket. Messages from a peer are credited once they are dealt with.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import edge_runtime
from edge_runtime.backbone.role import BackboneRole
from edge_runtime.contract.errors import RemoteError, StoppedError, UserError
from edge_runtime.contract.generation import Sequences
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import FileSpec
from edge_runtime.contract.messages import (
    Activations,
    BeginPhase,
    Evaluate,
    Failed,
    FileChunk,
    GenerationReady,
    GradientPart,
    Heartbeat,
    Hello,
    LoadStage,
    Message,
    MoveSamples,
    OpenCache,
    OwnSamples,
    Peers,
    PeersReady,
    Probe,
    ProbeEcho,
    ProbeLink,
    ProfileDone,
    ProfileRequest,
    ReducedPart,
    Release,
    RunBatch,
    SendState,
    SetUpGeneration,
    SetUpTraining,
    Shutdown,
    StageReady,
    States,
    TrainEpoch,
    Usage,
    Welcome,
)
from edge_runtime.contract.profile import Role
from edge_runtime.inference.weight_store import FileFetch, WeightStore
from edge_runtime.messaging.session_link import SessionLink
from edge_runtime.profiling.link import LinkProber
from edge_runtime.profiling.profiler import remeasure
from edge_runtime.profiling.subprocess import measure_in_subprocess
from edge_runtime.system.usage import CpuClock, peak_resident_bytes, usable_cores
from edge_runtime.training.role import TrainerRole
from edge_runtime.transport import Address

from .compute_thread import Worker

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 30.0
REACH_PEERS_SECONDS = 30.0
REFUSED_SECONDS = 8.0
SILENCE_SECONDS = 30.0
STOP_SECONDS = 5.0

Ended = Literal["shutdown", "disconnected"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """What this process is.

    Attributes:
        device: its id at the coordinator.
        home: where its files are.
        roles: what it offers.
        threads: the most that it computes with.
        data_address: where peers reach it; the port is filled in.
        process_id: of this process.
    """

    device: DeviceId
    home: Path
    roles: tuple[Role, ...]
    threads: int
    data_address: Address
    process_id: int


@dataclasses.dataclass(slots=True)
class _Fetching:
    fetch: FileFetch
    then: Callable[[], None]


class Device:
    """One device in one session."""

    def __init__(self, options: DeviceOptions, link: SessionLink) -> None:
        self._options, self._link = options, link
        self._store = WeightStore(options.home / "weights")
        self._clock = CpuClock()
        self._worker = Worker(lambda reason: link.to_coordinator(Failed(reason=reason)))
        self._trainer = TrainerRole(me=options.device, home=options.home, outbox=link)
        self._backbone = BackboneRole(
            me=options.device, threads=options.threads, outbox=link, keep=self._trainer.keep
        )
        self._prober = LinkProber(link)
        self._fetching: _Fetching | None = None
        self._received_weight_bytes = 0
        self._heartbeat_seconds = 2.0
        self._reach_peers_until: float | None = None
        self._welcomed = False
        self._over = False

    def run(self) -> Ended:
        """Serves until the coordinator ends the session or is gone.

        Raises:
            StoppedError: the coordinator could not be reached at all.
        """
        began = heard = beaten = time.monotonic()
        try:
            while not self._over:
                self._link.wait(self._heartbeat_seconds / 4)
                now = time.monotonic()
                if self._link.take_connected():
                    self._link.to_coordinator(self._hello())
                if self._take_in():
                    heard = now
                self._answer_peers(now)
                if now - beaten >= self._heartbeat_seconds:
                    beaten = now
                    self._link.to_coordinator(Heartbeat())
                if self._link.connected:
                    heard = max(heard, now - 1.0)
                elif now - heard > SILENCE_SECONDS and self._welcomed:
                    return "disconnected"
                # A coordinator that answers but refuses will not know this device later either.
                patience = REFUSED_SECONDS if self._link.failed_handshakes else CONNECT_SECONDS
                if not self._welcomed and now - began > patience:
                    raise StoppedError(self._explain_silence())
            return "shutdown"
        finally:
            self._trainer.close()
            self._link.set_peers(())
            self._worker.stop(STOP_SECONDS)

    def _hello(self) -> Hello:
        address = dataclasses.replace(self._options.data_address, port=self._link.data_address.port)
        return Hello(
            software=edge_runtime.__version__,
            roles=self._options.roles,
            data_address=address.endpoint,
            process_id=self._options.process_id,
            threads=self._options.threads,
            cores=usable_cores(),
        )

    def _explain_silence(self) -> str:
        if self._link.failed_handshakes:
            return "the coordinator no longer knows this device; pair it again"
        return "the coordinator does not answer; start `pacplus train` there, or check the network"

    def _take_in(self) -> bool:
        """Handles everything that has come in; returns whether the coordinator spoke."""
        spoke = False
        try:
            for message in self._link.from_coordinator():
                spoke = True
                self._on_request(message)
            for peer, message, size in self._link.from_peers():
                self._on_peer(peer, message, size)
        except (RemoteError, UserError) as error:
            logger.warning("%s", error)
            self._link.to_coordinator(Failed(reason=str(error)))
        return spoke

    # ---- the coordinator's requests

    def _on_request(self, message: Message) -> None:
        match message:
            case Welcome():
                self._welcomed = True
                self._heartbeat_seconds = message.heartbeat_seconds
            case Shutdown():
                self._over = True
            case BeginPhase():
                self._link.to_coordinator(self._usage(message))
            case Peers():
                self._link.set_peers(message.peers)
                self._reach_peers_until = time.monotonic() + REACH_PEERS_SECONDS
            case ProbeLink():
                self._prober.begin(message)
            case FileChunk():
                self._on_chunk(message)
            case ProfileRequest():
                self._fetch(message.files, lambda: self._profile(message))
            case LoadStage():
                began = time.monotonic()
                files = [spec for part in message.parts for spec in part.files]
                self._fetch(files, lambda: self._load(message, began))
            case RunBatch() | SetUpGeneration() | Release():
                self._submit(partial(self._compute, message))
            case _:
                self._on_trainer_request(message)

    def _on_trainer_request(self, message: Message) -> None:
        trainer = self._trainer
        match message:
            case OpenCache():
                self._submit(partial(trainer.open_cache, message))
            case MoveSamples():
                self._submit(partial(trainer.move, message))
            case OwnSamples():
                self._submit(partial(trainer.own, message))
            case SetUpTraining():
                if message.total_steps:  # from here on, the caches stand for the backbone
                    self._submit(self._backbone.unload)
                self._fetch(message.files, partial(trainer.set_up, message, self._store))
            case TrainEpoch():
                self._submit(partial(trainer.train_epoch, message.epoch))
            case Evaluate():
                self._submit(trainer.evaluate)
            case SendState():
                self._submit(trainer.send_state)
            case _:
                raise RemoteError(f"the coordinator sent {type(message).__name__}")

    def _submit(self, job: Callable[[], None]) -> None:
        self._worker.submit(job)

    def _usage(self, request: BeginPhase) -> Usage:
        ended = self._clock.begin(request.phase)
        return Usage(
            phase=ended,
            cpu_seconds=self._clock.seconds(),
            peak_rss_bytes=peak_resident_bytes(),
            sent_bytes=self._link.sent_bytes,
            received_bytes=self._link.received_bytes,
        )

    # ---- weight files

    def _fetch(
        self, files: list[FileSpec] | tuple[FileSpec, ...], then: Callable[[], None]
    ) -> None:
        if self._fetching is not None:
            raise RemoteError("asked for files while others are being fetched")
        self._fetching = _Fetching(FileFetch(self._store, files), then)
        self._advance_fetch()

    def _on_chunk(self, chunk: FileChunk) -> None:
        if self._fetching is None:
            raise RemoteError("a file chunk came that was not asked for")
        self._fetching.fetch.receive(chunk)
        self._advance_fetch()

    def _advance_fetch(self) -> None:
        fetching = self._fetching
        if fetching is None:
            return
        if not fetching.fetch.done:
            for request in fetching.fetch.requests():
                self._link.to_coordinator(request)
            return
        self._fetching = None
        self._received_weight_bytes += fetching.fetch.received_bytes
        self._submit(fetching.then)

    def _profile(self, request: ProfileRequest) -> None:
        if request.known is not None:
            profile = remeasure(request, request.known, self._options.home)
        else:
            profile = measure_in_subprocess(
                request,
                device=self._options.device,
                roles=self._options.roles,
                threads=self._options.threads,
                home=self._options.home,
            )
        self._backbone.threads = profile.threads
        self._link.to_coordinator(ProfileDone(profile=profile))

    def _load(self, request: LoadStage, began: float) -> None:
        self._backbone.load(request, self._store)
        ready = StageReady(
            first=request.stage.first,
            last=request.parts[-1].last,
            received_bytes=self._received_weight_bytes,
            seconds=time.monotonic() - began,
        )
        self._link.to_coordinator(ready)

    def _compute(self, request: RunBatch | SetUpGeneration | Release) -> None:
        match request:
            case RunBatch():
                self._backbone.run(request.batch, 0, request.inputs)
            case SetUpGeneration():
                self._backbone.set_up_generation(request)
                self._trainer.set_up_generation(request)
                self._link.to_coordinator(GenerationReady())
            case Release():
                self._backbone.release(request.lines)
                self._trainer.release(request.lines)

    # ---- peers

    def _answer_peers(self, now: float) -> None:
        """Answers ``Peers`` once each of them is connected, or has not been in time."""
        if self._reach_peers_until is None:
            return
        unreached = self._link.unreached_peers()
        if not unreached:
            self._link.to_coordinator(PeersReady())
        elif now > self._reach_peers_until:
            where = ", ".join(f"{peer} at {address}" for peer, address in unreached.items())
            reason = f"cannot reach {where}; check its firewall or its --listen"
            self._link.to_coordinator(Failed(reason=reason))
        else:
            return
        self._reach_peers_until = None

    def _on_peer(self, peer: DeviceId, message: Message, size: int) -> None:
        try:
            match message:
                case Activations():
                    self._submit(partial(self._serve, peer, message, size))
                    return  # credited when served: until then it takes memory here
                case States(sequences=Sequences()):
                    self._submit(partial(self._keep, peer, message, size))
                    return
                case States():
                    self._trainer.store(message)
                case Probe() | ProbeEcho():
                    self._prober.take(peer, message)
                case GradientPart() | ReducedPart():
                    self._trainer.deliver(peer, message)
                case _:
                    raise RemoteError(f"{type(message).__name__} is not for peers to send")
        except (RemoteError, UserError) as error:
            # Whoever waits for what the message should have brought would wait for ever.
            reason = f"rejected a message of {peer}: {error}"
            logger.warning("%s", reason)
            self._link.to_coordinator(Failed(reason=reason))
        self._link.acknowledge(peer, size)

    def _keep(self, peer: DeviceId, message: States, size: int) -> None:
        try:
            self._trainer.keep(message)
        finally:
            self._link.credit_later(peer, size)

    def _serve(self, peer: DeviceId, message: Activations, size: int) -> None:
        try:
            self._backbone.run(message.batch, message.stage, message.rows)
        finally:
            self._link.credit_later(peer, size)


def run_device(options: DeviceOptions, link: SessionLink) -> Ended:
    """Runs a device to the end of its session and closes its sockets."""
    try:
        return Device(options, link).run()
    finally:
        link.close()
