"""Layers that are read one at a time are what they would be all at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from edge_runtime.parallel_adapters.attention_context import PackedStates
from edge_runtime.parallel_adapters.layer_reads import normalize, read_each, read_sum

LAYERS, TOKENS, CHANNELS, WIDTH = 5, 7, 6, 3
ROWS = torch.tensor([0, 2, 6])


def inputs(dtype: torch.dtype = torch.float16) -> tuple[PackedStates, Tensor]:
    random = torch.Generator().manual_seed(0)
    states = torch.randn(LAYERS, TOKENS, CHANNELS, generator=random).to(dtype)
    weight = torch.randn(LAYERS, CHANNELS, WIDTH, generator=random).requires_grad_()
    return PackedStates(states, torch.tensor([3, 4])), weight


def gradient_of(found: Tensor, weight: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(found.sin().sum(), weight, retain_graph=True)
    return gradient


@pytest.mark.parametrize("rows", [None, ROWS], ids=["all", "some"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_products_and_gradients_are_those_of_autograd(
    rows: Tensor | None, dtype: torch.dtype
) -> None:
    states, weight = inputs(dtype)
    normed = normalize(states.layers.float())
    expected = torch.bmm(normed if rows is None else normed[:, rows], weight)

    found = read_each(states, weight, rows)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient_of(found, weight), gradient_of(expected, weight))

    summed = read_sum(states, weight, rows_M=rows)
    torch.testing.assert_close(summed, expected.sum(0))
    torch.testing.assert_close(gradient_of(summed, weight), gradient_of(expected.sum(0), weight))


def test_some_layers_are_read_by_matrices_of_their_own() -> None:
    states, weight = inputs()
    some = weight[:2]
    expected = torch.bmm(normalize(states.layers[[1, 4]].float()), some).sum(0)

    found = read_sum(states, some, [1, 4])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient_of(found, weight), gradient_of(expected, weight))


def test_no_tokens_have_no_weight() -> None:
    states, weight = inputs()
    found = read_sum(states, weight, rows_M=ROWS[:0])
    assert found.shape == (0, WIDTH)
    assert not gradient_of(found, weight).any()
