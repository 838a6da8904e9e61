from __future__ import annotations

import dataclasses
import gc
import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from edge_runtime.contract.activations import OPTIMIZER_COPIES
from edge_runtime.contract.adapter import AdapterKind, TrainingOptions, adapter_weights
from edge_runtime.contract.cache_format.encoding import decode_into, encode
from edge_runtime.contract.errors import BadInputError
from edge_runtime.contract.tensors import read_tensors, write_tensors
from edge_runtime.parallel_adapters import Batch, Predictor, Trainer
from tests.edge_runtime.parallel_adapters import by_module
from tests.edge_runtime.parallel_adapters.samples import (
    HIDDEN_SIZE,
    LAYERS,
    batch,
    config,
    moved,
    rows,
    trainer,
)

KINDS: tuple[AdapterKind, ...] = ("attention", "mlp")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
def test_gradients_equal_those_of_the_module(kind: AdapterKind, pair: bool, heads: int) -> None:
    engine = moved(trainer(kind, pair=pair, num_heads=heads))
    data = batch(7)

    loss = engine.gradients(data)
    shape = config(kind, pair=pair, num_heads=heads)
    expected_loss, expected = by_module.gradients(shape, engine.state(), data)

    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, gradient in engine.named_gradients().items():
        scale = np.abs(expected[name]).max()
        assert scale > 0, name
        np.testing.assert_allclose(
            gradient, expected[name], rtol=0, atol=1e-5 * scale, err_msg=name
        )


def test_regression_gradients_equal_those_of_the_module() -> None:
    changes = {"task": "regression", "num_outputs": 1, "target_mean": 2.0, "target_scale": 3.0}
    engine = moved(trainer(**changes))
    data = batch(7, regression=True)

    loss = engine.gradients(data)
    expected_loss, expected = by_module.gradients(config(**changes), engine.state(), data)

    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, gradient in engine.named_gradients().items():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(
            gradient, expected[name], rtol=0, atol=1e-5 * scale, err_msg=name
        )


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_adapter_leaves_the_backbones_output_as_it_is(kind: AdapterKind) -> None:
    engine = trainer(kind)
    data = batch(5)
    p = {n: torch.tensor(t) for n, t in read_tensors(engine.state()).items()}

    hidden = torch.from_numpy(data.hidden[-1])
    keep = torch.arange(hidden.shape[1]) < torch.from_numpy(data.lengths)[:, None]
    mean = (hidden * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
    expected = (
        functional.layer_norm(mean, mean.shape[-1:]) * (48 / 24) @ p["head.weight"] + p["head.bias"]
    )

    np.testing.assert_allclose(engine.outputs(data), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_neither_outputs_nor_gradients(kind: AdapterKind) -> None:
    engine = moved(trainer(kind, pair=True))
    data = batch(6)
    engine.gradients(data)
    expected = engine.flat_gradient.copy()
    padded = rows(data, slice(None), extra_padding=9)
    padded.hidden[:, :, data.hidden.shape[2] :] = 123.0

    engine.gradients(padded)

    np.testing.assert_allclose(engine.flat_gradient, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_allclose(engine.outputs(padded), engine.outputs(data), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("replicas", [2, 3])
def test_several_trainers_lose_what_one_would(kind: AdapterKind, replicas: int) -> None:
    single = trainer(kind)
    several = [trainer(kind) for _ in range(replicas)]
    batches = [batch(7, seed) for seed in range(6)]

    for step in range(18):
        data = batches[step % 6]
        expected = single.gradients(data)
        single.apply(single.flat_gradient / np.float32(7))
        bounds = np.linspace(0, 7, replicas + 1).astype(int)
        parts = [rows(data, slice(*pair)) for pair in itertools.pairwise(bounds)]
        losses = [t.gradients(part) for t, part in zip(several, parts, strict=True)]
        total = np.sum([t.flat_gradient for t in several], axis=0)
        for replica in several:
            replica.apply(total / np.float32(7))
        assert sum(losses) == pytest.approx(expected, rel=2e-5)

    for replica in several:
        np.testing.assert_array_equal(replica.flat_parameters, several[0].flat_parameters)


def test_a_trainer_without_samples_adds_nothing() -> None:
    engine = trainer()
    engine.gradients(batch(4))

    assert engine.gradients(rows(batch(4), slice(0, 0))) == 0.0
    assert not engine.flat_gradient.any()
    assert engine.outputs(rows(batch(4), slice(0, 0))).shape == (0, 3)


def test_two_segments_are_compared_token_by_token() -> None:
    """The segments of class 1 hold the same tokens; those of class 0 have the same means only."""
    random = np.random.default_rng(0)
    first = random.normal(size=(LAYERS, 40, 4, HIDDEN_SIZE)).astype(np.float32)
    other = random.normal(size=first.shape).astype(np.float32)
    other += (first - other).mean(2, keepdims=True)
    same = np.arange(40) % 2
    second = np.where(same[:, None, None] == 1, first[:, :, ::-1], other)
    data = Batch(
        hidden=np.concatenate([first, second], 2),
        lengths=np.full(40, 8),
        second_starts=np.full(40, 4),
        targets=same,
    )
    compared = trainer(pair=True, total_steps=1)
    compared.gradients(data)
    weights = compared.named_gradients()["comparison.weight"]
    distances = weights.reshape(LAYERS, 5, HIDDEN_SIZE, -1)[:, 2:4, :, 1]
    assert (distances > 0).all()  # a step down: what differs speaks against class 1


def test_a_pair_without_a_second_segment_is_compared_with_nothing() -> None:
    engine = moved(trainer(pair=True))
    data = batch(5)
    for starts in (np.zeros(5, np.int64), data.lengths):
        engine.gradients(dataclasses.replace(data, second_starts=starts))
        assert not engine.named_gradients()["comparison.weight"].any()


@pytest.mark.parametrize(
    ("layers", "compared"),
    [(1, (0,)), (2, (0, 1)), (4, (0, 1, 2, 3)), (7, (0, 2, 4, 6)), (13, (0, 4, 8, 12))],
)
def test_pairs_are_compared_in_few_layers_up_to_the_last(
    layers: int, compared: tuple[int, ...]
) -> None:
    assert config(layers=tuple(range(layers)), pair=True).compared_layers == compared
    assert config(layers=tuple(range(layers))).compared_layers == ()


@pytest.mark.parametrize("kind", KINDS)
def test_training_learns(kind: AdapterKind) -> None:
    engine = trainer(kind, total_steps=60)
    data = batch(12)
    first = engine.gradients(data)
    for _ in range(60):
        loss = engine.gradients(data)
        engine.apply(engine.flat_gradient / np.float32(12))
    assert loss < 0.1 * first
    assert (engine.outputs(data).argmax(1) == data.targets).all()


def test_a_single_layer_is_enough() -> None:
    engine = trainer(layers=(2,))
    data = batch(4)
    only = Batch(
        hidden=data.hidden[2:],
        lengths=data.lengths,
        second_starts=data.second_starts,
        targets=data.targets,
    )
    assert engine.gradients(only) > 0
    assert engine.flat_gradient.any()


def test_initial_weights_follow_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = Trainer(config(), TrainingOptions(seed=5), 10).state()
    torch.manual_seed(2)
    np.random.seed(2)
    assert Trainer(config(), TrainingOptions(seed=5), 99).state() == first
    assert Trainer(config(), TrainingOptions(seed=6), 10).state() != first


def test_initial_weights_never_change_between_releases() -> None:
    weights = read_tensors(Trainer(config(), TrainingOptions(seed=0), 1).state())["down.weight"]
    assert weights.ravel()[:2].tolist() == [-0.08634715527296066, -0.04568807780742645]
    assert weights.std() == pytest.approx(24**-0.5 / (96 / 24), rel=0.1)


def test_training_goes_on_from_a_state_as_if_never_stopped() -> None:
    engine, other = trainer(), trainer()
    moved(other)
    data = batch(6)
    for _ in range(3):
        engine.gradients(data)
        engine.apply(engine.flat_gradient)
    other.load_state(engine.state())
    for one in (engine, other):
        for _ in range(3):
            one.gradients(data)
            one.apply(one.flat_gradient)

    assert other.step == 6
    assert other.state() == engine.state()


def test_a_predictor_answers_as_the_trainer_does() -> None:
    changes = {"task": "regression", "num_outputs": 1, "target_mean": 2.0, "target_scale": 3.0}
    engine = moved(trainer(**changes))
    weights = adapter_weights(engine.state())
    data = batch(4, regression=True)

    np.testing.assert_array_equal(
        Predictor(config(**changes), weights).outputs(data), engine.outputs(data)
    )
    assert not [n for n in read_tensors(weights) if n.startswith("optimizer")]


def test_a_state_of_another_adapter_is_refused_and_changes_nothing() -> None:
    engine, other = trainer(), trainer(reduction=2)
    before = engine.state()
    with pytest.raises(BadInputError, match=r"this adapter needs float32"):
        engine.load_state(other.state())
    with pytest.raises(BadInputError, match=r"'optimizer\.first_moment' is missing"):
        engine.load_state(adapter_weights(before))
    with pytest.raises(BadInputError, match="truncated"):
        engine.load_state(before[:-1])
    assert engine.state() == before


def test_weights_that_are_not_finite_are_refused() -> None:
    tensors = {n: t.copy() for n, t in read_tensors(trainer().state()).items()}
    tensors["head.bias"][0] = np.nan
    with pytest.raises(BadInputError, match=r"'head\.bias' holds values that are not finite"):
        Predictor(config(), write_tensors(tensors))


def test_a_batch_that_does_not_fit_is_refused() -> None:
    engine = trainer(layers=(0, 1))
    with pytest.raises(ValueError, match=r"the adapter \(2, 24\)"):
        engine.gradients(batch(3))
    data = batch(3)
    data.targets[0] = 3
    with pytest.raises(IndexError, match="target"):
        trainer().gradients(data)


def test_given_initial_weights_replace_generated_ones() -> None:
    generated = read_tensors(trainer().state())
    given = {"blocks.1.fc1.weight": np.full((8, 8), 0.5, np.float32)}
    started = Trainer(config(), TrainingOptions(seed=3), 10, initial=write_tensors(given))

    for name, tensor in read_tensors(adapter_weights(started.state())).items():
        np.testing.assert_array_equal(tensor, given.get(name, generated[name]), err_msg=name)
    assert (started.flat_parameters == 0.5).sum() == 64


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("blocks.1.fc1.weight", (8, 9), r"this adapter needs float32 \(8, 8\)"),
        ("blocks.7.fc1.weight", (8, 8), r"no tensor 'blocks\.7\.fc1\.weight'"),
    ],
)
def test_initial_weights_of_another_adapter_are_refused(
    name: str, shape: tuple[int, ...], message: str
) -> None:
    given = write_tensors({name: np.ones(shape, np.float32)})
    with pytest.raises(BadInputError, match=message):
        Trainer(config(), TrainingOptions(), 10, initial=given)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_a_batch_add_up_their_gradients(kind: AdapterKind) -> None:
    engine, data = moved(trainer(kind)), batch(7)
    loss = engine.gradients(data)
    expected = engine.flat_gradient.copy()

    losses = [engine.gradients(rows(data, slice(3))), engine.add_gradients(rows(data, slice(3, 7)))]

    assert sum(losses) == pytest.approx(loss, rel=1e-5)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(engine.flat_gradient, expected, atol=1e-5 * scale)


def test_a_trainer_leaves_its_thread_to_encode_and_decode_subnormals() -> None:
    states = np.array([[2.0**-24, -(2.0**-20), 2.0**-15, 1.0]], np.float32)
    data, decoded = batch(4), np.empty_like(states)
    engine = trainer("attention")
    engine.gradients(data)
    engine.apply(engine.flat_gradient)
    engine.outputs(data)
    Predictor(config("attention"), adapter_weights(engine.state())).outputs(data)
    decode_into(encode(states, "fp16"), decoded, "fp16")

    np.testing.assert_array_equal(decoded, states)


def test_subnormal_gradients_count_as_zeros() -> None:
    engine = trainer("attention")
    engine.gradients(batch(4))
    tiny = np.full_like(engine.flat_gradient, 1e-40)
    engine.apply(tiny)
    moments = read_tensors(engine.state(), "state")["optimizer.first_moment"]

    assert not moments.any()


def test_a_trainer_holds_no_more_copies_of_a_parameter_than_are_reckoned_with() -> None:
    engine = trainer("attention", num_outputs=7)  # as large as no other
    engine.gradients(batch(4))
    engine.apply(engine.flat_gradient)
    gc.collect()
    storages = (each.untyped_storage() for each in gc.get_objects() if type(each) is torch.Tensor)
    copies = {each.data_ptr() for each in storages if each.nbytes() == 4 * engine.parameters}

    assert len(copies) == OPTIMIZER_COPIES
