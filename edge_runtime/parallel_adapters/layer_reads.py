"""Reads layers of cached hidden states through trained matrices, one layer at a time.

Autograd would keep every layer's normalized states in float32 for the gradients of the matrices:
four times what the cache has of them. To decode and normalize them again costs a fiftieth of
the products.

Shapes: L layers, N tokens, M of them that are read, d backbone width, w columns of a matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from edge_runtime.contract.adapter import NORM_EPSILON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .attention_context import PackedStates


def normalize(x: Tensor) -> Tensor:
    """Applies layer normalization, without parameters, over the last dimension."""
    return functional.layer_norm(x, x.shape[-1:], eps=NORM_EPSILON)


def read_each(states: PackedStates, weight_Ldw: Tensor, rows_M: Tensor | None = None) -> Tensor:
    """Computes norm(h_l) W_l of every layer, (L, M, w), of all tokens or of some."""
    found: Tensor = _Read.apply(  # type: ignore[no-untyped-call]
        weight_Ldw, states, range(len(weight_Ldw)), rows_M, False
    )
    return found


def read_sum(
    states: PackedStates,
    weight_Kdw: Tensor,
    layers: Sequence[int] | None = None,
    rows_M: Tensor | None = None,
) -> Tensor:
    """Computes the sum of norm(h_l) W_l, (M, w), over all layers or over K of them."""
    layers = range(len(weight_Kdw)) if layers is None else layers
    found: Tensor = _Read.apply(  # type: ignore[no-untyped-call]
        weight_Kdw, states, layers, rows_M, True
    )
    return found


class _Read(torch.autograd.Function):
    """The products, or their sum over layers; the hidden states have no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        weight_Kdw: Tensor,
        states: PackedStates,
        layers: Sequence[int],
        rows_M: Tensor | None,
        sums: bool,
    ) -> Tensor:
        """Computes the products."""
        ctx.inputs = states, layers, rows_M, sums, weight_Kdw.shape[1]
        tokens = states.layers.shape[1] if rows_M is None else len(rows_M)
        count, _, width = weight_Kdw.shape
        found = weight_Kdw.new_zeros((tokens, width) if sums else (count, tokens, width))
        for place, layer in enumerate(layers):
            normed_Md = normalize(states.decoded(layer, weight_Kdw.dtype, rows_M))
            (found if sums else found[place]).addmm_(normed_Md, weight_Kdw[place])
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        """Computes the gradients of the matrices."""
        states, layers, rows_M, sums, channels = ctx.inputs
        (gradient,) = gradients
        of_weight = gradient.new_empty((len(layers), channels, gradient.shape[-1]))
        for place, layer in enumerate(layers):
            normed_Md = normalize(states.decoded(layer, gradient.dtype, rows_M))
            torch.mm(normed_Md.t(), gradient if sums else gradient[place], out=of_weight[place])
        return of_weight, None, None, None, None
