"""The adapter in plain autograd, written for clarity: what the engine is checked against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from edge_runtime.contract.adapter import AdapterConfig

    Parameters = dict[str, Tensor]


def _norm(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:])


def _split(x: Tensor, parts: int, heads: int) -> Tensor:
    batch, tokens, width = x.shape
    x = x.view(batch, tokens, parts, heads, width // parts // heads)
    return x.permute(2, 0, 3, 1, 4)


def _mix(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
    """``keep`` (B, T or 1, S): what each query may see."""
    mixed = functional.scaled_dot_product_attention(q, k, v, keep[:, None])
    return mixed.transpose(1, 2).flatten(2)


def _self_attention(p: Parameters, prefix: str, x: Tensor, keep: Tensor, heads: int) -> Tensor:
    q, k, v = _split(_norm(x) @ p[f"{prefix}.qkv.weight"], 3, heads)
    return x + _mix(q, k, v, keep) @ p[f"{prefix}.out.weight"]


def _cross_attention(
    p: Parameters, prefix: str, x: Tensor, memory: Tensor, keep: Tensor, heads: int
) -> Tensor:
    (q,) = _split(_norm(x) @ p[f"{prefix}.cross.q.weight"], 1, heads)
    k, v = _split(_norm(memory) @ p[f"{prefix}.cross.kv.weight"], 2, heads)
    return x + _mix(q, k, v, keep) @ p[f"{prefix}.cross.out.weight"]


def _feed_forward(p: Parameters, prefix: str, x: Tensor) -> Tensor:
    inner = _norm(x) @ p[f"{prefix}.fc1.weight"] + p[f"{prefix}.fc1.bias"]
    return x + functional.silu(inner) @ p[f"{prefix}.fc2.weight"]


def _mean(x: Tensor, keep: Tensor) -> Tensor:
    weights = keep[..., None].float()
    return (x * weights).sum(1) / weights.sum(1).clamp(min=1)


def _stack(
    config: AdapterConfig,
    p: Parameters,
    prefix: str,
    hidden: Tensor,
    keep: Tensor,
    memory: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The last side state, (B, T, w); ``keep`` (B, T or 1, T) as in :func:`_mix`."""
    down = [
        _norm(h) * (96 / config.hidden_size) @ w + b
        for h, w, b in zip(hidden, p[f"{prefix}down.weight"], p[f"{prefix}down.bias"], strict=True)
    ]
    state = down[0]
    for i in range(len(hidden) - 1):
        mu, block = torch.sigmoid(p[f"{prefix}gate"][i]), f"{prefix}blocks.{i}"
        state = mu * state + (1 - mu) * down[i + 1]
        if config.kind == "attention":
            state = _self_attention(p, block, state, keep, config.num_heads)
        if memory is not None:
            state = _cross_attention(p, block, state, *memory, config.num_heads)
        state = _feed_forward(p, block, state)
    return state


def tokens(hidden: Tensor, lengths: Tensor) -> Tensor:
    """(B, T), true on tokens."""
    return torch.arange(hidden.shape[2]) < lengths[:, None]


def _comparison(first: Tensor, second: Tensor) -> Tensor:
    """What the tokens (T1, d) and (T2, d) of two segments say of each other in one layer."""
    if not (len(first) and len(second)):
        return torch.zeros(5 * first.shape[1])
    a, b = _norm(first), _norm(second)
    cosines = functional.normalize(a, dim=1) @ functional.normalize(b, dim=1).T
    to_a, to_b = torch.softmax(20 * cosines, 1) @ b, torch.softmax(20 * cosines.T, 1) @ a
    distance = torch.cat([a - to_a, b - to_b]).abs()
    product = torch.cat([a * to_a, b * to_b]).mean(0)
    apart = [(a - to_a).mean(0), (b - to_b).mean(0)]
    return torch.cat([*apart, distance.mean(0), distance.amax(0), product])


def outputs(
    config: AdapterConfig, p: Parameters, hidden: Tensor, lengths: Tensor, starts: Tensor
) -> Tensor:
    """(B, C) outputs; ``p`` maps the names of the saved adapter to tensors."""
    keep = tokens(hidden, lengths)
    state = _stack(config, p, "", hidden, keep[:, None])
    out = hidden[-1] + _norm(state) @ p["up.weight"]
    if config.pair:
        before = torch.arange(hidden.shape[2]) < starts[:, None]
        first = keep & (before | (starts == 0)[:, None])
        u, v = _norm(_mean(out, first)), _norm(_mean(out, keep & ~first))
        features = torch.cat([(u - v).abs(), u * v], 1)
    else:
        features = _norm(_mean(out, keep))
    features = features * (48 / features.shape[1])
    result = features @ p["head.weight"] + p["head.bias"]
    if config.pair:
        found = torch.stack(
            [
                torch.cat([_comparison(h[first[i]], h[(keep & ~first)[i]]) for h in hidden[:, i]])
                for i in range(len(keep))
            ]
        )
        result = result + found * (1000 / found.shape[1]) @ p["comparison.weight"]
    return result


def features(
    config: AdapterConfig,
    p: Parameters,
    hidden: Tensor,
    lengths: Tensor,
    encoder: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """(B, T, d), what the frozen head reads; ``encoder``: its hidden states and lengths."""
    keep = tokens(hidden, lengths)[:, None]
    if config.causal:
        keep = keep & torch.ones(hidden.shape[2], hidden.shape[2], dtype=torch.bool).tril()
    if encoder is None:
        state = _stack(config, p, "", hidden, keep)
    else:
        visible = tokens(*encoder)[:, None]
        memory = _stack(config, p, "encoder.", encoder[0], visible)
        state = _stack(config, p, "decoder.", hidden, keep, (memory, visible))
    scale = config.up_scale
    return hidden[-1] + _norm(state) * scale @ p["up.weight"]


def language_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy summed over the counted tokens, in nats."""
    return functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum"
    )


def logits(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    scale: float = 1.0,
    softcap: float = 0.0,
) -> Tensor:
    """What the frozen head makes of features."""
    result = scale * (features @ weight.T)
    if bias is not None:
        result = result + bias
    return softcap * torch.tanh(result / softcap) if softcap else result
