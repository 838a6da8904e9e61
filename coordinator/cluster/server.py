"""Runs a session over ZeroMQ: turns messages into events, and carries actions out."""

import collections
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from coordinator.protocol.actions import (
    Action,
    Fail,
    Finish,
    KeepEvaluation,
    Kept,
    Record,
    SaveCheckpoint,
    Send,
    SendProfileRequest,
    SendStage,
)
from coordinator.protocol.events import Event, Joined, Lost, Tick
from coordinator.protocol.events import Received as Answered
from coordinator.session.machine import Session
from edge_runtime.contract import messages as m
from edge_runtime.contract.codec import Frame, decode_tagged, encode
from edge_runtime.contract.errors import DecodeError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.transport import Delivery, Received, SecureRouter
from export.partition.stages import Bundle

from .file_server import FileServer
from .forwarding import Forwarding
from .instances import Instances
from .kept_cuts import KeptCuts
from .liveness import Liveness
from .pending_forgets import Reminder
from .stage_files import StageCutter

logger = logging.getLogger(__name__)

WAIT_SECONDS = 0.1
MAX_CHUNKS_QUEUED = 8
MAX_MESSAGES_A_ROUND = 256
TICK_SECONDS = 0.5
FAREWELL_SECONDS = 1.0

_Queues: TypeAlias = collections.defaultdict[DeviceId, collections.deque[list[Frame]]]

FROM_DEVICES = frozenset(
    kind
    for kind in (vars(m.answers) | vars(m.telemetry)).values()
    if isinstance(kind, type) and issubclass(kind, m.Message) and kind is not m.Message
) | {m.Tunnel}
"""What a device may send to the coordinator."""


class Server:
    """Runs one session over a router socket."""

    def __init__(
        self,
        router: SecureRouter,
        bundle: Bundle,
        *,
        public_keys: Mapping[DeviceId, str],
        record: Callable[[Record], None],
        save: Callable[[Kept], None],
        reroute: Callable[[DeviceId, m.Peers], m.Peers] = lambda _device, peers: peers,
        reminder: Reminder | None = None,
        kept: KeptCuts | None = None,
    ) -> None:
        """Sends nothing yet; ``router`` admits the paired devices, whose keys their peers get.

        ``reroute`` says where a device reaches its peers, if not at the addresses they gave;
        ``reminder`` what a device is to delete before it does anything else. Stages that are
        ``kept`` are not cut again.
        """
        self._reminder = reminder
        self._router, self._bundle, self._reroute = router, bundle, reroute
        self._public_keys, self._record, self._save = public_keys, record, save
        self._cutter = StageCutter(bundle, kept)
        self._queues: _Queues = collections.defaultdict(collections.deque)
        self._chunks: _Queues = collections.defaultdict(collections.deque)
        self._forwarding = Forwarding()
        self._forwarded: _Queues = collections.defaultdict(collections.deque)

    def run(
        self,
        session: Session,
        *,
        ended: Callable[[], Iterable[Lost]],
        watch: Callable[[], None],
    ) -> None:
        """Runs the session to its end.

        Args:
            session: the state machine.
            ended: tells which local device processes have ended.
            watch: called several times a second, for the display.

        Raises:
            UserError: the session failed; the message says why.
        """
        self._session, self._finished = session, False
        self._files = FileServer(self._bundle, self._cutter, session.job)
        self._liveness, self._instances = Liveness(), Instances()
        self._cutter.get_ready()
        ticked = time.monotonic()
        while not self._finished:
            self._receive()
            now = time.monotonic()
            self._notice_losses(now)
            for lost in ended():
                self._lose(lost)
            if now - ticked >= TICK_SECONDS:
                ticked = now
                self._handle(Tick())
            self._flush()
            watch()

    def _notice_losses(self, now: float) -> None:
        """Handles the losses that connections and silence show."""
        for device, _ in self._router.take_disconnected():
            self._liveness.disconnected(device, now)
        for lost in self._liveness.lost(self._router.connected_devices(), now):
            self._lose(lost)
        for device, hello in self._instances.restarted(self._router.is_connected, now):
            self._lose(Lost(device=device, reason="it was started again"))
            self._join(device, hello)

    def _receive(self) -> None:
        """Takes in what has come; a flood must not keep the server from its other duties."""
        timeout_seconds = WAIT_SECONDS
        for _ in range(MAX_MESSAGES_A_ROUND):
            received = self._router.recv(timeout_seconds)
            if received is None:
                return
            self._liveness.hear(received.device, time.monotonic())
            self._take_in(received)
            self._flush()
            timeout_seconds = 0.0

    def end(self, devices: Iterable[DeviceId]) -> None:
        """Tells devices that the session is over, also after an interruption.

        Waits a moment until they have gone: closing at once might cut off what is on its way.
        """
        shutdown = encode(m.Shutdown(), Tag(session=self._session.job.session))
        told = {each for each in devices if self._router.send(each, shutdown) is Delivery.QUEUED}
        deadline = time.monotonic() + FAREWELL_SECONDS
        while told and time.monotonic() < deadline:
            self._router.recv(WAIT_SECONDS / 5)
            told -= {device for device, _ in self._router.take_disconnected()}

    def _take_in(self, received: Received) -> None:
        device, now = received.device, time.monotonic()
        if (cloned := self._instances.heard(device, received.connection, now)) is not None:
            self._handle(cloned)
            return
        try:
            tag, message = decode_tagged(received.frames)
        except DecodeError as error:
            logger.warning("rejected a message of %s: %s", device, error)
            # It may have been an answer, which nobody would then wait for in vain.
            self._handle(Answered(device=device, message=m.Failed(reason=f"sent {error}")))
            return
        if isinstance(message, m.Hello):
            if self._instances.greeted(device, message, received.connection, now):
                self._join(device, message)
        elif self._instances.is_doubtful(device):
            logger.info("another process has the key of %s; waiting which one stays", device)
        elif type(message) not in FROM_DEVICES:
            logger.warning("%s sent %s, not for devices to send", device, type(message).__name__)
        elif tag.session != self._session.job.session:
            logger.info("%s sent %s of another session", device, type(message).__name__)
        else:
            self._serve(device, message, tag)

    def _serve(self, device: DeviceId, message: m.Message, tag: Tag) -> None:
        """Answers what is no business of the session's; hands it the rest."""
        match message:
            case m.FileRequest():
                self._serve_file(device, message)
            case m.Tunnel():
                of_session = Tag(session=self._session.job.session)
                for to, forwarded in self._forwarding.take(device, message):
                    self._forwarded[to].append(encode(forwarded, of_session))
            case _ if self._reminder is not None and self._reminder.took(device, message):
                pass
            case _:
                answered = Answered(device=device, message=message, term=tag.term, reply=tag.reply)
                self._handle(answered)

    def _join(self, device: DeviceId, hello: m.Hello) -> None:
        if (key := self._public_keys.get(device)) is not None:
            self._handle(Joined(device=device, hello=hello, public_key=key))

    def _lose(self, lost: Lost) -> None:
        """Drops what waits for a device that is gone; it would come too late if it returned."""
        for queues in (self._queues, self._chunks, self._forwarded):
            queues[lost.device].clear()
        self._handle(lost)

    def _handle(self, event: Event) -> None:
        for action in self._session.handle(event, time.monotonic()):
            self._carry_out(action)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send(device=device, message=message):
                if isinstance(message, m.Peers):
                    self._forwarding.told(device, message)
                    message = self._reroute(device, message)
                self._send(device, message, action.term, action.reply)
            case SendProfileRequest():
                request = self._cutter.profile_request(self._session.job, action)
                self._send(action.device, request, 0, action.reply)
            case SendStage():
                job, apart = self._session.job, self._session.job.continuation is not None
                layers, dtype = job.config.layers, job.cache_dtype
                stage = self._cutter.load_stage(
                    action.first, action.last, layers=layers, dtype=dtype, apart=apart
                )
                self._send(action.device, stage, action.term, action.reply)
            case Record():
                self._record(action)
            case SaveCheckpoint() | KeepEvaluation():
                self._save(action)
            case Finish():
                self._finished = True
            case Fail():
                self._flush()
                raise action.error

    # ---- sending

    def _send(self, device: DeviceId, message: m.Message, term: int = 0, reply: int = 0) -> None:
        tag = Tag(session=self._session.job.session, term=term, reply=reply)
        self._queues[device].append(encode(message, tag))
        if isinstance(message, m.Welcome) and self._reminder is not None:
            tag = Tag(session=self._session.job.session)
            self._queues[device].extend(encode(each, tag) for each in self._reminder.joined(device))
        self._flush_to(device)

    def _flush(self) -> None:
        for device in self._queues.keys() | self._chunks.keys() | self._forwarded.keys():
            self._flush_to(device)

    def _flush_to(self, device: DeviceId) -> None:
        """Sends what the socket takes; the rest waits, perhaps until the device counts as lost."""
        for queues in (self._queues, self._chunks, self._forwarded):
            queue = queues[device]
            while queue and self._router.send(device, queue[0]) is Delivery.QUEUED:
                queue.popleft()

    def _serve_file(self, device: DeviceId, request: m.FileRequest) -> None:
        if device not in self._session.devices:
            logger.warning("%s asked for a file without having joined", device)
        elif len(self._chunks[device]) >= MAX_CHUNKS_QUEUED:
            logger.warning("%s asks for files faster than it takes them", device)
        elif chunk := self._files.read(device, request):
            tag = Tag(session=self._session.job.session)
            self._chunks[device].append(encode(chunk, tag))
            self._flush_to(device)
