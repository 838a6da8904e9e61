"""Gradients are compared with the module's in ``tests/edge_runtime/parallel_adapters``."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from edge_runtime.contract.adapter import AdapterKind
from edge_runtime.side_gradients.layout import Layout
from edge_runtime.side_gradients.network import SideNetwork, is_by_hand
from edge_runtime.side_gradients.pooled_head import PooledHead
from tests.edge_runtime.parallel_adapters.language_samples import seq2seq
from tests.edge_runtime.parallel_adapters.samples import config, moved, trainer

KINDS: tuple[AdapterKind, ...] = ("attention", "mlp")
LENGTHS = np.array([3, 1, 4])
STATES = np.random.default_rng(0).normal(size=(3, 8, 24)).astype(np.float32)
Tensors = dict[str, np.ndarray]


def parameters(kind: AdapterKind) -> tuple[Tensors, Tensors]:
    engine = moved(trainer(kind))
    gradients = engine.named_gradients()
    values, first = {}, 0
    for name, gradient in gradients.items():
        values[name] = engine.flat_parameters[first : first + gradient.size].reshape(gradient.shape)
        first += gradient.size
    return values, {name: np.zeros_like(gradient) for name, gradient in gradients.items()}


def read(layer: int, out: np.ndarray) -> None:
    out[...] = STATES[layer]


def learn(side: SideNetwork, *, adds: bool) -> None:
    state = side.forward(read, Layout.of(LENGTHS))
    side.backward(np.cos(state), adds)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_added_or_take_the_place_of_what_was_there(kind: AdapterKind) -> None:
    values, gradients = parameters(kind)
    side = SideNetwork(config(kind), values, gradients)
    learn(side, adds=False)
    once = {name: each.copy() for name, each in gradients.items()}

    learn(side, adds=True)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, 2 * once[name], rtol=1e-6, err_msg=name)
    learn(side, adds=False)
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, once[name], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_has_the_same_last_state_alone(kind: AdapterKind) -> None:
    side = SideNetwork(config(kind), *parameters(kind))
    together = side.forward(read, Layout.of(LENGTHS))

    def read_last(layer: int, out: np.ndarray) -> None:
        out[...] = STATES[layer, 4:]

    np.testing.assert_allclose(
        side.forward(read_last, Layout.of(LENGTHS[2:])), together[4:], atol=1e-5
    )


def test_two_stacks_are_left_to_autograd() -> None:
    assert is_by_hand(config())
    assert not is_by_hand(seq2seq())


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_gradient_of_the_head_is_that_of_small_changes(task: str) -> None:
    outputs = 1 if task == "regression" else 3
    shape = dataclasses.replace(config(), task=task, num_outputs=outputs)
    random = np.random.default_rng(2)
    sizes = {
        "up.weight": (8, 24),
        "head.weight": (24, outputs),
        "head.bias": (outputs,),
    }
    values = {name: random.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    head = PooledHead(shape, values, {name: np.zeros_like(each) for name, each in values.items()})
    state = random.normal(size=(8, 8)).astype(np.float32)
    targets = random.normal(size=3).astype(np.float32) if outputs == 1 else np.array([2, 0, 1])

    def loss(state: np.ndarray) -> float:
        return head.loss(STATES[-1], state.astype(np.float32), LENGTHS, targets, False)[0]

    _, gradient = head.loss(STATES[-1], state, LENGTHS, targets, False)
    direction = random.normal(size=state.shape)
    slope = (loss(state + 1e-2 * direction) - loss(state - 1e-2 * direction)) / 2e-2

    assert (gradient * direction).sum() == pytest.approx(slope, rel=2e-2)


def test_a_target_that_is_no_class_is_refused() -> None:
    head = PooledHead(config(), *parameters("mlp"))
    state = np.ones((8, 8), np.float32)

    with pytest.raises(IndexError, match="not below 3"):
        head.loss(STATES[-1], state, LENGTHS, np.array([0, 3, 1]), False)
