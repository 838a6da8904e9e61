"""Gradients of an adapter whose side network's are computed by hand.

The head is autograd's where it is not a simple one: of pairs, and of language models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from edge_runtime.contract.cache_format.encoding import decode_into
from edge_runtime.side_gradients.layout import Layout
from edge_runtime.side_gradients.network import SideNetwork
from edge_runtime.side_gradients.pooled_head import PooledHead
from edge_runtime.system.blas import blas_threads

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from edge_runtime.contract.checks import Array

    from .batch import PackedBatch
    from .module import ParallelAdapter


class GradientsByHand:
    """Writes the gradients of an adapter's parameters, which autograd does not see.

    Attributes:
        writes_all: every parameter's; otherwise those of the head are autograd's, which adds.
    """

    def __init__(self, adapter: ParallelAdapter) -> None:
        """Computes with the memory of the parameters and of their gradients."""
        config = adapter.config
        named = dict(adapter.named_parameters())
        values = {name: each.detach().numpy() for name, each in named.items()}
        gradients = {
            name: each.grad.numpy() for name, each in named.items() if each.grad is not None
        }
        self._side = SideNetwork(config, values, gradients)
        is_simple = not config.generative and not config.pair
        self._head = PooledHead(config, values, gradients) if is_simple else None
        self.writes_all = is_simple

    def loss(
        self,
        batch: PackedBatch,
        rows_M: NDArray[np.int64] | None,
        head_loss: Callable[[torch.Tensor], torch.Tensor],
        *,
        adds: bool,
    ) -> float:
        """Computes the summed loss, and writes its gradient.

        Args:
            batch: the samples.
            rows_M: which tokens a side state is wanted of, where each is read alone; else None.
            head_loss: what autograd is to make of the last side state, (N, w) or (M, w), if it
                has to.
            adds: on top of what is there; a head that is autograd's is always added.

        Raises:
            IndexError: a target is no class.
        """
        lengths = batch.lengths if rows_M is None else np.array([len(rows_M)])
        with np.errstate(all="ignore"), blas_threads(torch.get_num_threads()):
            state_Mw = self._side.forward(_reader(batch, rows_M), Layout.of(lengths))
            if self._head is not None:
                last_Nd = self._side.centred_last
                loss, gradient = self._head.loss(
                    *(last_Nd, state_Mw, batch.lengths, batch.targets), adds
                )
            else:
                leaf = torch.from_numpy(state_Mw).requires_grad_()
                total = head_loss(leaf)
                total.backward()  # type: ignore[no-untyped-call]
                assert leaf.grad is not None
                loss, gradient = total.item(), leaf.grad.numpy()
            self._side.backward(gradient, adds)
        return loss


def _reader(batch: PackedBatch, rows_M: NDArray[np.int64] | None) -> Callable[[int, Array], None]:
    """Reads layers; PyTorch makes float32 of float16 ten times as fast as numpy."""
    layers = torch.from_numpy(batch.states).unbind()
    rows = None if rows_M is None else torch.from_numpy(rows_M)

    def read(layer: int, out: Array) -> None:
        states = layers[layer] if rows is None else layers[layer].index_select(0, rows)
        if states.dtype == torch.uint8:
            decode_into(states.numpy(), out, "int8")
        else:
            torch.from_numpy(out).copy_(states)

    return read
