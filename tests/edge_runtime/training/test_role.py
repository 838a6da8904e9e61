"""Epochs, outputs and states of the trainer's role."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edge_runtime.contract import messages as m
from edge_runtime.contract.adapter import adapter_weights
from edge_runtime.contract.errors import (
    AllReduceClosedError,
    PacplusError,
    RemoteError,
    UnresumableError,
)
from edge_runtime.contract.order import steps_per_epoch
from edge_runtime.contract.tensors import read_tensors
from edge_runtime.system.memory_guard import MemoryGuard
from edge_runtime.training import samples as owned_samples
from export.adapter.graph import adapter_onnx
from tests.edge_runtime.training import mesh as mesh_module
from tests.edge_runtime.training.mesh import (
    BOUND_SECONDS,
    COUNT,
    SHARDS,
    A,
    B,
    C,
    Data,
    Rich,
    Transformations,
    files_of,
    open_cache,
    prepare,
    run,
    set_up,
    spec_of,
    state_of,
    train,
)

FIRST = m.TrainEpoch(epoch=1)

both_kinds = pytest.mark.parametrize("data", [Data(), Transformations()], ids=["classes", "tokens"])


SPLITS = [
    {A: (0, 1), B: (2, 3)},
    {A: (3,), B: (0, 1, 2)},
    {B: (0,), A: (1, 3), C: (2,)},
]


@pytest.mark.parametrize(
    "data", [Data(), Transformations(), Rich()], ids=["classes", "tokens", "many tokens"]
)
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


def test_short_memory_changes_nothing_but_the_pieces(mesh, monkeypatch):
    data, everything = Data(), {A: (0, 1, 2, 3)}
    whole_losses, (whole,) = run(mesh(A), data, everything)
    sizes = []
    batch = owned_samples.OwnedSamples.packed_batch

    def counted(owned, chosen):
        sizes.append(len(chosen))
        return batch(owned, chosen)

    monkeypatch.setattr(owned_samples.OwnedSamples, "packed_batch", counted)
    monkeypatch.setattr(MemoryGuard, "of_process", lambda: MemoryGuard(lambda: 0))
    losses, (split,) = run(mesh(A), data, everything)
    assert set(sizes) == {1}
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
    done = train(only, 1)
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
    only.roles[A].evaluate(m.Evaluate())
    outputs = only.answer(A, m.Outputs)
    assert outputs.indices.tolist() == lines
    assert outputs.outputs.shape == (4, 3)
    assert outputs.outputs[:, 1].tolist() == [data.count([line]) for line in lines]
    assert (outputs.outputs[:, 2] <= outputs.outputs[:, 1]).all()


def test_some_outputs_are_computed_when_only_these_are_asked_for(mesh):
    data = Transformations()
    only = mesh(A)
    prepare(only, data, {A: (0, 1, 2, 3)})
    only.roles[A].own(data.own([3, 0, 7, 12], "eval"))
    only.answer(A, m.SamplesReady)
    only.roles[A].evaluate(m.Evaluate())
    whole = only.answer(A, m.Outputs)
    only.roles[A].evaluate(m.Evaluate(indices=np.array([12, 0], np.int32)))
    some = only.answer(A, m.Outputs)
    assert some.indices.tolist() == [0, 12]
    np.testing.assert_allclose(some.outputs, whole.outputs[[1, 3]], rtol=1e-5)
    with pytest.raises(RemoteError, match="another device's"):
        only.roles[A].evaluate(m.Evaluate(indices=np.array([5], np.int32)))


def test_samples_without_room_are_held_until_others_are_asked_for(mesh):
    data = Data()
    only = mesh(A)
    role = only.roles[A]
    role.open_cache(dataclasses.replace(open_cache(data), quota_bytes=0))
    status = only.answer(A, m.CacheStatus)
    assert status.memory_bytes > 0
    role.hold(m.HoldSamples(keys=data.keys[[0, 1]]))
    assert only.answer(A, m.SamplesHeld).readable.tolist() == [False, False]
    role.store(data.states([0, 2]))
    assert only.answer(A, m.Stored).kept.tolist() == [m.IN_MEMORY, m.NOT_KEPT]
    role.hold(m.HoldSamples(keys=data.keys[[0, 2]]))
    assert only.answer(A, m.SamplesHeld).readable.tolist() == [True, False]
    role.hold(m.HoldSamples(keys=data.keys[[2]]))
    only.answer(A, m.SamplesHeld)
    role.hold(m.HoldSamples(keys=data.keys[[0]]))
    assert only.answer(A, m.SamplesHeld).readable.tolist() == [False]


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
    again = train(second, 2)
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
            each.roles[A].set_up(set_up(data, graph=graph), files)
            for kind in (m.CacheStatus, m.Stored, m.TrainingReady):
                answer = each.answer(A, kind)
            assert answer.parameters == 0
        each.roles[A].own(data.own(np.arange(5), "eval"))
        each.answer(A, m.SamplesReady)
        each.roles[A].evaluate(m.Evaluate())
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
        only.roles[A].evaluate(m.Evaluate())
        outputs = only.answer(A, m.Outputs)
        assert outputs.indices.tolist() == lines
        for line, row in zip(lines, outputs.outputs, strict=True):
            np.testing.assert_allclose(row, rows.setdefault(line, row), rtol=1e-4, atol=1e-5)


def test_what_comes_before_its_time_is_refused(mesh, data):
    role = mesh(A).roles[A]
    part = m.GradientPart(step=0, values=np.zeros(1, np.float16), count=1)
    with pytest.raises(RemoteError, match="cache is not open"):
        role.store(data.states([0]))
    with pytest.raises(RemoteError, match="before a group"):
        role.deliver(B, part)
    for ask in (role.send_state, lambda: role.train_epoch(FIRST)):
        with pytest.raises(RemoteError, match="not set up"):
            ask()
    with pytest.raises(RemoteError, match="owns no eval samples"):
        role.evaluate(m.Evaluate())


def test_training_on_a_sample_that_is_missing_is_an_error_of_ours(mesh, data):
    only = mesh(A)
    prepare(only, data, {A: (0, 1, 2, 3)})
    only.roles[A].close()
    with pytest.raises(PacplusError):
        only.roles[A].train_epoch(FIRST)


@pytest.mark.parametrize("rate", [1e6, 1e37])
def test_a_learning_rate_that_is_too_high_ends_training_for_good(mesh, data, monkeypatch, rate):
    options = dataclasses.replace(mesh_module.OPTIONS, learning_rate=rate)
    monkeypatch.setattr(mesh_module, "OPTIONS", options)
    only = mesh(A)
    prepare(only, data, {A: (0, 1, 2, 3)})
    message = r"in epoch 1: the learning rate of \S+ is too high; .* lower --learning-rate"
    with pytest.raises(UnresumableError, match=message):
        only.roles[A].train_epoch(FIRST)


def test_weights_that_only_the_last_step_spoils_are_found(mesh, data):
    only = mesh(A)
    prepare(only, data, {A: (0, 1, 2, 3)})
    trainer = only.roles[A].replica.trainer
    apply = trainer.apply

    def spoil(gradient, count):
        apply(gradient, count)
        if trainer.step == steps_per_epoch(COUNT, SHARDS):
            trainer.flat_parameters[3] = np.inf

    trainer.apply = spoil
    with pytest.raises(UnresumableError, match="the adapter is not a finite number in epoch 1"):
        only.roles[A].train_epoch(FIRST)


def test_a_loss_that_is_not_finite_from_the_start_is_not_put_down_to_the_learning_rate(mesh, data):
    huge = Data()
    huge.encoded["encoder"] = np.full_like(huge.encoded["encoder"], 0x7E)  # 8e37 in float32
    only = mesh(A)
    prepare(only, huge, {A: (0, 1, 2, 3)})
    only.roles[A].replica.trainer.flat_parameters[:] = 1e3
    with pytest.raises(UnresumableError, match="before anything is learnt"):
        only.roles[A].train_epoch(FIRST)


def test_closing_ends_a_step_that_waits_for_a_peer(mesh, data):
    two = mesh(A, B)
    prepare(two, data, {A: (0, 1), B: (2, 3)})
    with ThreadPoolExecutor(1) as pool:
        step = pool.submit(two.roles[A].train_epoch, FIRST)  # B never starts
        two.parts.get(timeout=BOUND_SECONDS)
        two.roles[A].close()
        with pytest.raises(AllReduceClosedError):
            step.result(timeout=BOUND_SECONDS)
