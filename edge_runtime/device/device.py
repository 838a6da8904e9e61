"""The device process: takes requests in, has them worked on, answers.

Two threads. This one owns the sockets and never computes; the worker computes and never
touches a socket.
"""

import dataclasses
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import edge_runtime
from edge_runtime.backbone.loaded_stage import LoadedStage, stage_identity
from edge_runtime.backbone.role import BackboneRole
from edge_runtime.cache.keys import CacheKeys
from edge_runtime.contract import messages as m
from edge_runtime.contract.errors import RemoteError, StoppedError, UserError
from edge_runtime.contract.messages.tag import MAX_NUMBER, Tag
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.messaging.failures import PeerError, explain
from edge_runtime.messaging.session_link import SessionLink
from edge_runtime.messaging.tagging import tagged
from edge_runtime.profiling.link import LinkProber
from edge_runtime.profiling.profiler import measure
from edge_runtime.profiling.subprocess import measure_in_subprocess
from edge_runtime.serving.loaded_adapter import LoadedAdapter, adapter_identity
from edge_runtime.system.usage import (
    CpuClock,
    peak_resident_bytes,
    usable_cores,
    usable_memory_bytes,
)
from edge_runtime.training.role import TrainerRole

from .compute_thread import Worker
from .condition import ConditionWatch
from .file_fetching import FileFetching
from .forgetting import forget
from .heart import Heart
from .notices import warnings_reported
from .options import DeviceOptions, NoAnswerError, SentHomeError
from .peers import PeerDispatch
from .standing import Standing
from .warm import Warm

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 30.0
REFUSED_SECONDS = 8.0
REFUSALS = 3
"""Fewer come of a coordinator that is about to end."""

SILENCE_SECONDS = 30.0
STOP_SECONDS = 5.0

Ended = Literal["shutdown", "disconnected", "replaced"]
"""Why a session ended; it was replaced if a coordinator that was started anew says Welcome."""

Welcoming = tuple[Tag, m.Welcome]
Handlers = dict[type[m.Message], Callable[[Any], None]]


class Device:
    """One device in one session.

    Attributes:
        successor: the session that replaced this one.
        has_stopped: its work has ended, so that the next session may use the same link.
    """

    def __init__(
        self,
        options: DeviceOptions,
        link: SessionLink,
        warm: Warm | None = None,
        welcome: Welcoming | None = None,
        watch: ConditionWatch | None = None,
    ) -> None:
        """Waits for a session, or joins the one that ``welcome`` begins.

        ``warm`` carries on to the next session what was loaded, and a trainer's adapter if the
        coordinator dies.
        ``watch`` says when this device needs relief; never without one.
        """
        self._welcoming = welcome
        self.successor: Welcoming | None = None
        self._options, self._link = options, link
        self._warm, self._standing, self.has_stopped = warm or Warm(), Standing(), False
        self._heart = Heart(self._say, watch)
        self._store = WeightStore(options.home / "weights")
        self._clock = CpuClock()
        self._worker = Worker(link.to_coordinator)
        self._keys = options.cache_keys or CacheKeys(options.home)
        self._trainer = trainer = TrainerRole(
            me=options.device, home=options.home, outbox=link, keys=self._keys
        )
        self._backbone = backbone = BackboneRole(
            me=options.device, threads=options.threads, outbox=link, keep=trainer.keep
        )
        prober = LinkProber(link)
        self._peers = PeerDispatch(
            link, self._worker, self._standing, backbone=backbone, trainer=trainer, prober=prober
        )
        self._files = FileFetching(self._store, link, self._worker)
        self._ended: Ended | None = None
        self._at_once: Handlers = {
            m.Welcome: self._welcome,
            m.BeginTerm: lambda _: None,  # its tag says all
            m.Rejoin: lambda _: self._say(self._hello()),
            m.FormGroup: trainer.form_group,
            m.Shutdown: self._end,
            m.BeginPhase: self._begin_phase,
            m.Peers: self._peers.connect,
            m.ProbeLink: prober.begin,
            m.FileChunk: self._files.receive,
            m.Forget: self._forget,
        }
        self._in_order: Handlers = {
            m.RunBatch: lambda request: backbone.run(request.batch, 0, request.inputs),
            m.OpenCache: trainer.open_cache,
            m.MoveSamples: trainer.move,
            m.OwnSamples: trainer.own,
            m.TakeState: trainer.take_state,
            m.CountTokens: lambda _: trainer.count_tokens(),
            m.TrainEpoch: trainer.train_epoch,
            m.TrainSettings: trainer.train_settings,
            m.HoldSamples: trainer.hold,
            m.Evaluate: trainer.evaluate,
            m.SendState: lambda _: trainer.send_state(),
            m.SetUpGeneration: self._set_up_generation,
            m.Release: self._release,
        }

    def run(self) -> Ended:
        """Serves until the coordinator ends the session or is gone.

        Raises:
            SentHomeError: the coordinator has no work for this device.
            NoAnswerError: the coordinator could not be reached at all.
            StoppedError: it does not know this device.
        """
        with warnings_reported(self._say):
            return self._serve()

    def _serve(self) -> Ended:
        began = heard = time.monotonic()
        try:
            if self._welcoming is not None:
                self._take_request(*self._welcoming)
            while self._ended is None:
                self._link.wait(self._heart.period_seconds / 4)
                now = time.monotonic()
                if self._link.take_connected():
                    self._say(self._hello())
                elif not self._link.connected and not self._standing.session:
                    self._link.discard_queued()  # said to one that ended before it heard
                if self._take_in():
                    heard = now
                self._peers.watch(now)
                self._warm.look()
                self._heart.beat(now, joined=bool(self._standing.session))
                if self._link.connected:
                    heard = max(heard, now - 1.0)
                elif now - heard > SILENCE_SECONDS and self._standing.session:
                    self._ended = "disconnected"
                # A coordinator that answers but refuses will not know this device later either.
                patience = REFUSED_SECONDS if self._is_refused() else CONNECT_SECONDS
                if not self._standing.session and now - began > patience:
                    raise self._silence()
            return self._ended
        finally:
            self._close()

    def _close(self) -> None:
        """Ends all work; keeps what was loaded for the next session.

        The adapter that was trained only if the coordinator is gone.
        """
        lost = self._ended != "shutdown"
        self._trainer.close()
        self._link.set_peers(())
        if lost:
            self._worker.begin_term(MAX_NUMBER)  # nobody waits for what is queued
        self.has_stopped = self._worker.stop(STOP_SECONDS)
        if self.has_stopped and self._standing.session:
            self._warm.keep(self._backbone.hand_over(), self._trainer.hand_over())
            if lost:
                self._warm.replica.put(self._trainer.replica)

    def _say(self, message: m.Message) -> None:
        """Sends what answers no request."""
        with tagged(self._standing.tag):
            self._link.to_coordinator(message)

    def _hello(self) -> m.Hello:
        locate = self._options.locate
        place = locate() if locate is not None else self._options.data_address
        address = dataclasses.replace(place, port=self._link.data_address.port)
        return m.Hello(
            software=edge_runtime.__version__,
            roles=self._options.roles,
            data_address=address.endpoint,
            process_id=self._options.process_id,
            threads=self._options.threads,
            cores=usable_cores(),
            memory_bytes=usable_memory_bytes(),
            base_memory_bytes=self._warm.base_bytes(),
            instance=self._options.instance,
        )

    def _is_refused(self) -> bool:
        return self._link.failed_handshakes >= REFUSALS

    def _silence(self) -> StoppedError:
        if self._is_refused():
            return StoppedError("the coordinator no longer knows this device; pair it again")
        return NoAnswerError(
            "the coordinator does not answer; start `pacplus train` there, or check the network"
        )

    def _take_in(self) -> bool:
        """Handles everything that has come in; returns whether the coordinator spoke."""
        spoke = False
        try:
            for tag, message in self._link.from_coordinator():
                spoke = True
                self._take_request(tag, message)
                if self._ended is not None:
                    return spoke
            for received in self._link.from_peers():
                self._peers.receive(*received)
        except PeerError as error:
            self._peers.reject(error.peer, error.reason)
        except RemoteError as error:
            logger.info("%s", error)
            self._say(explain(error))
        return spoke

    def _take_request(self, tag: Tag, request: m.Message) -> None:
        """Handles a message of the coordinator, unless it is outdated."""
        if isinstance(request, m.Welcome) and tag.session != self._standing.session:
            if self._standing.session:
                self._ended, self.successor = "replaced", (tag, request)
                return
            self._standing.session = tag.session
            self._trainer.replica = self._warm.replica.take()
        if isinstance(request, m.Shutdown) and not self._standing.session:
            raise SentHomeError(
                "the coordinator sends this device home: its run has ended, or has left this "
                "device out (`pacplus devices` there says why)"
            )
        if not self._standing.admits(tag):
            logger.info("dropped a %s of another session or term", type(request).__name__)
            return
        if tag.term > self._standing.term:
            self._begin_term(tag.term)
        with tagged(tag):
            try:
                self._on_request(request)
            except (RemoteError, UserError, OSError) as error:
                logger.info("%s", error)
                self._link.to_coordinator(explain(error))

    def _begin_term(self, term: int) -> None:
        """Ends the work of earlier terms; what is loaded, cached and learnt stays."""
        self._standing.term = term
        self._worker.begin_term(term)
        self._link.discard_unsent(term)
        self._trainer.begin_term(term)
        self._files.begin_term(term)
        with tagged(self._standing.tag):
            self._worker.submit(self._forget_sequences)
            self._peers.begin_term()

    def _on_request(self, request: m.Message) -> None:
        """Handles light requests at once; heavy ones in their order, when their files are there."""
        kind = type(request)
        if kind in self._at_once:
            self._at_once[kind](request)
        elif kind in self._in_order:
            self._worker.submit(partial(self._in_order[kind], request))
        elif isinstance(request, m.LoadStage):
            self._begin_loading(request)
        elif isinstance(request, m.SetUpTraining):
            self._begin_setting_up(request)
        elif isinstance(request, m.ProfileRequest):
            self._begin_profiling(request)
        else:
            raise RemoteError(f"the coordinator sent {kind.__name__}")

    # ---- at once

    def _welcome(self, welcome: m.Welcome) -> None:
        self._heart.welcomed(welcome.heartbeat_seconds)

    def _end(self, _: m.Shutdown) -> None:
        self._ended = "shutdown"

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

    def _forget(self, request: m.Forget) -> None:
        """Comes before any file is looked for and any cache opened, so it must not wait."""
        self._warm.drop()
        self._trainer.replica = None  # a run that was interrupted goes on from its checkpoint
        self._link.to_coordinator(forget(self._options.home, request, self._keys))

    # ---- in order, when the files are there; what is kept of them needs none

    def _begin_loading(self, request: m.LoadStage) -> None:
        kept = self._warm.take_stage(stage_identity(request, self._backbone.threads))
        job = partial(self._load_stage, request, kept, time.monotonic())
        self._files.begin(request.files if kept is None else (), job)

    def _begin_setting_up(self, request: m.SetUpTraining) -> None:
        if request.adapter_graph is None:
            self._warm.drop()  # training wants the memory
            kept = None
        else:
            kept = self._warm.take_adapter(adapter_identity(request))
        job = partial(self._set_up_training, request, kept)
        self._files.begin(request.files if kept is None else (), job)

    def _begin_profiling(self, request: m.ProfileRequest) -> None:
        if request.takes_seconds:
            self._warm.drop()  # nothing else may be in the way of what is measured
        self._files.begin(request.files, partial(self._profile, request))

    # ---- in order, in the compute thread

    def _profile(self, request: m.ProfileRequest) -> None:
        options = self._options
        measured = (
            measure_in_subprocess if request.takes_seconds else partial(measure, store=self._store)
        )
        profile = measured(
            request,
            device=options.device,
            roles=options.roles,
            threads=options.threads,
            home=options.home,
        )
        base_bytes = min(profile.base_memory_bytes, self._warm.base_bytes())
        profile = dataclasses.replace(profile, base_memory_bytes=base_bytes)
        self._backbone.threads = profile.threads
        self._link.to_coordinator(m.ProfileDone(profile=profile))

    def _load_stage(self, request: m.LoadStage, kept: LoadedStage | None, began: float) -> None:
        self._backbone.load(request, self._store, kept)
        self._link.to_coordinator(
            m.StageReady(
                first=request.stage.first,
                last=request.parts[-1].last,
                received_bytes=self._files.received_bytes,
                seconds=time.monotonic() - began,
            )
        )

    def _set_up_training(self, request: m.SetUpTraining, kept: LoadedAdapter | None) -> None:
        if request.total_steps:  # from here on, the caches stand for the backbone
            self._backbone.unload()
        self._trainer.set_up(request, self._store, kept)

    def _set_up_generation(self, request: m.SetUpGeneration) -> None:
        self._backbone.set_up_generation(request)
        self._trainer.set_up_generation(request)
        self._link.to_coordinator(m.GenerationReady())

    def _forget_sequences(self) -> None:
        self._backbone.end_generation()
        self._trainer.end_generation()

    def _release(self, request: m.Release) -> None:
        self._backbone.release(request.lines)
        self._trainer.release(request.lines)
