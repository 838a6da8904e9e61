"""The device process: takes requests in, has them worked on, answers.

Two threads. This one owns the sockets and never computes; the worker computes and never
touches a socket.
"""

import dataclasses
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import edge_runtime
from edge_runtime.backbone.role import BackboneRole
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import RemoteError, StoppedError, UserError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.profile import Role
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.messaging.failures import explain
from edge_runtime.messaging.session_link import SessionLink
from edge_runtime.profiling.link import LinkProber
from edge_runtime.profiling.profiler import remeasure
from edge_runtime.profiling.subprocess import measure_in_subprocess
from edge_runtime.system.usage import (
    CpuClock,
    peak_resident_bytes,
    resident_bytes,
    usable_cores,
    usable_memory_bytes,
)
from edge_runtime.training.role import TrainerRole
from edge_runtime.transport import Address

from .compute_thread import Worker
from .condition import ConditionWatch
from .file_fetching import FileFetching
from .heart import Heart
from .notices import warnings_reported
from .peers import PeerDispatch

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 30.0
REFUSED_SECONDS = 8.0
SILENCE_SECONDS = 30.0
STOP_SECONDS = 5.0

Ended = Literal["shutdown", "disconnected"]
Handlers = dict[type[m.Message], Callable[[Any], None]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """A device's id at the coordinator, its folder, and what it offers.

    ``threads`` is the most that it computes with; ``data_address`` is where peers reach it, and
    its port is filled in later. ``instance`` is drawn once a process.
    """

    device: DeviceId
    home: Path
    roles: tuple[Role, ...]
    threads: int
    data_address: Address
    process_id: int
    instance: str = ""


class Device:
    """One device in one session."""

    def __init__(
        self, options: DeviceOptions, link: SessionLink, watch: ConditionWatch | None = None
    ) -> None:
        """``watch`` says when it needs relief; never without one."""
        self._options, self._link = options, link
        self._heart = Heart(link, watch)
        self._store = WeightStore(options.home / "weights")
        self._clock = CpuClock()
        self._worker = Worker(link.to_coordinator)
        self._trainer = trainer = TrainerRole(me=options.device, home=options.home, outbox=link)
        self._backbone = backbone = BackboneRole(
            me=options.device, threads=options.threads, outbox=link, keep=trainer.keep
        )
        prober = LinkProber(link)
        self._peers = PeerDispatch(
            link, self._worker, backbone=backbone, trainer=trainer, prober=prober
        )
        self._files = FileFetching(self._store, link, self._worker)
        self._welcomed = self._over = False
        self._at_once: Handlers = {
            m.Welcome: self._welcome,
            m.Shutdown: self._end,
            m.BeginPhase: self._begin_phase,
            m.Peers: self._peers.connect,
            m.ProbeLink: prober.begin,
            m.FileChunk: self._files.receive,
        }
        self._in_order: Handlers = {
            m.RunBatch: lambda request: backbone.run(request.batch, 0, request.inputs),
            m.OpenCache: trainer.open_cache,
            m.MoveSamples: trainer.move,
            m.OwnSamples: trainer.own,
            m.TrainEpoch: lambda request: trainer.train_epoch(request.epoch),
            m.Evaluate: lambda _: trainer.evaluate(),
            m.SendState: lambda _: trainer.send_state(),
            m.SetUpGeneration: self._set_up_generation,
            m.Release: self._release,
        }
        self._in_order_with_files: dict[type[m.Message], Callable[[Any, float], None]] = {
            m.ProfileRequest: lambda request, _: self._profile(request),
            m.LoadStage: self._load_stage,
            m.SetUpTraining: lambda request, _: self._set_up_training(request),
        }

    def run(self) -> Ended:
        """Serves until the coordinator ends the session or is gone.

        Raises:
            StoppedError: the coordinator could not be reached at all.
        """
        with warnings_reported(self._link.to_coordinator):
            return self._serve()

    def _serve(self) -> Ended:
        began = heard = time.monotonic()
        try:
            while not self._over:
                self._link.wait(self._heart.period_seconds / 4)
                now = time.monotonic()
                if self._link.take_connected():
                    self._link.to_coordinator(self._hello())
                if self._take_in():
                    heard = now
                self._peers.answer_when_reached(now)
                self._heart.beat(now, joined=self._welcomed)
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

    def _hello(self) -> m.Hello:
        address = dataclasses.replace(self._options.data_address, port=self._link.data_address.port)
        return m.Hello(
            software=edge_runtime.__version__,
            roles=self._options.roles,
            data_address=address.endpoint,
            process_id=self._options.process_id,
            threads=self._options.threads,
            cores=usable_cores(),
            memory_bytes=usable_memory_bytes(),
            base_memory_bytes=resident_bytes(),
            instance=self._options.instance,
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
                self._peers.receive(peer, message, size)
        except (RemoteError, UserError, OSError) as error:
            logger.info("%s", error)
            self._link.to_coordinator(explain(error))
        return spoke

    def _on_request(self, request: m.Message) -> None:
        """Handles light requests at once; heavy ones in their order, when their files are there."""
        kind = type(request)
        if kind in self._at_once:
            self._at_once[kind](request)
        elif kind in self._in_order:
            self._worker.submit(partial(self._in_order[kind], request))
        elif isinstance(request, m.ProfileRequest | m.LoadStage | m.SetUpTraining):
            handler = self._in_order_with_files[kind]
            self._files.begin(request.files, partial(handler, request, time.monotonic()))
        else:
            raise RemoteError(f"the coordinator sent {kind.__name__}")

    # ---- at once

    def _welcome(self, welcome: m.Welcome) -> None:
        self._welcomed = True
        self._heart.period_seconds = welcome.heartbeat_seconds

    def _end(self, _: m.Shutdown) -> None:
        self._over = True

    def _begin_phase(self, request: m.BeginPhase) -> None:
        ended = self._clock.begin(request.phase)
        self._link.to_coordinator(
            m.Usage(
                phase=ended,
                cpu_seconds=self._clock.seconds(),
                peak_rss_bytes=peak_resident_bytes(),
                sent_bytes=self._link.sent_bytes,
                received_bytes=self._link.received_bytes,
            )
        )

    # ---- in order, in the compute thread

    def _profile(self, request: m.ProfileRequest) -> None:
        options = self._options
        if request.known is not None:
            profile = remeasure(request, request.known, options.home)
        else:
            profile = measure_in_subprocess(
                request,
                device=options.device,
                roles=options.roles,
                threads=options.threads,
                home=options.home,
            )
        self._backbone.threads = profile.threads
        self._link.to_coordinator(m.ProfileDone(profile=profile))

    def _load_stage(self, request: m.LoadStage, began: float) -> None:
        self._backbone.load(request, self._store)
        self._link.to_coordinator(
            m.StageReady(
                first=request.stage.first,
                last=request.parts[-1].last,
                received_bytes=self._files.received_bytes,
                seconds=time.monotonic() - began,
            )
        )

    def _set_up_training(self, request: m.SetUpTraining) -> None:
        if request.total_steps:  # from here on, the caches stand for the backbone
            self._backbone.unload()
        self._trainer.set_up(request, self._store)

    def _set_up_generation(self, request: m.SetUpGeneration) -> None:
        self._backbone.set_up_generation(request)
        self._trainer.set_up_generation(request)
        self._link.to_coordinator(m.GenerationReady())

    def _release(self, request: m.Release) -> None:
        self._backbone.release(request.lines)
        self._trainer.release(request.lines)
