"""Devices without sockets, and a cluster that plays any interleaving of their messages."""

import collections
import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

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
from coordinator.protocol.job import Job
from coordinator.session.machine import Session
from edge_runtime import __version__
from edge_runtime.contract import messages as m
from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.ids import DeviceId, Sha256
from edge_runtime.contract.manifest import Manifest, Stream
from edge_runtime.contract.profile import DeviceProfile

CacheEntry = tuple[bytes, int]
Post = Callable[[m.Message], None]
PostTo = Callable[[DeviceId, m.Message], None]


def loss_of(index: int, epoch: int) -> float:
    """The loss that fake trainers find for line ``index``."""
    return (index + 1) / epoch


def output_of(index: int, epochs_done: int) -> tuple[float, float]:
    """The outputs that fake trainers compute for evaluation line ``index``.

    A language model's third column is 0.
    """
    return float(index), float(epochs_done)


def link_of(sender: DeviceId, receiver: DeviceId) -> tuple[float, float]:
    """Bits a second and latency that fake devices find."""
    return 1e6 * (1 + len(sender)), 1e-3 * (len(sender) + len(receiver))


def count_of(targets: np.ndarray) -> int:
    """What a mean loss divides by."""
    return int((targets >= 0).sum()) if targets.dtype == np.int32 else len(targets)


class FakeDevice:
    """Answers as a device does: sockets at once, heavy work in order when its turn comes."""

    def __init__(
        self, profile: DeviceProfile, held: set[CacheEntry], trained: int, manifest: Manifest
    ) -> None:
        self._manifest = manifest
        self.device, self.profile = profile.device, profile
        self.cache = set(held)
        self.jobs: collections.deque[m.Message] = collections.deque()
        self.computed: list[bytes] = []
        self.served: list[tuple[int, int]] = []
        self.owned: dict[str, m.OwnSamples] = {}
        self.trainers: tuple[DeviceId, ...] = ()
        self.peers: set[DeviceId] = set()
        self.probed: list[DeviceId] = []
        self.profiled: list[m.ProfileRequest] = []
        self.epochs_done = trained
        self.counted = "start"
        self.over = False
        self._layers: dict[Stream, tuple[int, ...]] = {}
        self._columns = 0
        self._stage: m.LoadStage | None = None

    def hello(self) -> m.Hello:
        return m.Hello(
            software=__version__,
            roles=self.profile.roles,
            data_address=f"tcp://{self.device}:1",
            process_id=7,
        )

    def take_in(self, message: m.Message, post: Post) -> None:
        """What the I/O thread does."""
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
                assert message.peer in self.peers, "asked for the link to an unknown device"
                self.probed.append(message.peer)
                rate, latency = link_of(self.device, message.peer)
                post(
                    m.LinkMeasured(peer=message.peer, bits_per_second=rate, latency_seconds=latency)
                )
            case m.States():
                self.store(message, post)
            case _:
                self.jobs.append(message)

    def work(self, post: Post, post_to: PostTo) -> None:
        """What the compute thread does with its next job."""
        match message := self.jobs.popleft():
            case m.ProfileRequest():
                self.profiled.append(message)
                post(m.ProfileDone(profile=self.profile))
            case m.OpenCache():
                self._layers = message.layers
                post(m.CacheStatus(held=self._holds(message.keys), bytes_used=0))
            case m.LoadStage():
                self._stage = message
                stage = message.stage
                post(
                    m.StageReady(first=stage.first, last=stage.last, received_bytes=11, seconds=0.1)
                )
            case m.RunBatch():
                self.computed += [key.tobytes() for key in message.batch.keys]
                self._serve(message.batch, 0, message.inputs, post, post_to)
            case m.Activations():
                self._serve(message.batch, message.stage, message.rows, post, post_to)
            case m.MoveSamples():
                assert self._holds(message.keys).all(), "asked to send what is not there"
                self._send_states(
                    message.number, message.keys, {}, message.layers, partial(post_to, message.to)
                )
            case m.OwnSamples():
                self._own(message, post)
            case _:
                self._train(message, post)

    def _usage(self, request: m.BeginPhase) -> m.Usage:
        ended, self.counted = self.counted, request.phase
        return m.Usage(
            phase=ended,  # type: ignore[arg-type]
            cpu_seconds={ended: 1.0},
            peak_rss_bytes=1,
            sent_bytes=2,
            received_bytes=3,
        )

    def _holds(self, keys: np.ndarray) -> np.ndarray:
        layers = [layer for members in self._layers.values() for layer in members]
        held = [all((key.tobytes(), layer) in self.cache for layer in layers) for key in keys]
        return np.array(held, bool).reshape(len(keys))

    def store(self, states: m.States, post: Post) -> None:
        assert self._layers, "states came before the cache was open"
        assert any(set(states.layers) <= set(members) for members in self._layers.values())
        for key in states.keys:
            self.cache |= {(key.tobytes(), layer) for layer in states.layers}
        post(m.Stored(number=states.number, layers=states.layers, samples=len(states.keys)))

    def _serve(
        self,
        batch: m.MicroBatch,
        index: int,
        rows: Mapping[str, np.ndarray],
        post: Post,
        post_to: PostTo,
    ) -> None:
        assert self._stage is not None, "a micro-batch came before its stage was loaded"
        assert batch.route[index] == self.device
        self.served.append((batch.number, index))
        stage = self._stage.stage
        self._check_rows(batch, rows)
        if index + 1 < len(batch.route):
            carried = {name: rows.get(name) for name in stage.carries}
            made = {f"hidden.{i}": i for i in range(stage.first, stage.last)}
            for name in made.keys() & carried.keys():
                tokens = int(batch.lengths[stage.streams[made[name]]].sum())
                carried[name] = np.zeros((tokens, 1), np.float32)
            post_to(
                batch.route[index + 1], m.Activations(batch=batch, stage=index + 1, rows=carried)
            )
        layers = tuple(i for i in self._stage.layers if stage.first <= i < stage.last)
        for destination in batch.destinations:
            to = destination.device
            self._send_states(
                batch.number,
                batch.keys[destination.positions],
                {stream: each[destination.positions] for stream, each in batch.lengths.items()},
                layers,
                partial(self.store, post=post) if to == self.device else partial(post_to, to),
            )
        post(m.BatchServed(number=batch.number, stage=index, seconds=0.1))

    def _check_rows(self, batch: m.MicroBatch, rows: Mapping[str, np.ndarray]) -> None:
        """What came is exactly what this stage and those behind it need."""
        assert self._stage is not None
        stage = self._stage.stage
        assert set(rows) == set(self._manifest.carried(stage.first))
        streams = {spec.name: spec.stream for spec in stage.inputs}
        streams |= {f"hidden.{i}": stream for i, stream in enumerate(stage.streams)}
        for name, each in rows.items():
            assert len(each) == batch.lengths[streams[name]].sum()

    def _send_states(
        self,
        number: int,
        keys: np.ndarray,
        lengths: Mapping[Stream, np.ndarray],
        layers: Sequence[int],
        send: Callable[[m.States], None],
    ) -> None:
        """One message for each sequence that some of the layers belong to."""
        for stream in self._manifest.streams:
            members = tuple(i for i in layers if i in self._manifest.layers_of(stream))
            if members:
                each = lengths.get(stream, np.ones(len(keys), np.int32))
                send(_states(number, keys, each, members))

    def _own(self, request: m.OwnSamples, post: Post) -> None:
        self.owned[request.which] = request
        missing = request.indices[~self._holds(request.keys)]
        post(m.SamplesReady(which=request.which, missing=missing, cache_bytes=10, cache_samples=1))

    def _train(self, message: m.Message, post: Post) -> None:
        match message:
            case m.SetUpTraining():
                self.trainers = message.trainers
                config = message.config
                assert (message.head is not None) == config.generative
                self._columns = 3 if config.generative else config.num_outputs
                post(m.TrainingReady(parameters=5))
            case m.TrainEpoch():
                assert message.epoch == self.epochs_done + 1, "an epoch was skipped or repeated"
                self.epochs_done = message.epoch
                owned = self.owned["train"]
                lines = owned.indices.tolist()
                done = {
                    "epoch": message.epoch,
                    "samples": len(lines),
                    "count": count_of(owned.targets),
                    "loss_sum": sum(loss_of(index, message.epoch) for index in lines),
                }
                post(m.Progress(**done))
                post(m.EpochDone(**done, seconds=1.0))
            case m.Evaluate():
                indices = self.owned["eval"].indices
                outputs = np.zeros((len(indices), self._columns), np.float32)
                outputs[:, :2] = [output_of(index, self.epochs_done) for index in indices.tolist()]
                post(m.Outputs(indices=indices, outputs=outputs))
            case m.SendState():
                data = np.frombuffer(b"state %d" % self.epochs_done, np.uint8)
                post(m.TrainerState(data=data))
            case _:
                raise AssertionError(f"no device understands {message}")


def _states(
    number: int, keys: np.ndarray, lengths: np.ndarray, layers: tuple[int, ...]
) -> m.States:
    return m.States(
        number=number,
        keys=keys,
        lengths=lengths,
        layers=layers,
        encoded=np.zeros((len(layers), int(lengths.sum()), 1), np.uint8),
        numerics="fake",
    )


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing that can happen next; ``device`` is whom it makes faster or slower."""

    device: DeviceId
    happen: Callable[[], None]


class Cluster:
    """Fake devices around a session. Every link is first in, first out; nothing else is certain.

    Checks at every step what must hold whatever the interleaving.
    """

    def __init__(
        self,
        job: Job,
        profiles: Mapping[DeviceId, DeviceProfile],
        held: Mapping[DeviceId, set[CacheEntry]],
        window: int,
    ) -> None:
        self.job, self.session = job, Session(job)
        self.devices = {
            name: FakeDevice(profile, held.get(name, set()), job.epochs_done, job.manifest)
            for name, profile in profiles.items()
        }
        self.joined: set[DeviceId] = set()
        self.phases: list[str] = [self.session.phase]
        self.events: list[Record] = []
        self.checkpoints: list[SaveCheckpoint] = []
        self.owed: collections.Counter[tuple[DeviceId, type[m.Message]]] = collections.Counter()
        self.leases: dict[int, set[tuple[DeviceId, int]]] = {}
        self.finished = False
        self.failure: Exception | None = None
        self.shut_down: set[DeviceId] = set()
        self._window = window
        self._clock = 0.0
        self._down: dict[DeviceId, collections.deque[m.Message]] = collections.defaultdict(
            collections.deque
        )
        self._up: dict[DeviceId, collections.deque[m.Message]] = collections.defaultdict(
            collections.deque
        )
        self._mesh: dict[tuple[DeviceId, DeviceId], collections.deque[m.Message]] = (
            collections.defaultdict(collections.deque)
        )

    def run(self, chance: random.Random, slow: DeviceId | None = None) -> None:
        """Plays to the end; ``slow`` does something only when nobody else can."""
        while self.advance(chance, slow):
            pass

    def advance(self, chance: random.Random, slow: DeviceId | None = None) -> bool:
        """Lets one thing happen; False when nothing can."""
        steps = list(self._steps())
        steps = [step for step in steps if step.device != slow] or steps
        if steps:
            chance.choice(steps).happen()
        return bool(steps)

    def tell(self, event: Event) -> list[Action]:
        """Gives the session an event and carries its actions out."""
        over = self.finished or self.failure is not None
        self._clock += 1.0
        actions = self.session.handle(event, self._clock)
        assert not (over and actions), "the session acted after its end"
        if isinstance(event, Received) and isinstance(event.message, m.Stored):
            self._note_stored(event.device, event.message)
        if self.session.phase != self.phases[-1]:
            self.phases.append(self.session.phase)
        for action in actions:
            self._carry_out(action)
        return actions

    # ---- what can happen

    def _steps(self) -> Iterator[Step]:
        for name, device in self.devices.items():
            if name not in self.joined and not (self.finished or self.failure):
                yield Step(name, lambda name=name: self._join(name))
            if device.over:
                continue
            if self._down[name]:
                yield Step(name, lambda name=name: self._take_in(name, self._down[name]))
            if device.jobs and self._may_work(device):
                yield Step(name, lambda name=name: self._work(name))
        for name, queue in self._up.items():
            if queue:
                yield Step(name, lambda name=name: self._receive(name))
        for (_, to), queue in self._mesh.items():
            if queue and not self.devices[to].over:
                yield Step(to, lambda to=to, queue=queue: self._take_in(to, queue))

    def _may_work(self, device: FakeDevice) -> bool:
        """A trainer gets through an epoch only together with all the others."""
        epoch = device.jobs[0]
        if not isinstance(epoch, m.TrainEpoch):
            return True
        others = [self.devices[name] for name in device.trainers]
        return all(
            other.epochs_done == epoch.epoch or (other.jobs and other.jobs[0] == epoch)
            for other in others
        )

    def _join(self, name: DeviceId) -> None:
        self.joined.add(name)
        self.tell(Joined(device=name, hello=self.devices[name].hello(), public_key=f"key {name}"))

    def _take_in(self, name: DeviceId, queue: collections.deque[m.Message]) -> None:
        self.devices[name].take_in(queue.popleft(), self._post(name))

    def _work(self, name: DeviceId) -> None:
        self.devices[name].work(self._post(name), self._post_to(name))

    def _receive(self, name: DeviceId) -> None:
        message = self._up[name].popleft()
        self.owed[name, type(message)] -= 1
        self.tell(Received(device=name, message=message))

    def _post(self, name: DeviceId) -> Post:
        return lambda message: self._up[name].append(_over_the_wire(message))

    def _post_to(self, name: DeviceId) -> PostTo:
        def post_to(to: DeviceId, message: m.Message) -> None:
            assert to != name, "a device sent states to itself"
            assert to in self.devices[name].peers, f"{to} is no peer of {name}"
            self._mesh[name, to].append(_over_the_wire(message))

        return post_to

    # ---- what the session wants

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send():
                self._send(action.device, action.message)
            case SendProfileRequest():
                self._send(action.device, _profile_request(action.known))
            case SendStage():
                self._send(action.device, _load_stage(self.job, action.first, action.last))
            case Record():
                self.events.append(action)
            case SaveCheckpoint():
                self.checkpoints.append(action)
            case Finish():
                self.finished = True
            case Fail():
                self.failure = action.error

    def _send(self, name: DeviceId, message: m.Message) -> None:
        assert name in self.joined, f"{type(message).__name__} was sent to {name}, who never joined"
        if isinstance(message, m.Shutdown):
            self.shut_down.add(name)
        if type(message) in m.ANSWER_OF:
            self.owed[name, m.ANSWER_OF[type(message)]] += 1
        if isinstance(message, m.RunBatch | m.MoveSamples):
            self._note_lease(message)
        self._down[name].append(_over_the_wire(message))

    def _note_lease(self, message: m.RunBatch | m.MoveSamples) -> None:
        layers = self.job.config.layers
        if isinstance(message, m.RunBatch):
            number = message.batch.number
            owners = [entry.device for entry in message.batch.destinations]
        else:
            number, owners = message.number, [message.to]
        assert number not in self.leases, "two items have one number"
        self.leases[number] = {(owner, layer) for owner in owners for layer in layers}
        assert len([lease for lease in self.leases.values() if lease]) <= self._window

    def _note_stored(self, name: DeviceId, message: m.Stored) -> None:
        lease = self.leases.get(message.number, set())
        lease -= {(name, layer) for layer in message.layers}


def _over_the_wire(message: m.Message) -> m.Message:
    return decode(encode(message))


def _profile_request(known: DeviceProfile | None) -> m.ProfileRequest:
    return m.ProfileRequest(
        stages=(),
        block_classes=(),
        batch=1,
        tokens={"encoder": 1},
        max_tokens={"encoder": 1},
        hidden_size=8,
        adapter=None,
        backbone_digest=Sha256("0" * 64),
        cache_dtype="fp16",
        cache_quota_bytes=None,
        known=known,
    )


def _load_stage(job: Job, first: int, last: int) -> m.LoadStage:
    empty = np.zeros(0, np.uint8)
    stage = m.StageFiles(
        first=first,
        last=last,
        streams=tuple(block.stream for block in job.manifest.blocks[:last]),
        carries=job.manifest.carried(last),
        inputs=job.manifest.inputs,
        graph=empty,
        exact_graph=empty,
        files=(),
    )
    return m.LoadStage(stage=stage, layers=job.config.layers, dtype="fp16")


def lose(cluster: Cluster, device: DeviceId, reason: str) -> list[Action]:
    """The device is gone."""
    return cluster.tell(Lost(device=device, reason=reason))
