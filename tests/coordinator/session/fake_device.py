"""A device without sockets, threads or models that keeps to the protocol.

``tests/conformance`` runs it through the same claims as the real device.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from edge_runtime import __version__
from edge_runtime.contract import messages as m
from edge_runtime.contract.cache_format import row_bytes
from edge_runtime.contract.errors import RemoteError
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.manifest import HIDDEN_PREFIX, Manifest
from edge_runtime.contract.profile import DeviceProfile

CacheEntry = tuple[bytes, int]
Post = Callable[[m.Message], None]
PostTo = Callable[[DeviceId, m.Message], None]

PARAMETERS = 5
STATE_PREFIX = b"state "


def loss_of(index: int, epoch: int) -> float:
    """The loss that fake trainers find for line ``index``."""
    return (index + 1) / epoch


def output_of(index: int, epochs_done: int) -> tuple[float, float]:
    """The outputs that fake trainers compute for evaluation line ``index``.

    A language model's third column is 0.
    """
    return float(index), float(epochs_done)


def state_of(epochs_done: int) -> bytes:
    """The adapter and optimizer state of fake trainers."""
    return b"%s%d" % (STATE_PREFIX, epochs_done)


def link_of(sender: DeviceId, receiver: DeviceId) -> tuple[float, float]:
    """Bits a second and latency that fake devices find."""
    return 1e6 * (1 + len(sender)), 1e-3 * (len(sender) + len(receiver))


def count_of(targets: np.ndarray) -> int:
    """The divisor of a mean loss."""
    return int((targets >= 0).sum()) if targets.dtype == np.int32 else len(targets)


class FakeDevice:
    """Answers as a device does: sockets at once, heavy work in order when its turn comes.

    ``trained`` epochs are behind an adapter that is set up without a state.
    """

    def __init__(
        self, profile: DeviceProfile, held: set[CacheEntry], trained: int, manifest: Manifest
    ) -> None:
        self._manifest, self._trained_before = manifest, trained
        self.device, self.profile = profile.device, profile
        self.cache = set(held)
        self.jobs: collections.deque[m.Message] = collections.deque()
        self.computed: list[bytes] = []
        self.served: list[tuple[int, int]] = []
        self.owned: dict[str, m.OwnSamples] = {}
        self.peers: set[DeviceId] = set()
        self.probed: list[DeviceId] = []
        self.profiled: list[m.ProfileRequest] = []
        self.epochs_done = trained
        self.counted: m.Phase = "start"
        self.over = False
        self._opened: m.OpenCache | None = None
        self._set_up: m.SetUpTraining | None = None
        self._stage: m.LoadStage | None = None

    def hello(self) -> m.Hello:
        return m.Hello(
            software=__version__,
            roles=self.profile.roles,
            data_address=f"tcp://{self.device}:1",
            process_id=7,
        )

    def take_in(self, message: m.Message, post: Post) -> None:
        """Does the I/O thread's part."""
        try:
            self._take_in(message, post)
        except RemoteError as error:
            post(m.Failed(reason=str(error)))

    def work(self, post: Post, post_to: PostTo) -> None:
        """Does the next job, as the compute thread would."""
        try:
            self._work(self.jobs.popleft(), post, post_to)
        except RemoteError as error:
            post(m.Failed(reason=str(error)))

    def waits_for(self, others: Mapping[DeviceId, "FakeDevice"]) -> bool:
        """True if its next job is an epoch that another trainer has not come to yet."""
        if not self.jobs or self._set_up is None:
            return False
        epoch = self.jobs[0]
        return isinstance(epoch, m.TrainEpoch) and not all(
            other.epochs_done == epoch.epoch or (other.jobs and other.jobs[0] == epoch)
            for other in (others[name] for name in self._set_up.trainers)
        )

    def _take_in(self, message: m.Message, post: Post) -> None:
        match message:
            case m.Welcome():
                pass
            case m.Shutdown():
                self.over = True
            case m.BeginPhase():
                post(self._usage(message))
            case m.Peers():
                self.peers = {peer.device for peer in message.peers}
                post(m.PeersReady())
            case m.ProbeLink():
                self._check_peer(message.peer)
                self.probed.append(message.peer)
                rate, latency = link_of(self.device, message.peer)
                post(
                    m.LinkMeasured(peer=message.peer, bits_per_second=rate, latency_seconds=latency)
                )
            case m.States():
                self.store(message, post)
            case m.GradientPart() | m.ReducedPart():
                raise RemoteError("a gradient came, but fake trainers sum none")
            case m.Activations():
                self.jobs.append(message)
            case _ if type(message) in {*m.ANSWER_OF, m.RunBatch, m.MoveSamples, m.Release}:
                self.jobs.append(message)
            case _:
                raise RemoteError(f"{type(message).__name__} is not for devices")

    def _work(self, message: m.Message, post: Post, post_to: PostTo) -> None:
        match message:
            case m.ProfileRequest():
                self.profiled.append(message)
                post(m.ProfileDone(profile=self.profile))
            case m.OpenCache():
                self._opened = message
                self.owned.clear()
                held = self._holds(message.keys)
                post(m.CacheStatus(held=held, bytes_used=self._cache_bytes))
            case m.LoadStage():
                self._stage = message
                first, last = message.stage.first, message.parts[-1].last
                post(m.StageReady(first=first, last=last, received_bytes=11, seconds=0.1))
            case m.RunBatch():
                self.computed += [key.tobytes() for key in message.batch.keys]
                self._serve(message.batch, 0, message.inputs, post, post_to)
            case m.Activations():
                self._serve(message.batch, message.stage, message.rows, post, post_to)
            case m.MoveSamples():
                self._move(message, post_to)
            case m.OwnSamples():
                self._own(message, post)
            case m.SetUpGeneration() | m.Forget():
                forgets = isinstance(message, m.Forget)
                post(m.Forgotten(bytes=0) if forgets else m.GenerationReady())
            case m.Release():
                pass
            case _:
                self._train(message, post)

    def _usage(self, request: m.BeginPhase) -> m.Usage:
        ended, self.counted = self.counted, request.phase
        return m.Usage(
            phase=ended,
            cpu_seconds={ended: 1.0},
            peak_rss_bytes=1,
            sent_bytes=2,
            received_bytes=3,
        )

    # ---- cache

    @property
    def _cache_bytes(self) -> int:
        return 10 * len(self.cache)

    def _cached(self) -> m.OpenCache:
        if self._opened is None:
            raise RemoteError("the activation cache is not open")
        return self._opened

    def _holds(self, keys: np.ndarray) -> np.ndarray:
        layers = [layer for members in self._cached().layers.values() for layer in members]
        held = [all((key.tobytes(), layer) in self.cache for layer in layers) for key in keys]
        return np.array(held, bool).reshape(len(keys))

    def store(self, states: m.States, post: Post) -> None:
        opened = self._cached()
        expected = {key.tobytes() for key in opened.keys}
        keys = {key.tobytes() for key in states.keys}
        layers = set(states.layers)
        if not keys <= expected or not any(layers <= set(each) for each in opened.layers.values()):
            raise RemoteError(f"micro-batch {states.number}: states that nobody asked for")
        if states.encoded.shape[2] != row_bytes(opened.dtype, opened.hidden_size):
            raise RemoteError(f"micro-batch {states.number}: rows of another size")
        self.cache |= {(key, layer) for key in keys for layer in layers}
        post(m.Stored(number=states.number, layers=states.layers, samples=len(states.keys)))

    def _own(self, request: m.OwnSamples, post: Post) -> None:
        missing = request.indices[~self._holds(request.keys)]
        self.owned[request.which] = request
        post(
            m.SamplesReady(
                which=request.which,
                missing=missing,
                cache_bytes=self._cache_bytes,
                cache_samples=len({key for key, _ in self.cache}),
            )
        )

    def _move(self, request: m.MoveSamples, post_to: PostTo) -> None:
        if not self._holds(request.keys).all():
            raise RemoteError("asked to send samples that the cache lacks")
        send = partial(self._post_to_peer, request.to, post_to=post_to)
        self._send_states(request.number, request.keys, {}, request.layers, send)

    # ---- backbone

    def _serve(
        self,
        batch: m.MicroBatch,
        index: int,
        rows: Mapping[str, np.ndarray],
        post: Post,
        post_to: PostTo,
    ) -> None:
        if self._stage is None:
            raise RemoteError(f"micro-batch {batch.number} came before its stage was loaded")
        if batch.route[index] != self.device:
            raise RemoteError(f"micro-batch {batch.number} was routed to the wrong device")
        stage = self._stage.stage
        self._check_rows(batch, rows, stage)
        self.served.append((batch.number, index))
        if index + 1 < len(batch.route):
            carried = {name: rows.get(name) for name in stage.carries}
            made = {f"{HIDDEN_PREFIX}{i}": i for i in range(stage.first, stage.last)}
            for name in made.keys() & carried.keys():
                tokens = int(batch.lengths[stage.streams[made[name]]].sum())
                carried[name] = np.zeros((tokens, 1), np.float32)
            boundary = m.Activations(batch=batch, stage=index + 1, rows=carried)
            self._post_to_peer(batch.route[index + 1], boundary, post_to)
        layers = tuple(i for i in self._stage.layers if stage.first <= i < stage.last)
        for destination in batch.destinations:
            to = destination.device
            self._send_states(
                batch.number,
                batch.keys[destination.positions],
                {stream: each[destination.positions] for stream, each in batch.lengths.items()},
                layers,
                partial(self.store, post=post)
                if to == self.device
                else partial(self._post_to_peer, to, post_to=post_to),
            )
        post(m.BatchServed(number=batch.number, stage=index, seconds=0.1))

    def _check_rows(
        self, batch: m.MicroBatch, rows: Mapping[str, np.ndarray], stage: m.StageFiles
    ) -> None:
        """Checks the rows that this stage and those behind it need."""
        streams = {spec.name: spec.stream for spec in stage.inputs}
        streams |= {f"{HIDDEN_PREFIX}{i}": stream for i, stream in enumerate(stage.streams)}
        for name in self._manifest.carried(stage.first):
            if name not in rows:
                raise RemoteError(f"stage [{stage.first}, {stage.last}) lacks input {name!r}")
            if len(rows[name]) != (tokens := batch.lengths[streams[name]].sum()):
                raise RemoteError(f"{len(rows[name])} rows of {name!r} for {tokens} tokens")

    def _send_states(
        self,
        number: int,
        keys: np.ndarray,
        lengths: Mapping[str, np.ndarray],
        layers: Sequence[int],
        send: Post,
    ) -> None:
        """One message for each sequence that some of the layers belong to."""
        source = self._opened or self._stage
        assert source is not None
        size = row_bytes(source.dtype, self._manifest.hidden_size)
        for stream in self._manifest.streams:
            members = tuple(i for i in layers if i in self._manifest.layers_of(stream))
            if members:
                each = lengths.get(stream, np.ones(len(keys), np.int32))
                encoded = np.zeros((len(members), int(each.sum()), size), np.uint8)
                send(
                    m.States(
                        number=number,
                        keys=keys,
                        lengths=each,
                        layers=members,
                        encoded=encoded,
                        numerics="fake",
                    )
                )

    def _post_to_peer(self, to: DeviceId, message: m.Message, post_to: PostTo) -> None:
        self._check_peer(to)
        post_to(to, message)

    def _check_peer(self, peer: DeviceId) -> None:
        if peer not in self.peers:
            raise RemoteError(f"{peer} is not a peer of this session")

    # ---- training

    def _train(self, message: m.Message, post: Post) -> None:
        match message:
            case m.SetUpTraining():
                self._set_up_training(message)
                trains = message.adapter_graph is None
                post(m.TrainingReady(parameters=PARAMETERS if trains else 0))
            case m.TrainEpoch():
                self._trained()
                lines = self._owned("train").indices.tolist()
                self.epochs_done = message.epoch
                done = {
                    "epoch": message.epoch,
                    "samples": len(lines),
                    "count": count_of(self._owned("train").targets),
                    "loss_sum": sum(loss_of(index, message.epoch) for index in lines),
                }
                post(m.Progress(**done))
                post(m.EpochDone(**done, seconds=1.0))
            case m.Evaluate():
                indices = self._owned("eval").indices
                config = self._adapter().config
                columns = 3 if config.generative else config.num_outputs
                outputs = np.zeros((len(indices), columns), np.float32)
                for row, index in zip(outputs, indices.tolist(), strict=True):
                    row[:2] = output_of(index, self.epochs_done)
                post(m.Outputs(indices=indices, outputs=outputs))
            case m.SendState():
                self._trained()
                post(m.TrainerState(data=np.frombuffer(state_of(self.epochs_done), np.uint8)))
            case _:
                raise AssertionError(f"no device understands {message}")

    def _set_up_training(self, request: m.SetUpTraining) -> None:
        assert (request.head is not None) == request.config.generative
        if request.total_steps:  # from here on, the cache stands for the backbone
            self._stage = None
        if request.adapter_graph is None and self.device not in request.trainers:
            raise RemoteError("a device was told to train but is not among the trainers")
        self._set_up = request
        state = request.state.tobytes()
        self.epochs_done = int(state.removeprefix(STATE_PREFIX)) if state else self._trained_before

    def _adapter(self) -> m.SetUpTraining:
        if self._set_up is None:
            raise RemoteError("training was not set up")
        return self._set_up

    def _trained(self) -> None:
        if self._adapter().adapter_graph is not None:
            raise RemoteError("training was not set up")

    def _owned(self, which: m.SampleSet) -> m.OwnSamples:
        if which not in self.owned:
            raise RemoteError(f"this device owns no {which} samples")
        return self.owned[which]
