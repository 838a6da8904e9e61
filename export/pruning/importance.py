"""Measures the importance of a backbone's channels by the inputs of its linear maps.

The fluctuation metric of FLAP (An et al., 2024): an input channel j of a linear map is worth
Var(x_j) |W_j|^2, the energy of what changes and leaves with it. It needs forward passes
only and no loss, so one rule serves encoders and language models.
"""

import math

import torch
from torch import Tensor

from edge_runtime.contract.errors import UsageError

from .observe import AttentionMaps, LinearMap, Stack

_NOTHING = 1e-30
"""Keeps the shares of a layer that reads nothing finite."""


def importance(linear: LinearMap) -> Tensor:
    """Computes each input channel's variance times the energy of its weights, (inputs,)."""
    return linear.inputs.var(0, correction=0) * linear.matrix.square().sum(1)


def residual_channels(stack: Stack, width: int) -> Tensor:
    """Selects the channels of the residual stream that a stack's layers use most, ascending.

    Every layer has one vote, which it spreads over the channels.
    """
    total = torch.zeros(stack.states[0].shape[1])
    for layer in stack.layers:
        readers = [layer.attention.q, layer.attention.k, layer.attention.v, layer.fc1]
        readers += [layer.cross.q] if layer.cross is not None else []
        votes = sum((importance(reader) for reader in readers), torch.zeros_like(total))
        total += votes / votes.sum().clamp(min=_NOTHING)
    return best(total, width)


def attention_channels(
    maps: AttentionMaps, heads: int, side_heads: int, width: int
) -> tuple[Tensor, Tensor]:
    """Selects what an attention keeps, as indices into the channels of all its heads.

    A side head gets the next best heads of the backbone, as many as its channels need, and
    the best channels of those: one choice for queries and keys, whose products need each
    other, another one for values and output.

    Args:
        maps: of the backbone.
        heads: its query heads.
        side_heads: heads of a side block.
        width: channels of a side block.

    Returns:
        Channels of queries, and of mixed values, (width,) each.

    Raises:
        UsageError: the heads have too few channels together.
    """
    mixed_HC = importance(maps.out).view(heads, -1)
    channels, share = mixed_HC.shape[1], width // side_heads
    needed = math.ceil(share / channels)
    if needed * side_heads > heads:
        raise UsageError(
            f"--adapter-reduction: a pruned adapter of width {width} with {side_heads} heads "
            f"needs {needed * side_heads} of the backbone's heads, which has {heads}; give a "
            "larger one, or fewer --adapter-heads"
        )
    groups = len(maps.out.matrix) // maps.k.matrix.shape[1]
    keys = maps.k.outputs.var(0, correction=0)
    every = torch.arange(heads * channels)
    scored_HC = maps.q.outputs.var(0, correction=0) * keys[key_channels(every, channels, groups)]
    scored_HC = scored_HC.view(heads, channels)
    order = mixed_HC.sum(1).argsort(descending=True, stable=True)
    scored, mixed = [], []
    for side in range(side_heads):
        chosen = order[side * needed : (side + 1) * needed].sort().values
        places = every.view(heads, channels)[chosen].flatten()
        scored.append(places[best(scored_HC[chosen].flatten(), share)])
        mixed.append(places[best(mixed_HC[chosen].flatten(), share)])
    return torch.cat(scored), torch.cat(mixed)


def key_channels(places: Tensor, channels: int, groups: int) -> Tensor:
    """Maps channels of query heads to those of the key heads that ``groups`` of them share."""
    return places // channels // groups * channels + places % channels


def best(values: Tensor, count: int) -> Tensor:
    """Indices of the largest, ascending; the first of equal ones."""
    return values.argsort(descending=True, stable=True)[:count].sort().values
