"""The adapter in plain autograd, written for clarity: what the engine is checked against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from edge_runtime.contract.adapter import AdapterConfig


def _norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])


def _attention(p: dict[str, Tensor], prefix: str, x: Tensor, keep: Tensor, heads: int) -> Tensor:
    batch, tokens, width = x.shape
    qkv = (_norm(x) @ p[f"{prefix}.qkv.weight"]).view(batch, tokens, 3, heads, width // heads)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(q, k, v, keep[:, None, None, :])
    return x + mixed.transpose(1, 2).reshape(batch, tokens, width) @ p[f"{prefix}.out.weight"]


def _feed_forward(p: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    inner = _norm(x) @ p[f"{prefix}.fc1.weight"] + p[f"{prefix}.fc1.bias"]
    return x + functional.silu(inner) @ p[f"{prefix}.fc2.weight"]


def _mean(x: Tensor, keep: Tensor) -> Tensor:
    weights = keep[..., None].float()
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1)


def outputs(
    config: AdapterConfig, p: dict[str, Tensor], hidden: Tensor, lengths: Tensor, starts: Tensor
) -> Tensor:
    """(B, C) outputs; ``p`` maps the names of the saved adapter to tensors."""
    positions = torch.arange(hidden.shape[2])
    keep = positions < lengths[:, None]
    down = [
        _norm(h) * (96 / config.hidden_size) @ w + b
        for h, w, b in zip(hidden, p["down.weight"], p["down.bias"], strict=True)
    ]
    state = down[0]
    for i in range(len(config.layers) - 1):
        mu = torch.sigmoid(p["gate"][i])
        state = mu * state + (1 - mu) * down[i + 1]
        if config.kind == "attention":
            state = _attention(p, f"blocks.{i}", state, keep, config.num_heads)
        state = _feed_forward(p, f"blocks.{i}", state)
    out = hidden[-1] + _norm(state) @ p["up.weight"]
    if config.pair:
        first = keep & ((positions < starts[:, None]) | (starts == 0)[:, None])
        u, v = _norm(_mean(out, first)), _norm(_mean(out, keep & ~first))
        features = torch.cat([u, v, (u - v).abs(), u * v], 1)
    else:
        features = _norm(_mean(out, keep))
    features = features * (48 / features.shape[1])
    return features @ p["head.weight"] + p["head.bias"]
