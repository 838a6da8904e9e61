"""Trainers' roles that hand messages to each other at once, and samples for them."""

import dataclasses
import hashlib
import queue
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import TrainingOptions
from edge_runtime.contract.cache_format.encoding import encode as encode_states
from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.ids import DeviceId, Sha256
from edge_runtime.contract.manifest import FileSpec, Stream
from edge_runtime.contract.messages.tag import Tag
from edge_runtime.contract.order import rank_samples, shard_of, steps_per_epoch
from edge_runtime.contract.tensors import read_tensors, write_tensors
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.messaging.tagging import peer_tag, tagged
from edge_runtime.training.role import TrainerRole
from tests.edge_runtime.parallel_adapters.samples import HIDDEN_SIZE, LAYERS, config

BOUND_SECONDS = 30.0
DIGEST = Sha256("ab" * 32)
COUNT, SHARDS = 18, 4
RUN = "r1"
A, B, C = DeviceId("a"), DeviceId("b"), DeviceId("c")
OPTIONS = TrainingOptions(epochs=2, batch_size=SHARDS, learning_rate=1e-2, seed=5)


class Data:
    """Samples with their states, as a backbone would make them."""

    config = config()
    layers: Mapping[Stream, tuple[int, ...]] = {"encoder": tuple(range(LAYERS))}
    head: bytes = b""

    def __init__(self, count: int = COUNT) -> None:
        random = np.random.default_rng(1)
        self.keys = random.integers(0, 256, (count, 32)).astype(np.uint8)
        self.lengths = {
            stream: random.integers(2, 9, count).astype(np.int32) for stream in self.layers
        }
        self.targets = random.integers(0, 3, count)
        self.ranks = rank_samples(self.keys, sum(self.lengths.values()), SHARDS)
        self.shards = shard_of(self.ranks, count, SHARDS)
        self.encoded: dict[Stream, np.ndarray] = {}
        for stream, layers in self.layers.items():
            shape = (len(layers), int(self.lengths[stream].sum()), HIDDEN_SIZE)
            states = random.normal(size=shape).astype(np.float32)
            # Something to learn.
            states += self.targets.repeat(self.lengths[stream])[None, :, None]
            self.encoded[stream] = encode_states(states, "fp32")

    def states(self, lines, number: int = 0, layers=None, stream=None) -> m.States:
        stream = stream or next(iter(self.layers))
        layers = self.layers[stream] if layers is None else layers
        rows = np.isin(np.arange(len(self.keys)).repeat(self.lengths[stream]), lines)
        places = [self.layers[stream].index(layer) for layer in layers]
        return m.States(
            number=number,
            keys=self.keys[lines],
            lengths=self.lengths[stream][lines],
            layers=layers,
            encoded=self.encoded[stream][places][:, rows],
            numerics="test",
        )

    def own(self, lines, which="train") -> m.OwnSamples:
        return m.OwnSamples(
            which=which,
            total=len(self.keys),
            indices=np.asarray(lines, np.int32),
            keys=self.keys[lines],
            ranks=self.ranks[lines],
            lengths={stream: each[lines] for stream, each in self.lengths.items()},
            second_starts=np.zeros(len(lines), np.int32),
            targets=self.targets_of(lines),
        )

    def targets_of(self, lines) -> np.ndarray:
        return self.targets[lines]

    def count(self, lines) -> int:
        """The divisor of a mean loss."""
        return len(lines)

    def lines_of(self, shards) -> np.ndarray:
        return np.flatnonzero(np.isin(self.shards, shards))


class Transformations(Data):
    """An encoder-decoder's samples; the last token of an odd line's target is not counted."""

    config = config(
        task="seq2seq", layers=(0, 2, 3, 4), encoder_layers=2, causal=True, num_outputs=7
    )
    layers: Mapping[Stream, tuple[int, ...]] = {"encoder": (0, 2), "decoder": (3, 4)}
    head = write_tensors(
        {"weight": np.random.default_rng(4).normal(size=(7, HIDDEN_SIZE)).astype(np.float32)}
    )

    def targets_of(self, lines) -> np.ndarray:
        rows = [np.full(self.lengths["decoder"][line], self.targets[line]) for line in lines]
        for line, row in zip(lines, rows, strict=True):
            row[len(row) - line % 2 :] = -1
        return np.concatenate([np.zeros(0), *rows]).astype(np.int32)

    def count(self, lines) -> int:
        return int((self.targets_of(lines) >= 0).sum())


class Rich(Transformations):
    """The same with a vocabulary that is not all candidates."""

    config = dataclasses.replace(Transformations.config, num_outputs=900)
    head = write_tensors(
        {"weight": np.random.default_rng(4).normal(size=(900, HIDDEN_SIZE)).astype(np.float32)}
    )


class Mesh:
    """Hands messages to the other roles at once, as their I/O threads would."""

    def __init__(self, folder: Path, *names: DeviceId) -> None:
        self.folder = folder
        self.parts: queue.SimpleQueue[m.Message] = queue.SimpleQueue()
        """Of gradients, that have been delivered."""
        self.sent: dict[DeviceId, queue.SimpleQueue] = {}
        self.roles: dict[DeviceId, TrainerRole] = {}
        for name in names:
            self.sent[name] = queue.SimpleQueue()
            home = folder / name
            home.mkdir()
            self.roles[name] = TrainerRole(me=name, home=home, outbox=MeshOutbox(self, name))

    def answer(self, name: DeviceId, kind: type[m.Message]) -> m.Message:
        """The next message of that kind to the coordinator; skips telemetry."""
        while True:
            message = self.sent[name].get(timeout=BOUND_SECONDS)
            if not isinstance(message, m.Progress | m.Awaiting):
                assert isinstance(message, kind), message
                return message

    def close(self) -> None:
        for role in self.roles.values():
            role.close()


class MeshOutbox:
    def __init__(self, mesh: Mesh, me: DeviceId) -> None:
        self._mesh, self._me = mesh, me

    def to_coordinator(self, message):
        self._mesh.sent[self._me].put(decode(encode(message)))

    def to_peer(self, peer, message):
        role, received = self._mesh.roles[peer], decode(encode(message))
        if isinstance(received, m.States):
            role.store(received)
        else:
            with tagged(peer_tag()):
                role.deliver(self._me, received)
            self._mesh.parts.put(received)

    def wait_for_room(self):
        pass


def open_cache(data: Data) -> m.OpenCache:
    return m.OpenCache(
        backbone_digest=DIGEST,
        dtype="fp32",
        hidden_size=HIDDEN_SIZE,
        quota_bytes=None,
        layers=dict(data.layers),
        keys=data.keys,
    )


def set_up(data: Data, *, state: bytes = b"", graph: bytes = b"", run: str = "") -> m.SetUpTraining:
    steps = OPTIONS.epochs * steps_per_epoch(len(data.keys), SHARDS)
    return m.SetUpTraining(
        config=data.config,
        options=OPTIONS,
        run=run,
        total_steps=0 if graph else steps,
        state=np.frombuffer(state, np.uint8),
        adapter_graph=spec_of(graph, "adapter.onnx") if graph else None,
        head=spec_of(data.head) if data.head else None,
    )


def spec_of(content: bytes, path: str = "head.safetensors") -> FileSpec:
    sha256 = Sha256(hashlib.sha256(content).hexdigest())
    return FileSpec(path=path, bytes=len(content), sha256=sha256)


def files_of(mesh: Mesh, data: Data) -> WeightStore:
    """The files that a device has fetched before it sets training up."""
    store = WeightStore(mesh.folder / "weights")
    if data.head:
        store.path(spec_of(data.head)).write_bytes(data.head)
    return store


def form_group(mesh: Mesh, term: int = 0, token_counts: np.ndarray | None = None) -> None:
    """All of the mesh train together."""
    for name, role in mesh.roles.items():
        with tagged(Tag(term=term)):
            role.form_group(
                m.FormGroup(trainers=tuple(mesh.roles), run=RUN, token_counts=token_counts)
            )
        mesh.answer(name, m.GroupFormed)


def prepare(mesh: Mesh, data: Data, shards: dict[DeviceId, tuple[int, ...]], state=b"") -> None:
    """Fills the caches, makes the adapters and forms the group."""
    for name, mine in shards.items():
        role, lines = mesh.roles[name], data.lines_of(mine)
        role.open_cache(open_cache(data))
        assert not mesh.answer(name, m.CacheStatus).held.any()
        for stream in data.layers if len(lines) else ():
            role.store(data.states(lines, stream=stream))
            mesh.answer(name, m.Stored)
        role.own(data.own(lines))
        assert mesh.answer(name, m.SamplesReady).missing.size == 0
        role.set_up(set_up(data, state=state, run=RUN), files_of(mesh, data))
        mesh.answer(name, m.TrainingReady)
    samples = data.config.generative and not state
    form_group(mesh, token_counts=count_tokens(mesh) if samples else None)


def count_tokens(mesh: Mesh) -> np.ndarray:
    """What tokens are sampled by, over all of the mesh."""
    for role in mesh.roles.values():
        role.count_tokens()
    return np.sum([mesh.answer(name, m.TokenCounts).counts for name in mesh.roles], axis=0)


def train(mesh: Mesh, epoch: int, term: int = 0, **steps: int) -> m.EpochSums:
    """Steps of one epoch of all roles, each in a thread of its own."""
    request = m.TrainEpoch(epoch=epoch, **steps)

    def run(role: TrainerRole) -> None:
        with tagged(Tag(term=term)):
            role.train_epoch(request)

    threads = [
        threading.Thread(target=run, args=(role,), daemon=True) for role in mesh.roles.values()
    ]
    for thread in threads:
        thread.start()
    answers = [mesh.answer(name, m.EpochDone) for name in mesh.roles]
    assert all(0 < each.own_seconds <= each.seconds for each in answers), "says what it took itself"
    done = [each.sums for each in answers]
    for thread in threads:
        thread.join(BOUND_SECONDS)
        assert not thread.is_alive()
    assert set(done) == {done[0]}, "replicas have other sums"
    return done[0]


def state_of(mesh: Mesh, name: DeviceId) -> bytes:
    mesh.roles[name].send_state()
    return mesh.answer(name, m.TrainerState).data.tobytes()


def run(mesh: Mesh, data: Data, shards) -> tuple[list[float], list[dict[str, np.ndarray]]]:
    """Mean losses of the epochs, and every role's state after them."""
    prepare(mesh, data, shards)
    losses = []
    for epoch in range(1, OPTIONS.epochs + 1):
        sums = train(mesh, epoch)
        assert sums.samples == len(data.keys)
        assert sums.count == data.count(np.arange(len(data.keys)))
        losses.append(sums.loss_sum / sums.count)
    return losses, [read_tensors(state_of(mesh, name)) for name in mesh.roles]
