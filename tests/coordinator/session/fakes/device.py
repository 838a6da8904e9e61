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
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.contract.profile import DeviceProfile
from tests.coordinator.session.fakes.cache import CacheEntry as CacheEntry
from tests.coordinator.session.fakes.cache import FakeCache
from tests.coordinator.session.fakes.trainer import FakeTrainer, Post, PostTo

TaggedPost = Callable[[m.Message, Tag], None]
TaggedPostTo = Callable[[DeviceId, m.Message, Tag], None]
Job = tuple[m.Message, Tag, DeviceId | None]
"""A message that waits for its turn, and the peer that it came from, if one sent it."""


def link_of(sender: DeviceId, receiver: DeviceId) -> tuple[float, float]:
    """Bits a second and latency."""
    return 1e6 * (1 + len(sender)), 1e-3 * (len(sender) + len(receiver))


class FakeDevice:
    """Answers as a device does: sockets at once, heavy work in order when its turn comes.

    ``trained`` epochs are behind an adapter that is only evaluated. What it holds and learns
    outlives a session whose coordinator is gone: another session's ``Welcome`` begins anew.

    Attributes:
        jobs: heavy work that waits for its turn.
        parked: what peers sent of terms that have not begun here.
        unreachable: peers that it cannot connect to.
    """

    def __init__(
        self, profile: DeviceProfile, held: set[CacheEntry], trained: int, manifest: Manifest
    ) -> None:
        self._manifest = manifest
        self.device, self.profile = profile.device, profile
        self.cached = FakeCache(held)
        self.computed: list[bytes] = []
        self.served: list[tuple[int, int]] = []
        self.probed: list[DeviceId] = []
        self.profiled: list[m.ProfileRequest] = []
        self.unreachable: set[DeviceId] = set()
        self.trainer = FakeTrainer(self.device, trained)
        self._begin_session("")

    def _begin_session(self, session: str) -> None:
        self.session, self.term = session, 0
        self.jobs: collections.deque[Job] = collections.deque()
        self.parked: list[tuple[DeviceId, m.Message, Tag]] = []
        self.owned: dict[str, m.OwnSamples] = {}
        self.peers: set[DeviceId] = set()
        self.counted: m.Phase = "start"
        self.over = False
        self.cached.close()
        self._stage: m.LoadStage | None = None
        self.trainer.begin_session()

    @property
    def cache(self) -> set[CacheEntry]:
        """What it holds."""
        return self.cached.held

    def hello(self) -> m.Hello:
        return m.Hello(
            software=__version__,
            roles=self.profile.roles,
            data_address=f"tcp://{self.device}:1",
            process_id=7,
        )

    def take_in(self, message: m.Message, tag: Tag, post: TaggedPost) -> None:
        """Does the I/O thread's part with a message of the coordinator."""
        if isinstance(message, m.Welcome) and tag.session != self.session:
            self._begin_session(tag.session)
        if tag.session != self.session or 0 < tag.term < self.term:
            return
        if tag.term > self.term:
            self._begin_term(tag.term, post)
        say = partial(_say, post, tag)
        try:
            self._take_in(message, tag, say)
        except RemoteError as error:
            say(m.Failed(reason=str(error)))

    def take_from_peer(
        self, sender: DeviceId, message: m.Message, tag: Tag, post: TaggedPost
    ) -> None:
        """Does the I/O thread's part with a message of a peer."""
        if not self.session or tag.session != self.session or 0 < tag.term < self.term:
            return
        if tag.term > self.term:
            self.parked.append((sender, message, tag))
            return
        try:
            match message:
                case m.States():
                    post(self.cached.store(message), tag)
                case m.GradientPart() | m.ReducedPart():
                    self.trainer.deliver(sender, message, tag.term)
                case m.Activations():
                    self.jobs.append((message, tag, sender))
                case _:
                    raise RemoteError(f"{type(message).__name__} is not for peers to send")
        except RemoteError as error:
            self._reject(post, sender, str(error))

    def work(self, post: TaggedPost, post_to: TaggedPostTo) -> None:
        """Does the next job, as the compute thread would; of an epoch, at most one step."""
        message, tag, sender = self.jobs[0]
        self.trainer.reject = partial(self._reject, post)
        say = partial(_say, post, tag)
        belongs = Tag(session=tag.session, term=tag.term)

        def say_to(peer: DeviceId, each: m.Message) -> None:
            self._check_peer(peer)
            post_to(peer, each, belongs)

        try:
            over = self._work(message, say, say_to)
        except RemoteError as error:
            over = True
            self.trainer.give_up()
            if sender is None:
                say(m.Failed(reason=str(error)))
            else:
                self._reject(post, sender, str(error))
        if over:
            self.jobs.popleft()

    @property
    def can_work(self) -> bool:
        """Its next job can go on: no training step that lacks others' gradients."""
        if not self.jobs:
            return False
        return not (isinstance(self.jobs[0][0], m.TrainEpoch) and self.trainer.awaited)

    def report_awaited(self, post: TaggedPost) -> None:
        """Says whom the training step waits for, as a device does after 3 seconds."""
        if self.jobs and self.trainer.awaited:
            assert self.trainer.replica is not None
            step, tag = self.trainer.replica.step, self.jobs[0][1]
            post(m.Awaiting(step=step, peers=self.trainer.awaited), tag)

    @property
    def _own_tag(self) -> Tag:
        """Of what answers no request."""
        return Tag(session=self.session, term=self.term)

    def _begin_term(self, term: int, post: TaggedPost) -> None:
        self.term = term
        self.jobs = collections.deque(job for job in self.jobs if job[1].term in (0, term))
        self.trainer.begin_term()
        parked, self.parked = self.parked, []
        for sender, message, tag in parked:  # those of terms that are still to come park again
            self.take_from_peer(sender, message, tag, post)

    def _take_in(self, message: m.Message, tag: Tag, post: Post) -> None:
        match message:
            case m.Welcome() | m.BeginTerm():
                pass
            case m.Shutdown():
                self.over = True
            case m.Rejoin():
                post(self.hello())
            case m.BeginPhase():
                post(self._usage(message))
            case m.Peers():
                self.peers = {peer.device for peer in message.peers}
                direct = {peer.device for peer in message.peers if not peer.relayed}
                unreached = tuple(sorted(direct & self.unreachable))
                post(m.PeersReady(unreached=unreached))
            case m.ProbeLink():
                self._check_peer(message.peer)
                self.probed.append(message.peer)
                rate, latency = link_of(self.device, message.peer)
                post(
                    m.LinkMeasured(peer=message.peer, bits_per_second=rate, latency_seconds=latency)
                )
            case m.FormGroup():
                self.trainer.form_group(message, tag.term)
                post(m.GroupFormed())
            case _ if type(message) in {*m.ANSWER_OF, m.RunBatch, m.MoveSamples, m.Release}:
                self.jobs.append((message, tag, None))
            case _:
                raise RemoteError(f"{type(message).__name__} is not for devices")

    def _reject(self, post: TaggedPost, peer: DeviceId, reason: str) -> None:
        post(m.Rejected(peer=peer, reason=reason), self._own_tag)

    def _work(self, message: m.Message, post: Post, post_to: PostTo) -> bool:
        """Returns whether the job is over."""
        if isinstance(message, m.TrainEpoch):
            self._trained()
            owned = self._owned("train")
            return self.trainer.train(message, owned, self.cached.reads, post, post_to)
        match message:
            case m.ProfileRequest():
                self.profiled.append(message)
                post(m.ProfileDone(profile=self.profile))
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
                post(m.SamplesSent(number=message.number))
            case m.Release():
                pass
            case _:
                self._answer(message, post)
        return True

    def _open(self, message: m.OpenCache) -> m.CacheStatus:
        if self.cached.open(message):
            self.owned.clear()
        return self.cached.status(message)

    def _answer(self, message: m.Message, post: Post) -> None:
        match message:
            case m.HoldSamples():
                post(self.cached.hold_samples(message))
            case m.OpenCache():
                post(self._open(message))
            case m.OwnSamples():
                self._own(message, post)
            case m.SetUpTraining():
                if message.total_steps:  # from here on, the cache stands for the backbone
                    self._stage = None
                post(self.trainer.set_up(message))
            case m.Evaluate():
                post(self._evaluate(message))
            case m.TrainSettings():
                self._trained()
                samples = self._owned("train"), self._owned("eval")
                done = self.trainer.settings.train(message, *samples, self.cached.reads)
                post(m.Progress(sums=done.sums[0]))
                post(done)
            case m.TakeState() | m.CountTokens() | m.SendState():
                self._trained()
                post(self.trainer.answer(message, self.owned.get("train")))
            case m.SetUpGeneration() | m.Forget():
                forgets = isinstance(message, m.Forget)
                post(m.Forgotten(bytes=0) if forgets else m.GenerationReady())
            case _:
                raise AssertionError(f"no device understands {message}")

    def _usage(self, request: m.BeginPhase) -> m.Usage:
        ended, self.counted = self.counted, request.phase
        counts = {"peak_rss_bytes": 1, "sent_bytes": 2, "received_bytes": 3}
        return m.Usage(phase=ended, cpu_seconds={ended: 1.0}, **counts)

    # ---- cache

    def _own(self, request: m.OwnSamples, post: Post) -> None:
        missing = request.indices[~self.cached.holds(request.keys)]
        self.owned[request.which] = request
        post(
            m.SamplesReady(
                which=request.which,
                missing=missing,
                cache_bytes=self.cached.size_bytes,
                cache_samples=self.cached.samples,
            )
        )

    def _move(self, request: m.MoveSamples, post_to: PostTo) -> None:
        if not self.cached.holds(request.keys).all():
            raise RemoteError("asked to send samples that the cache lacks")
        send = partial(post_to, request.to)
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
            post_to(batch.route[index + 1], boundary)
        layers = tuple(i for i in self._stage.layers if stage.first <= i < stage.last)
        for destination in batch.destinations:
            to = destination.device
            self._send_states(
                batch.number,
                batch.keys[destination.positions],
                {stream: each[destination.positions] for stream, each in batch.lengths.items()},
                layers,
                self._keep(post) if to == self.device else partial(post_to, to),
            )
        post(m.BatchServed(number=batch.number, stage=index, seconds=0.1))

    def _keep(self, post: Post) -> Callable[[m.States], None]:
        return lambda states: post(self.cached.store(states))

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
        send: Callable[[m.States], None],
    ) -> None:
        """One message for each sequence that some of the layers belong to."""
        source = self.cached.opened or self._stage
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

    def _check_peer(self, peer: DeviceId) -> None:
        if peer not in self.peers:
            raise RemoteError(f"{peer} is not a peer of this session")

    # ---- training

    def _evaluate(self, request: m.Evaluate) -> m.Outputs:
        owned = self._owned("eval")
        self._adapter()
        return self.trainer.outputs(request, owned, self.cached.reads)

    def _adapter(self) -> m.SetUpTraining:
        if self.trainer.request is None:
            raise RemoteError("training was not set up")
        return self.trainer.request

    def _trained(self) -> None:
        if self._adapter().adapter_graph is not None:
            raise RemoteError("training was not set up")

    def _owned(self, which: m.SampleSet) -> m.OwnSamples:
        if which not in self.owned:
            raise RemoteError(f"this device owns no {which} samples")
        return self.owned[which]


def _say(post: TaggedPost, tag: Tag, message: m.Message) -> None:
    post(message, tag)
