"""The thin ZeroMQ server around the session: messages in, actions carried out, files served."""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, TypeAlias

import numpy as np

from coordinator.protocol.actions import (
    Action,
    Fail,
    Finish,
    Record,
    SaveCheckpoint,
    Send,
    SendProfileRequest,
    SendStage,
)
from coordinator.protocol.events import Event, Joined, Lost, Received
from coordinator.session.machine import Session
from edge_runtime.contract.codec import Frame, decode, encode
from edge_runtime.contract.errors import BadInputError, DecodeError, InfeasibleError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import FileSpec
from edge_runtime.contract.messages import (
    FileChunk,
    FileRequest,
    Hello,
    Message,
    Peers,
    Shutdown,
    answers,
)
from edge_runtime.transport import Delivery, SecureRouter
from export.partition.stages import Bundle

from .stage_files import StageCutter

logger = logging.getLogger(__name__)

WAIT_SECONDS = 0.1
SILENCE_SECONDS = 30.0
GATHER_SECONDS = 120.0
MAX_CHUNK_BYTES = 4 << 20
MAX_CHUNKS_QUEUED = 8
MAX_MESSAGES_A_ROUND = 256

FROM_DEVICES = frozenset(
    kind
    for kind in vars(answers).values()
    if isinstance(kind, type) and issubclass(kind, Message) and kind is not Message
)
"""What a device may send to the coordinator."""

Ended: TypeAlias = Callable[[], Iterable[Lost]]


class Server:
    """Runs one session over a router socket."""

    def __init__(
        self,
        router: SecureRouter,
        bundle: Bundle,
        *,
        public_keys: Mapping[DeviceId, str],
        record: Callable[[Record], None],
        save: Callable[[SaveCheckpoint], None],
        reroute: Callable[[DeviceId, Peers], Peers] = lambda _device, peers: peers,
    ) -> None:
        """Prepares.

        Args:
            router: admits the paired devices.
            bundle: whose stages and weight files are sent.
            public_keys: of the paired devices, for their peers.
            record: keeps an event.
            save: keeps a checkpoint.
            reroute: where a device reaches its peers, if not at the addresses they gave.
        """
        self._router, self._bundle = router, bundle
        self._reroute = reroute
        self._public_keys = public_keys
        self._record, self._save = record, save
        self._cutter = StageCutter(bundle)
        self._queues: dict[DeviceId, collections.deque[list[Frame]]] = {}
        self._chunks: dict[DeviceId, collections.deque[list[Frame]]] = {}
        self._heard: dict[DeviceId, float] = {}

    def run(
        self,
        session: Session,
        *,
        devices: Sequence[DeviceId],
        ended: Ended,
        watch: Callable[[], None],
    ) -> None:
        """Runs the session to its end.

        Args:
            session: the state machine.
            devices: that must join before anything begins.
            ended: tells which local device processes have ended.
            watch: called several times a second, for the display.

        Raises:
            InfeasibleError: a device did not join in time.
            UserError: the session failed; the message says why.
        """
        gather_until = time.monotonic() + GATHER_SECONDS
        self._session = session
        self._finished = False
        while not self._finished:
            self._receive()
            for lost in ended():
                self._handle(lost)
            self._notice_silence()
            if session.phase == "gathering" and time.monotonic() > gather_until:
                raise InfeasibleError(_absence(set(devices) - session.record.devices.keys()))
            self._flush()
            watch()

    def _receive(self) -> None:
        """Takes in what has come; a flood must not keep the server from its other duties."""
        timeout_seconds = WAIT_SECONDS
        for _ in range(MAX_MESSAGES_A_ROUND):
            received = self._router.recv(timeout_seconds)
            if received is None:
                return
            self._heard[received.device] = time.monotonic()
            self._take_in(received.device, received.frames)
            self._flush()
            timeout_seconds = 0.0

    def end(self, devices: Iterable[DeviceId]) -> None:
        """Tells devices that the session is over, also after an interruption; does not wait."""
        for device in devices:
            self._router.send(device, encode(Shutdown()))

    def _take_in(self, device: DeviceId, frames: list[memoryview]) -> None:
        try:
            message = decode(frames)
        except DecodeError as error:
            logger.warning("rejected a message of %s: %s", device, error)
            # It may have been an answer, which nobody would then wait for in vain.
            if device in self._session.record.devices:
                self._handle(Lost(device=device, reason=f"it sent no valid message ({error})"))
            return
        if type(message) not in FROM_DEVICES:
            logger.warning("%s sent %s, not for devices to send", device, type(message).__name__)
        elif isinstance(message, FileRequest):
            self._serve_file(device, message)
        elif isinstance(message, Hello):
            key = self._public_keys.get(device)
            if key is not None:
                self._handle(Joined(device=device, hello=message, public_key=key))
        else:
            self._handle(Received(device=device, message=message))

    def _notice_silence(self) -> None:
        now = time.monotonic()
        for device, heard in list(self._heard.items()):
            if now - heard > SILENCE_SECONDS:
                del self._heard[device]
                reason = f"silent for {SILENCE_SECONDS:.0f} seconds"
                self._handle(Lost(device=device, reason=reason))

    def _handle(self, event: Event) -> None:
        for action in self._session.handle(event, time.monotonic()):
            self._carry_out(action)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send(device=device, message=Peers() as peers):
                self._send(device, self._reroute(device, peers))
            case Send():
                self._send(action.device, action.message)
            case SendProfileRequest():
                request = self._cutter.profile_request(self._session.job, action.known)
                self._send(action.device, request)
            case SendStage():
                stage = self._cutter.load_stage(
                    action.first,
                    action.last,
                    layers=self._session.job.config.layers,
                    dtype=self._session.job.cache_dtype,
                    apart=self._session.job.continuation is not None,
                )
                self._send(action.device, stage)
            case Record():
                self._record(action)
            case SaveCheckpoint():
                self._save(action)
            case Finish():
                self._finished = True
            case Fail():
                self._flush()
                raise action.error

    # ---- sending

    def _send(self, device: DeviceId, message: Message) -> None:
        queue = self._queues.setdefault(device, collections.deque())
        queue.append(encode(message))
        self._flush_to(device)

    def _flush(self) -> None:
        for device in self._queues.keys() | self._chunks.keys():
            self._flush_to(device)

    def _flush_to(self, device: DeviceId) -> None:
        """Sends what the socket takes; the rest waits (a device that is gone is noticed
        by its silence or its process).
        """  # noqa: D205
        for queues in (self._queues, self._chunks):
            queue = queues.get(device)
            while queue and self._router.send(device, queue[0]) is Delivery.QUEUED:
                queue.popleft()

    def _serve_file(self, device: DeviceId, request: FileRequest) -> None:
        """Sends a piece of a file; only weights, the head and adapters are served.

        Raises:
            BadInputError: the file cannot be read, so the device would wait for ever.
        """
        if device not in self._session.record.devices:
            logger.warning("%s asked for a file without having joined", device)
            return
        queue = self._chunks.setdefault(device, collections.deque())
        if len(queue) >= MAX_CHUNKS_QUEUED:
            logger.warning("%s asks for files faster than it takes them", device)
            return
        try:
            spec = self._file(request.sha256)
        except KeyError:
            logger.warning("%s asked for a file that no device needs", device)
            return
        if not 0 <= request.offset < spec.bytes or not 0 < request.length <= MAX_CHUNK_BYTES:
            logger.warning("%s asked for a piece outside of %s", device, spec.path)
            return
        data = self._read(spec, request)
        queue.append(encode(FileChunk(sha256=request.sha256, offset=request.offset, data=data)))
        self._flush_to(device)

    def _file(self, sha256: str) -> FileSpec:
        adapter = self._session.job.adapter_file
        return adapter if adapter and adapter.sha256 == sha256 else self._cutter.file(sha256)

    def _read(self, spec: FileSpec, request: FileRequest) -> np.ndarray[Any, Any]:
        """The piece asked for, (n,) uint8."""
        if spec == self._session.job.adapter_file:
            graph = np.frombuffer(self._session.job.adapter_graph, np.uint8)
            return graph[request.offset : request.offset + request.length]
        path = self._bundle.file_path(spec)
        length = min(request.length, spec.bytes - request.offset)
        try:
            with path.open("rb") as file:
                file.seek(request.offset)
                data = file.read(length)
        except OSError as error:
            raise BadInputError(f"{path}: cannot be read ({error.strerror})") from None
        if len(data) < length:
            raise BadInputError(
                f"{path}: is shorter than {spec.bytes} bytes; export the bundle again"
            )
        return np.frombuffer(data, np.uint8)


def _absence(devices: Set[DeviceId]) -> str:
    names = ", ".join(sorted(devices))
    return (
        f"{names} did not join within {GATHER_SECONDS:.0f} seconds; "
        "run `pacplus-device start` there, or leave it out with --devices"
    )
