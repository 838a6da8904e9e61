"""A cluster of fake devices that plays any interleaving of their messages."""

import collections
import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from coordinator.protocol.actions import (
    Action,
    Fail,
    Finish,
    KeepEvaluation,
    Record,
    SaveCheckpoint,
    Send,
    SendProfileRequest,
    SendStage,
)
from coordinator.protocol.events import Event, Joined, Lost, Received
from coordinator.protocol.job import Job
from coordinator.session.machine import Session
from edge_runtime.contract import messages as m
from edge_runtime.contract.codec import decode_tagged, encode
from edge_runtime.contract.ids import DeviceId, Sha256
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.contract.profile import DeviceProfile
from tests.coordinator.session.fakes.device import (
    CacheEntry,
    FakeDevice,
    TaggedPost,
    TaggedPostTo,
)

Queue = collections.deque[tuple[m.Message, Tag]]
Queues = dict[DeviceId, Queue]


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing that can happen next; ``device`` is whom it makes faster or slower."""

    device: DeviceId
    happen: Callable[[], None]


class Cluster:
    """Fake devices around a session. Every link is first in, first out; nothing else is certain.

    Checks at every step what must hold whatever the interleaving. ``faults`` are steps that can
    happen besides, see :mod:`tests.faults`.
    """

    def __init__(
        self,
        job: Job,
        profiles: Mapping[DeviceId, DeviceProfile],
        held: Mapping[DeviceId, set[CacheEntry]],
        window: int,
    ) -> None:
        self.job = job = dataclasses.replace(job, session=job.session or "s", run=job.run or "r")
        self.session = Session(job)
        self.profiles = profiles
        self.devices = {
            name: FakeDevice(profile, held.get(name, set()), self.epochs_done, job.manifest)
            for name, profile in profiles.items()
        }
        self.joined: set[DeviceId] = set()
        self.down: set[DeviceId] = set()
        self.ever: set[DeviceId] = set()
        self.phases: list[str] = [self.session.phase]
        self.events: list[Record] = []
        self.checkpoints: list[SaveCheckpoint] = []
        self.evaluations: list[KeepEvaluation] = []
        self.owed: collections.Counter[tuple[DeviceId, type[m.Message]]] = collections.Counter()
        self.leases: dict[int, set[tuple[DeviceId, int]]] = {}
        self.finished = False
        self.failure: Exception | None = None
        self.shut_down: set[DeviceId] = set()
        self.clock = 0.0
        self._window = window
        self._down: Queues = collections.defaultdict(collections.deque)
        self._up: Queues = collections.defaultdict(collections.deque)
        self._mesh: dict[tuple[DeviceId, DeviceId], Queue] = collections.defaultdict(
            collections.deque
        )

    @property
    def best_state(self) -> bytes:
        """What a coordinator that is started again finds of the best epoch."""
        return next((each.state for each in reversed(self.evaluations) if each.state), b"")

    @property
    def epochs_done(self) -> int:
        """Epochs behind the job's state."""
        return self.job.steps_done // max(1, self.job.steps_per_epoch)

    def run(self, chance: random.Random, slow: DeviceId | None = None) -> None:
        """Plays to the end; ``slow`` does something only when nobody else can."""
        while self.advance(chance, slow):
            pass

    def advance(self, chance: random.Random, slow: DeviceId | None = None) -> bool:
        """Lets one thing happen; False when nothing can."""
        steps = list(self.steps())
        steps = [step for step in steps if step.device != slow] or steps
        if steps:
            chance.choice(steps).happen()
        return bool(steps)

    def wire(self, message: m.Message, tag: Tag) -> tuple[m.Message, Tag]:
        """What arrives of a message."""
        return over_the_wire(message, tag)

    @property
    def over(self) -> bool:
        """The session has ended, well or not."""
        return self.finished or self.failure is not None

    def tell(self, event: Event) -> list[Action]:
        """Gives the session an event and carries its actions out."""
        over, term = self.over, self.session.state.term
        self.clock += 0.001
        actions = self.session.handle(event, self.clock)
        assert not (over and actions), "the session acted after its end"
        if isinstance(event, Received) and isinstance(event.message, m.Stored):
            self._note_stored(event.device, event.message)
        if self.session.state.term != term:
            self.leases.clear()
            self.owed.clear()
        if self.session.phase != self.phases[-1]:
            self.phases.append(self.session.phase)
        for action in actions:
            self._carry_out(action)
        return actions

    # ---- what can happen

    def steps(self) -> Iterator[Step]:
        """Everything that can happen next, without any fault."""
        for name, device in self.devices.items():
            if name in self.down:
                continue
            if name not in self.joined and not self.over:
                yield Step(name, lambda name=name: self.join(name))
            if device.over:
                continue
            if self._down[name]:
                yield Step(name, lambda name=name: self._take_in(name))
            if device.can_work:
                yield Step(name, lambda name=name: self._work(name))
        yield from self._arrivals()

    def _arrivals(self) -> Iterator[Step]:
        for name, queue in self._up.items():
            if queue:
                yield Step(name, lambda name=name: self._receive(name))
        for (sender, to), queue in self._mesh.items():
            if queue and not self.devices[to].over and to not in self.down:
                yield Step(to, lambda sender=sender, to=to: self._take_from_peer(sender, to))

    def join(self, name: DeviceId) -> None:
        """The device says hello."""
        self.joined.add(name)
        self.ever.add(name)
        self.tell(Joined(device=name, hello=self.devices[name].hello(), public_key=f"key {name}"))

    def _take_in(self, name: DeviceId) -> None:
        message, tag = self._down[name].popleft()
        self.devices[name].take_in(message, tag, self._post(name))

    def _take_from_peer(self, sender: DeviceId, to: DeviceId) -> None:
        message, tag = self._mesh[sender, to].popleft()
        self.devices[to].take_from_peer(sender, message, tag, self._post(to))

    def _work(self, name: DeviceId) -> None:
        self.devices[name].work(self._post(name), self._post_to(name))

    def _receive(self, name: DeviceId) -> None:
        message, tag = self._up[name].popleft()
        if isinstance(message, m.Hello):
            self.join(name)
            return
        self.owed[name, type(message)] -= 1
        self.tell(Received(device=name, message=message, term=tag.term, reply=tag.reply))

    def _post(self, name: DeviceId) -> TaggedPost:
        def post(message: m.Message, tag: Tag) -> None:
            self.check_said(name, message)
            self._up[name].append(self.wire(message, tag))

        return post

    def check_said(self, name: DeviceId, message: m.Message) -> None:
        """Devices refuse nothing that an undisturbed session asks for."""
        assert not isinstance(message, m.Failed), f"{name} refused: {message.reason}"
        assert not isinstance(message, m.Rejected), f"{name} rejected: {message.reason}"

    def _post_to(self, name: DeviceId) -> TaggedPostTo:
        def post_to(to: DeviceId, message: m.Message, tag: Tag) -> None:
            assert to != name, "a device sent states to itself"
            self._mesh[name, to].append(self.wire(message, tag))

        return post_to

    # ---- faults

    def kill(self, name: DeviceId) -> None:
        """The device's process ends; what it had sent may still arrive, or not."""
        self.down.add(name)
        self._down[name].clear()
        for pair in self._mesh:
            if pair[1] == name:
                self._mesh[pair].clear()

    def start_again(self, name: DeviceId) -> None:
        """The device is started again: its cache is on its disk, nothing else is left."""
        old = self.devices[name]
        self.devices[name] = fresh = FakeDevice(
            self.profiles[name], old.cache, self.epochs_done, self.job.manifest
        )
        fresh.cached.room, fresh.cached.memory_bytes = old.cached.room, old.cached.memory_bytes
        self.down.discard(name)
        self.joined.discard(name)
        self.shut_down.discard(name)
        self._up[name].clear()

    # ---- what the session wants

    def _carry_out(self, action: Action) -> None:
        match action:
            case Send():
                tag = Tag(session=self.job.session, term=action.term, reply=action.reply)
                self._send(action.device, action.message, tag)
            case SendProfileRequest():
                tag = Tag(session=self.job.session, reply=action.reply)
                self._send(action.device, profile_request(action), tag)
            case SendStage():
                tag = Tag(session=self.job.session, term=action.term, reply=action.reply)
                self._send(action.device, _load_stage(self.job, action.first, action.last), tag)
            case Record():
                self.events.append(action)
            case SaveCheckpoint():
                self.checkpoints.append(action)
            case KeepEvaluation():
                self.evaluations.append(action)
            case Finish():
                self.finished = True
            case Fail():
                self.failure = action.error

    def _send(self, name: DeviceId, message: m.Message, tag: Tag) -> None:
        assert name in self.ever, f"{type(message).__name__} was sent to {name}, who never joined"
        if isinstance(message, m.Shutdown):
            self.shut_down.add(name)
        if type(message) in m.ANSWER_OF:
            assert tag.reply, "a request has a number"
            self.owed[name, m.ANSWER_OF[type(message)]] += 1
        if isinstance(message, m.RunBatch):
            assert set(message.inputs) <= set(self.job.manifest.carried(0)), "more than is read"
        if isinstance(message, m.RunBatch | m.MoveSamples):
            self._note_lease(message)
        if name not in self.down:
            self._down[name].append(self.wire(message, tag))

    def _note_lease(self, message: m.RunBatch | m.MoveSamples) -> None:
        layers = self.job.config.layers
        if isinstance(message, m.RunBatch):
            number = message.batch.number
            owners = [entry.device for entry in message.batch.destinations]
        else:
            number, owners = message.number, [message.to]
        assert number not in self.leases, "two work items have one number"
        self.leases[number] = {(owner, layer) for owner in owners for layer in layers}
        assert len([lease for lease in self.leases.values() if lease]) <= self._window

    def _note_stored(self, name: DeviceId, message: m.Stored) -> None:
        lease = self.leases.get(message.number, set())
        lease -= {(name, layer) for layer in message.layers}


def over_the_wire(message: m.Message, tag: Tag) -> tuple[m.Message, Tag]:
    """Encodes and decodes a message."""
    tag, message = decode_tagged(encode(message, tag))
    return message, tag


def profile_request(action: SendProfileRequest) -> m.ProfileRequest:
    """Measures nothing."""
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
        known=action.known,
        source=action.source,
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
    return cluster.tell(Lost(device=device, reason=reason, ended=True))


def answer(cluster: Cluster, device: DeviceId, message: m.Message) -> list[Action]:
    """The device gives this answer to what it was asked."""
    state = cluster.session.state
    replies = [
        question.number
        for asked, question in state.questions
        if asked == device and m.ANSWER_OF[question.ask.kind] is type(message)
    ]
    assert replies, f"{device} was not asked for {type(message).__name__}"
    received = Received(device=device, message=message, term=state.term, reply=replies[0])
    return cluster.tell(received)


def fail(cluster: Cluster, device: DeviceId, failed: m.Failed) -> list[Action]:
    """The device says that it could not do what it was asked in this term."""
    term = cluster.session.state.term
    return cluster.tell(Received(device=device, message=failed, term=term))
