import dataclasses
import hashlib
import queue
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.cache.encoding import encode as encode_states
from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import TrainingOptions, adapter_weights
from edge_runtime.contract.codec import decode, encode
from edge_runtime.contract.errors import AllReduceClosedError, PacplusError, RemoteError
from edge_runtime.contract.ids import DeviceId, Sha256
from edge_runtime.contract.manifest import FileSpec, Stream
from edge_runtime.contract.order import rank_samples, shard_of, steps_per_epoch
from edge_runtime.contract.tensors import read_tensors, write_tensors
from edge_runtime.inference.weight_store import WeightStore
from edge_runtime.training import samples as owned_samples
from edge_runtime.training.role import TrainerRole
from export.adapter.graph import adapter_onnx
from tests.edge_runtime.parallel_adapters.samples import HIDDEN_SIZE, LAYERS, config

BOUND_SECONDS = 30.0
DIGEST = Sha256("ab" * 32)
COUNT, SHARDS = 18, 4
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
        """What a mean loss divides by."""
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


class Mesh:
    """Hands messages to the other roles at once, as their I/O threads would."""

    def __init__(self, folder: Path, *names: DeviceId) -> None:
        self.folder = folder
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
            if not isinstance(message, m.Progress):
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
            role.deliver(self._me, received)

    def wait_for_room(self):
        pass


@pytest.fixture
def data() -> Data:
    return Data()


both_kinds = pytest.mark.parametrize("data", [Data(), Transformations()], ids=["classes", "tokens"])


@pytest.fixture
def mesh(tmp_path):
    made = []

    def make(*names: DeviceId) -> Mesh:
        folder = tmp_path / f"mesh{len(made)}"
        folder.mkdir()
        made.append(Mesh(folder, *names))
        return made[-1]

    yield make
    for each in made:
        each.close()


def open_cache(data: Data) -> m.OpenCache:
    return m.OpenCache(
        backbone_digest=DIGEST,
        dtype="fp32",
        hidden_size=HIDDEN_SIZE,
        quota_bytes=None,
        layers=dict(data.layers),
        keys=data.keys,
    )


def set_up(
    data: Data, *trainers: DeviceId, state: bytes = b"", graph: bytes = b""
) -> m.SetUpTraining:
    steps = OPTIONS.epochs * steps_per_epoch(len(data.keys), SHARDS)
    return m.SetUpTraining(
        config=data.config,
        options=OPTIONS,
        trainers=trainers,
        total_steps=0 if graph else steps,
        state=np.frombuffer(state, np.uint8),
        adapter_graph=spec_of(graph, "adapter.onnx") if graph else None,
        head=spec_of(data.head) if data.head else None,
    )


def spec_of(content: bytes, path: str = "head.safetensors") -> FileSpec:
    sha256 = Sha256(hashlib.sha256(content).hexdigest())
    return FileSpec(path=path, bytes=len(content), sha256=sha256)


def files_of(mesh: Mesh, data: Data) -> WeightStore:
    """What a device has fetched before it sets training up."""
    store = WeightStore(mesh.folder / "weights")
    if data.head:
        store.path(spec_of(data.head)).write_bytes(data.head)
    return store


def prepare(mesh: Mesh, data: Data, shards: dict[DeviceId, tuple[int, ...]], state=b"") -> None:
    """Fills the caches and makes the adapters."""
    for name, mine in shards.items():
        role, lines = mesh.roles[name], data.lines_of(mine)
        role.open_cache(open_cache(data))
        assert not mesh.answer(name, m.CacheStatus).held.any()
        for stream in data.layers if len(lines) else ():
            role.store(data.states(lines, stream=stream))
            mesh.answer(name, m.Stored)
        role.own(data.own(lines))
        assert mesh.answer(name, m.SamplesReady).missing.size == 0
        role.set_up(set_up(data, *shards, state=state), files_of(mesh, data))
        mesh.answer(name, m.TrainingReady)


def train(mesh: Mesh, epoch: int) -> dict[DeviceId, m.EpochDone]:
    """One epoch of all roles, each in a thread of its own."""
    threads = [
        threading.Thread(target=role.train_epoch, args=(epoch,), daemon=True)
        for role in mesh.roles.values()
    ]
    for thread in threads:
        thread.start()
    done = {name: mesh.answer(name, m.EpochDone) for name in mesh.roles}
    for thread in threads:
        thread.join(BOUND_SECONDS)
        assert not thread.is_alive()
    return done


def state_of(mesh: Mesh, name: DeviceId) -> bytes:
    mesh.roles[name].send_state()
    return mesh.answer(name, m.TrainerState).data.tobytes()


def run(mesh: Mesh, data: Data, shards) -> tuple[list[float], list[dict[str, np.ndarray]]]:
    """Mean losses of the epochs, and every role's state after them."""
    prepare(mesh, data, shards)
    losses = []
    for epoch in range(1, OPTIONS.epochs + 1):
        done = train(mesh, epoch)
        assert sum(part.samples for part in done.values()) == len(data.keys)
        count = sum(part.count for part in done.values())
        assert count == data.count(np.arange(len(data.keys)))
        losses.append(sum(part.loss_sum for part in done.values()) / count)
    return losses, [read_tensors(state_of(mesh, name)) for name in mesh.roles]


SPLITS = [
    {A: (0, 1), B: (2, 3)},
    {A: (3,), B: (0, 1, 2)},
    {B: (0,), A: (1, 3), C: (2,)},
]


@both_kinds
@pytest.mark.parametrize("shards", SPLITS, ids=["halves", "unequal", "three"])
def test_several_trainers_compute_what_one_alone_would(mesh, data, shards):
    alone_losses, (alone,) = run(mesh(A), data, {A: (0, 1, 2, 3)})
    losses, states = run(mesh(*shards), data, shards)
    # Gradients travel as float16, hence not to the bit.
    np.testing.assert_allclose(losses, alone_losses, rtol=1e-3)
    assert alone_losses[1] < 0.9 * alone_losses[0], "nothing was learnt, so nothing was tested"
    for name, expected in alone.items():
        if not name.startswith("optimizer."):
            distance = np.linalg.norm(states[0][name] - expected)
            assert distance <= 5e-3 * max(np.linalg.norm(expected), 0.1), name
    for other in states[1:]:
        assert all((other[name] == states[0][name]).all() for name in alone), "replicas differ"


@pytest.mark.parametrize("limit", [1, 4000], ids=["one by one", "some"])
@both_kinds
def test_a_batch_that_is_split_to_save_memory_gives_the_same_gradient(
    mesh, data, monkeypatch, limit
):
    everything = {A: (0, 1, 2, 3)}
    whole_losses, (whole,) = run(mesh(A), data, everything)
    monkeypatch.setattr(owned_samples, "BATCH_BYTES", limit)
    losses, (split,) = run(mesh(A), data, everything)
    np.testing.assert_allclose(losses, whole_losses, rtol=1e-4)
    for name, expected in whole.items():
        np.testing.assert_allclose(split[name], expected, rtol=1e-2, atol=1e-4, err_msg=name)


def test_a_step_without_a_counted_token_changes_nothing_but_the_schedule(mesh):
    data = Transformations(SHARDS)
    data.lengths["decoder"][:] = 1
    data.encoded["decoder"] = data.encoded["decoder"][:, :SHARDS]
    data.targets_of = lambda lines: np.full(len(lines), -1, np.int32)
    only = mesh(A)
    prepare(only, data, {A: (0, 1, 2, 3)})
    before = adapter_weights(state_of(only, A))
    done = train(only, 1)[A]
    assert (done.samples, done.count, done.loss_sum) == (SHARDS, 0, 0.0)
    after = read_tensors(adapter_weights(state_of(only, A)))
    assert all(np.isfinite(array).all() for array in after.values())
    assert after.keys() == read_tensors(before).keys()


def test_outputs_of_a_language_model_are_loss_count_and_hits(mesh):
    data = Transformations()
    only = mesh(A)
    prepare(only, data, {A: (0, 1, 2, 3)})
    lines = [3, 0, 7, 12]
    only.roles[A].own(data.own(lines, "eval"))
    only.answer(A, m.SamplesReady)
    only.roles[A].evaluate()
    outputs = only.answer(A, m.Outputs)
    assert outputs.indices.tolist() == lines
    assert outputs.outputs.shape == (4, 3)
    assert outputs.outputs[:, 1].tolist() == [data.count([line]) for line in lines]
    assert (outputs.outputs[:, 2] <= outputs.outputs[:, 1]).all()


def test_a_trainer_without_a_sample_stays_in_step(mesh):
    few = Data(2)
    empty = [shard for shard in range(SHARDS) if not len(few.lines_of([shard]))]
    full = [shard for shard in range(SHARDS) if shard not in empty]
    losses, states = run(mesh(A, B), few, {A: tuple(full), B: tuple(empty)})
    assert all(np.isfinite(losses))
    assert all((states[0][name] == states[1][name]).all() for name in states[0])


def test_a_resumed_trainer_goes_on_as_if_it_had_never_stopped(mesh, data):
    losses, (whole,) = run(mesh(A), data, {A: (0, 1, 2, 3)})
    first = mesh(A)
    prepare(first, data, {A: (0, 1, 2, 3)})
    train(first, 1)
    state = state_of(first, A)
    second = mesh(A)
    prepare(second, data, {A: (0, 1, 2, 3)}, state=state)
    again = train(second, 2)[A]
    assert again.loss_sum / COUNT == losses[1]
    resumed = read_tensors(state_of(second, A))
    assert all((resumed[name] == whole[name]).all() for name in whole)


def test_a_trained_adapter_is_evaluated_as_a_graph(mesh, data):
    first = mesh(A)
    prepare(first, data, {A: (0, 1, 2, 3)})
    train(first, 1)
    graph = adapter_onnx(data.config, adapter_weights(state_of(first, A)))
    found = []
    for each in (first, mesh(A)):
        if each is not first:  # a device that only evaluates
            each.roles[A].open_cache(open_cache(data))
            each.roles[A].store(data.states(np.arange(5)))
            files = files_of(each, data)
            files.path(spec_of(graph, "adapter.onnx")).write_bytes(graph)
            each.roles[A].set_up(set_up(data, A, graph=graph), files)
            for kind in (m.CacheStatus, m.Stored, m.TrainingReady):
                answer = each.answer(A, kind)
            assert answer.parameters == 0
        each.roles[A].own(data.own(np.arange(5), "eval"))
        each.answer(A, m.SamplesReady)
        each.roles[A].evaluate()
        found.append(each.answer(A, m.Outputs))
    assert found[0].indices.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(found[0].outputs, found[1].outputs, rtol=1e-5, atol=1e-5)


def test_outputs_are_in_the_order_of_the_indices_whatever_their_lengths(mesh, data):
    only = mesh(A)
    prepare(only, data, {A: (0, 1, 2, 3)})
    rows = {}
    for lines in ([3, 0, 7, 12], [12], [0, 3]):
        only.roles[A].own(data.own(lines, "eval"))
        only.answer(A, m.SamplesReady)
        only.roles[A].evaluate()
        outputs = only.answer(A, m.Outputs)
        assert outputs.indices.tolist() == lines
        for line, row in zip(lines, outputs.outputs, strict=True):
            np.testing.assert_allclose(row, rows.setdefault(line, row), rtol=1e-4, atol=1e-5)


def test_moved_samples_arrive_as_they_were(mesh, data):
    two = mesh(A, B)
    for role in two.roles.values():
        role.open_cache(open_cache(data))
    two.roles[A].store(data.states([1, 4, 6]))
    request = m.MoveSamples(number=9, keys=data.keys[[6, 1]], layers=(0, 1, 2), to=B)
    two.roles[A].move(request)
    two.answer(B, m.CacheStatus)
    stored = two.answer(B, m.Stored)
    assert (stored.number, stored.layers, stored.samples) == (9, (0, 1, 2), 2)
    two.roles[B].own(data.own([1, 4, 6]))
    ready = two.answer(B, m.SamplesReady)
    assert ready.missing.tolist() == [4]
    assert ready.cache_samples == 2
    assert ready.cache_bytes > 0


def test_both_sequences_of_a_sample_are_moved_and_counted_as_one_sample(mesh):
    data, two = Transformations(), mesh(A, B)
    for role in two.roles.values():
        role.open_cache(open_cache(data))
    for stream in data.layers:
        two.roles[A].store(data.states([1, 4, 6], stream=stream))
    two.roles[B].store(data.states([4], stream="decoder"))
    layers = (0, 2, 3, 4)
    two.roles[A].move(m.MoveSamples(number=9, keys=data.keys[[6, 1]], layers=layers, to=B))
    for kind in (m.CacheStatus, m.Stored):
        two.answer(B, kind)
    moved = [two.answer(B, m.Stored) for _ in data.layers]
    assert [stored.layers for stored in moved] == [(0, 2), (3, 4)]
    two.roles[B].own(data.own([1, 4, 6]))
    ready = two.answer(B, m.SamplesReady)
    assert ready.missing.tolist() == [4]
    assert ready.cache_samples == 3
    keys = data.keys[[1, 6]]
    for stream in data.layers:
        sent = two.roles[A]._opened().read(keys, stream)
        received = two.roles[B]._opened().read(keys, stream)
        for mine, theirs in zip(sent, received, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_states_of_two_sequences_in_one_message_are_refused(mesh):
    data, role = Transformations(), mesh(A).roles[A]
    role.open_cache(open_cache(data))
    states = data.states([0], stream="decoder")
    with pytest.raises(RemoteError, match="nobody asked for"):
        role.store(dataclasses.replace(states, layers=(2, 3)))


def test_samples_without_a_sequence_that_is_cached_are_refused(mesh):
    role = mesh(A).roles[A]
    role.open_cache(open_cache(Transformations()))
    with pytest.raises(RemoteError, match="lack a sequence"):
        role.own(Data().own([0]))


def test_a_cache_outlives_its_session(mesh, data):
    only = mesh(A)
    role = only.roles[A]
    role.open_cache(open_cache(data))
    role.store(data.states([2, 3]))
    role.close()
    role.open_cache(open_cache(data))
    assert not only.answer(A, m.CacheStatus).held.any()
    only.answer(A, m.Stored)
    assert np.flatnonzero(only.answer(A, m.CacheStatus).held).tolist() == [2, 3]


def test_samples_whose_layers_are_not_all_there_are_missing(mesh, data):
    only = mesh(A)
    role = only.roles[A]
    role.open_cache(open_cache(data))
    role.store(data.states([2, 3]))
    role.store(data.states([5], layers=(0, 2)))
    role.own(data.own([2, 3, 5]))
    for kind in (m.CacheStatus, m.Stored, m.Stored):
        only.answer(A, kind)
    assert only.answer(A, m.SamplesReady).missing.tolist() == [5]


def test_what_comes_before_its_time_is_refused(mesh, data):
    role = mesh(A).roles[A]
    part = m.GradientPart(step=0, values=np.zeros(1, np.float16), count=1)
    with pytest.raises(RemoteError, match="cache is not open"):
        role.store(data.states([0]))
    with pytest.raises(RemoteError, match="before training was set up"):
        role.deliver(B, part)
    for ask in (role.send_state, lambda: role.train_epoch(1)):
        with pytest.raises(RemoteError, match="not set up"):
            ask()
    with pytest.raises(RemoteError, match="owns no eval samples"):
        role.evaluate()


def test_states_of_another_size_are_refused_and_not_kept(mesh, data):
    only = mesh(A)
    role = only.roles[A]
    role.open_cache(open_cache(data))
    states = data.states([0])
    wrong = m.States(
        number=1,
        keys=states.keys,
        lengths=states.lengths,
        layers=states.layers,
        encoded=states.encoded[:, :, :-1],
        numerics="test",
    )
    with pytest.raises(RemoteError, match="micro-batch 1"):
        role.store(wrong)
    only.answer(A, m.CacheStatus)
    assert only.sent[A].empty()


def test_training_on_a_sample_that_is_missing_is_an_error_of_ours(mesh, data):
    only = mesh(A)
    prepare(only, data, {A: (0, 1, 2, 3)})
    only.roles[A].close()
    with pytest.raises(PacplusError):
        only.roles[A].train_epoch(1)


def test_closing_ends_a_step_that_waits_for_a_peer(mesh, data):
    two = mesh(A, B)
    prepare(two, data, {A: (0, 1), B: (2, 3)})
    ended = queue.SimpleQueue()

    def wait():
        try:
            two.roles[A].train_epoch(1)  # B never starts
        except PacplusError as error:
            ended.put(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    two.roles[A].close()
    error = ended.get(timeout=BOUND_SECONDS)
    thread.join(BOUND_SECONDS)
    # Closed before the step began to wait: then its cache was gone already.
    assert isinstance(error, AllReduceClosedError | RemoteError)
