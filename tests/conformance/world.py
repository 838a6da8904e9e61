"""What the claims are about: a tiny model, some lines, and the requests that bring them along."""

from __future__ import annotations

import numpy as np

from coordinator.cluster.stage_files import StageCutter
from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import AdapterConfig, TrainingOptions
from edge_runtime.contract.generation import GenerationOptions
from edge_runtime.contract.ids import DeviceId
from edge_runtime.contract.order import rank_samples, shard_of, steps_per_epoch
from edge_runtime.contract.sample import Ragged, sample_keys
from export.partition.stages import Bundle
from tests.conformance.driver import Driver
from tests.coordinator.planner.problems import profile
from tests.coordinator.session.fake_cluster import profile_request

A, B = DeviceId("a"), DeviceId("b")
CUT = 2
DTYPE: m.CacheDtype = "fp16"
BATCH_SIZE = 4
TRAIN, EVAL = tuple(range(7)), (7, 8, 9)
SHARDS = {A: (0, 1), B: (2, 3)}
PUBLIC_KEY = "k" * 40
FENCE = m.SetUpGeneration(
    options=GenerationOptions(), max_sequences=1, max_rows={"decoder": 1, "encoder": 1}
)


class World:
    """Lines of a bundle's model, and the devices that ``driver`` brings."""

    def __init__(self, bundle: Bundle, driver: Driver) -> None:
        self.driver = driver
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
        return profile_request(profile(A))

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

    def set_up_training(self, *trainers: DeviceId, state: bytes = b"") -> m.SetUpTraining:
        options = TrainingOptions(epochs=2, batch_size=BATCH_SIZE, seed=5)
        return m.SetUpTraining(
            config=self.config,
            options=options,
            trainers=trainers,
            total_steps=options.epochs * steps_per_epoch(len(TRAIN), BATCH_SIZE),
            state=np.frombuffer(state, np.uint8),
        )

    def states(self, lines, *, layers=None, spare_bytes: int = 0) -> m.States:
        """What a peer sends; ``spare_bytes`` makes rows too long."""
        lengths = self._lengths[list(lines)]
        layers = self.layers if layers is None else layers
        row = 2 * self.manifest.hidden_size + spare_bytes
        return m.States(
            number=1,
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

    def ask(self, name: DeviceId, request: m.Message) -> m.Message:
        """The next message after a request."""
        self.driver.send(name, request)
        return self.driver.receive(name)

    def answer(self, name: DeviceId, request: m.Message) -> m.Message:
        """The answer of a request; nothing else may come."""
        answer = self.ask(name, request)
        assert type(answer) is m.ANSWER_OF[type(request)], answer
        return answer

    def rest(self, name: DeviceId) -> list[m.Message]:
        """Messages of the heavy work that was asked for before."""
        self.driver.send(name, FENCE)
        found = []
        while not isinstance(message := self.driver.receive(name), m.GenerationReady):
            found.append(message)
        return found

    def refusal(self, name: DeviceId, request: m.Message) -> str:
        """The reason that a device gives for not doing what it is asked."""
        failed = self.ask(name, request)
        assert isinstance(failed, m.Failed), failed
        return failed.reason

    def started(self, *names: DeviceId) -> None:
        """The devices know each other and have opened their caches."""
        self.driver.start(*names)
        for name in names:
            self.answer(name, self.peers(*(peer for peer in names if peer != name)))
            self.answer(name, self.open_cache())

    def filled(self) -> None:
        """Both devices hold their training lines, and A the evaluation lines."""
        self.started(A, B)
        self.answer(A, self.load_stage(0, CUT))
        self.answer(B, self.load_stage(CUT, len(self.layers)))
        owners = {A: [*self.lines_of(A), *EVAL], B: self.lines_of(B)}
        self.driver.send(A, self.run_batch(1, (*TRAIN, *EVAL), (A, B), owners))
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
                message = self.driver.receive(name)
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

    def trainable(self, state: bytes = b"") -> None:
        """Both devices have an adapter."""
        self.owned()
        for name in (A, B):
            self.answer(name, self.set_up_training(A, B, state=state))
