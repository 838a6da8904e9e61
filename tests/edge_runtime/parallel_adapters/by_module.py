"""What :class:`ParallelAdapter` makes of a batch at once, to compare the engine with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edge_runtime.contract.adapter import adapter_weights
from edge_runtime.parallel_adapters.attention_context import PackedStates
from edge_runtime.parallel_adapters.layer_reads import normalize
from edge_runtime.parallel_adapters.load import from_bytes

if TYPE_CHECKING:
    from edge_runtime.contract.adapter import AdapterConfig
    from edge_runtime.language_head.frozen_head import FrozenHead
    from edge_runtime.parallel_adapters import Batch, ParallelAdapter


def adapter(config: AdapterConfig, state: bytes) -> ParallelAdapter:
    """With the weights of a trainer's state."""
    return from_bytes(config, adapter_weights(state))


def mask(hidden: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.arange(hidden.shape[2]) < lengths[:, None])


def run(module: ParallelAdapter, data: Batch) -> Tensor:
    """Outputs or features of the whole batch."""
    encoder = None
    if data.encoder_hidden is not None and data.encoder_lengths is not None:
        states = data.encoder_hidden
        encoder = torch.from_numpy(states), mask(states, data.encoder_lengths)
    starts = torch.from_numpy(data.second_starts)
    hidden = torch.from_numpy(data.hidden)
    found: Tensor = module(hidden, mask(data.hidden, data.lengths), starts, encoder)
    return found


def logits(features: Tensor, head: FrozenHead) -> Tensor:
    """What the frozen head makes of features."""
    result = head.scale * (features @ torch.from_numpy(head.rows(slice(None))).T)
    if head.bias is not None:
        result = result + torch.from_numpy(head.bias)
    return head.softcap * torch.tanh(result / head.softcap) if head.softcap else result


def copies(module: ParallelAdapter, data: Batch) -> Tensor:
    """What a pointer adds to the logits of the context's tokens, (B, T, T)."""
    return pointed(module, torch.from_numpy(data.hidden), mask(data.hidden, data.lengths))


def pointed(module: ParallelAdapter, hidden: Tensor, seen: Tensor) -> Tensor:
    """The same of hidden states (L, B, T, d); 0 of padding, which ``seen`` (B, T) is not."""
    states = PackedStates.of_padded(hidden, seen)
    side = normalize(module.side_state(states))
    added = module.pointer(states, side, torch.arange(len(side)))
    longest = added.shape[1]
    found = added.new_zeros(*seen.shape, seen.shape[1])
    found[:, :, :longest][seen] = added
    return found


def token_logits(module: ParallelAdapter, data: Batch, head: FrozenHead) -> Tensor:
    """Of every token of the vocabulary, (B, T, V)."""
    found = logits(run(module, data), head)
    if data.tokens is None:
        return found
    added = copies(module, data)
    return found.scatter_add(2, torch.from_numpy(data.tokens)[:, None].expand_as(added), added)


def language_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy summed over the counted tokens, in nats."""
    return functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum"
    )


def loss(module: ParallelAdapter, data: Batch, head: FrozenHead | None = None) -> Tensor:
    """Summed loss of the whole batch."""
    config, targets = module.config, torch.from_numpy(data.targets)
    if head is not None:
        return language_loss(token_logits(module, data, head), targets)
    found = run(module, data)
    if config.task == "regression":
        values = targets * config.target_scale + config.target_mean
        return ((found[:, 0] - values) / config.target_scale).square().sum()
    return functional.cross_entropy(found, targets, reduction="sum")


def gradients(
    config: AdapterConfig, state: bytes, data: Batch, head: FrozenHead | None = None
) -> tuple[float, dict[str, Any]]:
    """Summed loss and its gradients by name."""
    module = adapter(config, state)
    module.zero_grad()
    total = loss(module, data, head)
    total.backward()  # type: ignore[no-untyped-call]
    return total.item(), {name: p.grad.numpy() for name, p in module.named_parameters()}
