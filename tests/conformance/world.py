"""A tiny model, some lines, and the requests that bring devices to where a claim begins."""

from __future__ import annotations

import numpy as np

from coordinator.cluster.stage_files import StageCutter
from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.generation import GenerationOptions
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.contract.order import rank_samples, shard_of, steps_per_epoch
from edge_runtime.contract.sample import Ragged, sample_keys
from export.partition.stages import Bundle
from tests.conformance.driver import Driver
from tests.coordinator.planner.problems import profile

A, B = DeviceId("a"), DeviceId("b")
CUT = 2
DTYPE: m.CacheDtype = "fp16"
BATCH_SIZE = 4
TRAIN, EVAL = tuple(range(7)), (7, 8, 9)
STEPS = steps_per_epoch(len(TRAIN), BATCH_SIZE)
OPTIONS = TrainingOptions(epochs=2, batch_size=BATCH_SIZE, seed=5)
SHARDS = {A: (0, 1), B: (2, 3)}
RUN = "r1"
PUBLIC_KEY = "k" * 40
FENCE = m.SetUpGeneration(
    options=GenerationOptions(), max_sequences=1, max_rows={"decoder": 1, "encoder": 1}
)


class World:
    """Lines of a bundle's model, and the devices that ``driver`` brings."""

    def __init__(self, bundle: Bundle, driver: Driver) -> None:
        self.driver = driver
        self.session, self.term, self.tag = "s0", 1, Tag()
        self._requests = 0
        manifest = self.manifest = bundle.manifest
        self._cutter = StageCutter(bundle)
        self.layers = tuple(range(len(manifest.blocks)))
        generator = np.random.default_rng(3)
        count = len(TRAIN) + len(EVAL)
        self._lengths = generator.integers(2, 6, count).astype(np.int32)
        self._inputs = {
            spec.name: Ragged.from_rows(generator.integers(0, 2, each) for each in self._lengths)
            for spec in manifest.inputs
            if spec.kind == "tokens"
        }
        numbers = Ragged.from_rows([line] for line in range(count))
        self.keys = sample_keys(manifest.backbone_digest, {"line": numbers})
        self.config = AdapterConfig(
            hidden_size=manifest.hidden_size,
            layers=self.layers,
            task="classification",
            num_outputs=3,
        )
        self._ranks = rank_samples(self.keys[: len(TRAIN)], self._lengths[: len(TRAIN)], BATCH_SIZE)

    # ---- requests

    def peers(self, *names: DeviceId) -> m.Peers:
        return m.Peers(
            peers=tuple(
                m.Peer(device=name, public_key=PUBLIC_KEY, address="127.0.0.1:1") for name in names
            )
        )

    def profile_request(self) -> m.ProfileRequest:
        """Measures nothing: what is known is measured again."""
        return m.ProfileRequest(
            stages=(),
            block_classes=(),
            batch=1,
            tokens={"encoder": 1},
            max_tokens={"encoder": 1},
            hidden_size=8,
            backbone_digest=self.manifest.backbone_digest,
            cache_dtype=DTYPE,
            known=profile(A),
        )

    def open_cache(self, lines=(*TRAIN, *EVAL)) -> m.OpenCache:
        return m.OpenCache(
            backbone_digest=self.manifest.backbone_digest,
            dtype=DTYPE,
            hidden_size=self.manifest.hidden_size,
            quota_bytes=None,
            layers={"encoder": self.layers},
            keys=self.keys[list(lines)],
        )

    def load_stage(self, first: int, last: int) -> m.LoadStage:
        return self._cutter.load_stage(first, last, layers=self.layers, dtype=DTYPE)

    def run_batch(self, number: int, lines, route, owners) -> m.RunBatch:
        """``owners`` maps devices to those of the lines that they keep."""
        lines = list(lines)
        batch = m.MicroBatch(
            number=number,
            route=tuple(route),
            keys=self.keys[lines],
            lengths={"encoder": self._lengths[lines]},
            destinations=tuple(
                m.Destination(device=name, positions=np.array([lines.index(line) for line in mine]))
                for name, mine in owners.items()
            ),
        )
        inputs = {name: ragged.take(lines).values for name, ragged in self._inputs.items()}
        return m.RunBatch(batch=batch, inputs=inputs)

    def move(self, number: int, lines, to: DeviceId) -> m.MoveSamples:
        return m.MoveSamples(number=number, keys=self.keys[list(lines)], layers=self.layers, to=to)

    def own(self, which: m.SampleSet, lines) -> m.OwnSamples:
        lines = list(lines)
        first = TRAIN[0] if which == "train" else EVAL[0]
        ranks = self._ranks if which == "train" else np.arange(len(EVAL))
        return m.OwnSamples(
            which=which,
            total=len(TRAIN) if which == "train" else len(EVAL),
            indices=np.array(lines, np.int32),
            keys=self.keys[lines],
            ranks=ranks[[line - first for line in lines]],
            lengths={"encoder": self._lengths[lines]},
            second_starts=np.zeros(len(lines), np.int32),
            targets=np.array([line % 3 for line in lines], np.int64),
        )

    def set_up_training(
        self, state: bytes = b"", *, run: str = RUN, sums: m.EpochSums = m.NOTHING_SUMMED
    ) -> m.SetUpTraining:
        return m.SetUpTraining(
            config=self.config,
            options=OPTIONS,
            total_steps=OPTIONS.epochs * STEPS,
            state=np.frombuffer(state, np.uint8),
            run=run,
            sums=sums,
        )

    def train_settings(self) -> m.TrainSettings:
        return m.TrainSettings(
            settings=(m.Setting(number=0, config=self.config, options=OPTIONS),),
            epoch=1,
            first_step=0,
            num_steps=STEPS,
            total_steps=OPTIONS.epochs * STEPS,
            sends_state=True,
        )

    def take_state(self, state: m.TrainerState) -> m.TakeState:
        """Hands on what a donor sent."""
        return m.TakeState(data=state.data, step=state.step, sums=state.sums)

    def states(self, lines, *, layers=None, spare_bytes: int = 0, number: int = 1) -> m.States:
        """States as a peer sends them; ``spare_bytes`` makes rows too long."""
        lengths = self._lengths[list(lines)]
        layers = self.layers if layers is None else layers
        row = 2 * self.manifest.hidden_size + spare_bytes
        return m.States(
            number=number,
            keys=self.keys[list(lines)],
            lengths=lengths,
            layers=layers,
            encoded=np.zeros((len(layers), int(lengths.sum()), row), np.uint8),
            numerics="test",
        )

    def activations(self, *route: DeviceId) -> m.Activations:
        """One line on its way to the second device of ``route``."""
        tokens = int(self._lengths[0])
        rows = np.zeros((tokens, self.manifest.hidden_size), np.float32)
        batch = self.run_batch(1, [0], route, {}).batch
        return m.Activations(batch=batch, stage=1, rows={f"hidden.{CUT - 1}": rows})

    def lines_of(self, name: DeviceId) -> list[int]:
        """The training lines of a device's shards."""
        shards = shard_of(self._ranks, len(TRAIN), BATCH_SIZE)
        return np.flatnonzero(np.isin(shards, SHARDS[name])).tolist()

    # ---- conversations

    def start(self, *names: DeviceId) -> None:
        """Begins the session, and its term."""
        self.driver.start(self.session, *names)
        for name in names:
            self.send(name, m.BeginTerm())

    def stop(self) -> None:
        """Ends the session; another may begin."""
        self.driver.stop()
        self._forget()

    def abandon(self) -> None:
        """Ends the session as if the coordinator were killed; another may begin."""
        self.driver.abandon()
        self._forget()

    def _forget(self) -> None:
        self.session, self.term = f"after {self.session}", 1

    def send(self, name: DeviceId, request: m.Message, **belongs) -> Tag:
        """Sends a request under a number of its own; returns what it bears."""
        self._requests += 1
        fields = {"session": self.session, "term": self.term, "reply": self._requests}
        tag = Tag(**(fields | belongs))
        self.driver.send(name, request, tag)
        return tag

    def send_as_peer(self, sender: DeviceId, to: DeviceId, message: m.Message, **belongs) -> None:
        """Sends what a device says to another."""
        fields = {"session": self.session, "term": self.term}
        self.driver.send_as_peer(sender, to, message, Tag(**(fields | belongs)))

    def receive(self, name: DeviceId) -> m.Message:
        """The next message of a device; ``self.tag`` is what it bears."""
        self.tag, message = self.driver.receive(name)
        assert self.tag.session == self.session, "a message of another session"
        return message

    def begin_term(self, *names: DeviceId) -> None:
        """The next term begins."""
        self.term += 1
        for name in names:
            self.send(name, m.BeginTerm())

    def ask(self, name: DeviceId, request: m.Message) -> m.Message:
        """The next message after a request, which bears its number."""
        tag = self.send(name, request)
        answer = self.receive(name)
        assert self.tag == tag, f"{answer} answers {self.tag}, not {tag}"
        return answer

    def answer(self, name: DeviceId, request: m.Message) -> m.Message:
        """The answer of a request; nothing else may come."""
        answer = self.ask(name, request)
        assert type(answer) is m.ANSWER_OF[type(request)], answer
        return answer

    def state(self, name: DeviceId) -> m.TrainerState:
        """Adapter and optimizer of a device."""
        state = self.answer(name, m.SendState())
        assert isinstance(state, m.TrainerState)
        return state

    def rest(self, name: DeviceId) -> list[m.Message]:
        """Messages of the heavy work that was asked for before."""
        self.send(name, FENCE)
        found = []
        while not isinstance(message := self.receive(name), m.GenerationReady):
            found.append(message)
        return found

    def refusal(self, name: DeviceId, request: m.Message) -> str:
        """The reason that a device gives for not doing what it is asked."""
        failed = self.ask(name, request)
        assert isinstance(failed, m.Failed), failed
        return failed.reason

    def rejection(self, name: DeviceId, *, of: DeviceId) -> str:
        """The reason that a device gives for what it did not take from a peer."""
        rejected = self.receive(name)
        assert isinstance(rejected, m.Rejected), rejected
        assert (rejected.peer, self.tag.term, self.tag.reply) == (of, self.term, 0)
        return rejected.reason

    def started(self, *names: DeviceId) -> None:
        """The devices know each other and have opened their caches."""
        self.start(*names)
        for name in names:
            self.answer(name, self.peers(*(peer for peer in names if peer != name)))
            self.answer(name, self.open_cache())

    def filled(self) -> None:
        """Both devices hold their training lines, and A the evaluation lines."""
        self.started(A, B)
        self.answer(A, self.load_stage(0, CUT))
        self.answer(B, self.load_stage(CUT, len(self.layers)))
        owners = {A: [*self.lines_of(A), *EVAL], B: self.lines_of(B)}
        self.send(A, self.run_batch(1, (*TRAIN, *EVAL), (A, B), owners))
        self.stored(1, {name: len(lines) for name, lines in owners.items()})

    def stored(self, number: int, samples: dict[DeviceId, int]) -> dict[DeviceId, list[m.Message]]:
        """Waits until each owner has said of all layers of its samples that they are stored.

        Returns:
            The other messages of the devices in the meantime.
        """
        others: dict[DeviceId, list[m.Message]] = {}
        for name, count in samples.items():
            others[name] = []
            missing = set(self.layers) if count else set()
            while missing:
                message = self.receive(name)
                if not isinstance(message, m.Stored):
                    others[name].append(message)
                    continue
                assert (message.number, message.samples) == (number, count)
                assert missing.issuperset(message.layers), "a layer was stored twice"
                missing -= set(message.layers)
            others[name] += self.rest(name)
        return others

    def owned(self) -> None:
        """Both devices know their lines and lack none."""
        self.filled()
        for name in (A, B):
            ready = self.answer(name, self.own("train", self.lines_of(name)))
            assert isinstance(ready, m.SamplesReady)
            assert not ready.missing.size
        self.answer(A, self.own("eval", EVAL))

    def alone(self) -> None:
        """A knows all lines and lacks none; B is a peer of it."""
        self.owned()
        moved = self.lines_of(B)
        self.send(B, self.move(2, moved, A))
        self.stored(2, {A: len(moved)})
        assert self.receive(B) == m.SamplesSent(number=2)
        self.answer(A, self.own("train", TRAIN))

    def trainable(self, state: bytes = b"", *, run: str = RUN) -> None:
        """Both devices have an adapter, and train it together."""
        self.owned()
        for name in (A, B):
            self.answer(name, self.set_up_training(state, run=run))
        self.group(A, B)

    def train(
        self, epoch: int, *, first_step: int = 0, num_steps: int | None = None
    ) -> m.EpochSums:
        """Steps of one epoch of both devices."""
        request = m.TrainEpoch(epoch=epoch, first_step=first_step, num_steps=num_steps)
        tags = {name: self.send(name, request) for name in (A, B)}
        sums = []
        for name, tag in tags.items():
            done = self.receive(name)
            assert isinstance(done, m.EpochDone), done
            assert self.tag == tag
            sums.append(done.sums)
        assert sums[0] == sums[1], "replicas differ in what they have trained on"
        return sums[0]

    def gradient(self, **changes) -> m.GradientPart:
        """B's part of the first step, as A, the first of two trainers, takes it."""
        fields = {"step": 0, "count": 1, "samples": 1, "value": 0.0} | changes
        ready = self.answer(A, self.set_up_training(run=RUN))
        assert isinstance(ready, m.TrainingReady)
        size = self.driver.part_size(ready.parameters)
        return m.GradientPart(values=np.full(size, fields.pop("value"), np.float16), **fields)

    def group(self, *names: DeviceId, run: str = RUN) -> None:
        """These devices train together from now on."""
        for name in names:
            self.answer(name, m.FormGroup(trainers=names, run=run))
