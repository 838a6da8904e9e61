"""The adapter's formulas for one sample without padding, in numpy and float64.

Written from the definitions, without any code of the engine: what the module is checked
against. ``p`` maps the names of ``adapter_model.safetensors`` to arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from edge_runtime.contract.adapter import AdapterConfig

Array: TypeAlias = np.ndarray[Any, Any]


def norm(x: Array) -> Array:
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def softmax(x: Array) -> Array:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def attention(q_Tw: Array, k_Sw: Array, v_Sw: Array, heads: int, causal: bool = False) -> Array:
    """One query of one head at a time."""
    mixed = np.zeros_like(q_Tw)
    width = q_Tw.shape[1] // heads
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        for query in range(len(q_Tw)):
            seen = slice(query + 1 if causal else None)
            shares = softmax(k_Sw[seen, own] @ q_Tw[query, own] / np.sqrt(width))
            mixed[query, own] = shares @ v_Sw[seen, own]
    return mixed


def side_state(
    config: AdapterConfig, p: dict[str, Array], hidden_LTd: Array, prefix: str, memory: Any = None
) -> Array:
    """s_0 = D_0(norm(h_0)); s_i = A_i(mu_i s_{i-1} + (1 - mu_i) D_i(norm(h_i))); (T, w)."""

    def down(layer: int) -> Array:
        scaled = norm(hidden_LTd[layer]) * (96 / config.hidden_size)
        product: Array = scaled @ p[f"{prefix}down.weight"][layer]
        return product + p[f"{prefix}down.bias"][layer]

    s, heads, causal = down(0), config.num_heads, config.causal and prefix != "encoder."
    for i in range(len(hidden_LTd) - 1):
        mu = sigmoid(p[f"{prefix}gate"][i])
        s = mu * s + (1 - mu) * down(i + 1)
        block = {
            name.removeprefix(f"{prefix}blocks.{i}."): array
            for name, array in p.items()
            if name.startswith(f"{prefix}blocks.{i}.")
        }
        if config.kind == "attention":
            q, k, v = np.split(norm(s) @ block["qkv.weight"], 3, 1)
            s = s + attention(q, k, v, heads, causal) @ block["out.weight"]
        if memory is not None:
            k, v = np.split(norm(memory) @ block["cross.kv.weight"], 2, 1)
            read = attention(norm(s) @ block["cross.q.weight"], k, v, heads)
            s = s + read @ block["cross.out.weight"]
        inner = norm(s) @ block["fc1.weight"] + block["fc1.bias"]
        s = s + (inner * sigmoid(inner)) @ block["fc2.weight"]
    return s


def features(
    config: AdapterConfig, p: dict[str, Array], hidden_LTd: Array, encoder_LTd: Array | None
) -> Array:
    """h_L + U(norm(s_L)), (T, d), of a language model."""
    if encoder_LTd is None:
        state = side_state(config, p, hidden_LTd, "")
    else:
        memory = side_state(config, p, encoder_LTd, "encoder.")
        state = side_state(config, p, hidden_LTd, "decoder.", memory)
    change: Array = (norm(state) * 192 / config.width) @ p["up.weight"]
    return hidden_LTd[-1] + change


def pointer(config: AdapterConfig, p: dict[str, Array], hidden_LTd: Array) -> tuple[Array, Array]:
    """h_L + U(norm(s)), (T, d), and what is added to logits of the context's tokens, (T, T)."""
    layers, tokens, d = hidden_LTd.shape
    s = p["down.bias"]
    for h, matrix in zip(hidden_LTd, p["down.weight"], strict=True):
        s = s + norm(h) @ matrix * (96 / d) / np.sqrt(layers)
    for i in range(3):
        inner = norm(s) @ p[f"blocks.{i}.fc1.weight"] + p[f"blocks.{i}.fc1.bias"]
        s = s + (inner * sigmoid(inner)) @ p[f"blocks.{i}.fc2.weight"]
    side = norm(s) * 192 / config.width
    # All layers, or four of them from the first to the last.
    seen = [*range(layers)] if layers < 4 else [(layers - 1) * k // 3 for k in range(4)]
    parts = np.stack([norm(hidden_LTd[layer]) for layer in seen]) * (96 / d) / np.sqrt(len(seen))
    read, own = ((parts @ p[f"pointer.{name}"]).sum(0) for name in ("read", "own"))
    query = read + side @ p["pointer.query.weight"]
    gates_TH = side @ p["pointer.gate.weight"] + 10 * p["pointer.gate_bias"]
    copies = np.zeros((tokens, tokens))
    for i in range(tokens):
        for head in range(4):
            channels = slice(32 * head, 32 * (head + 1))
            scores = [
                query[i, channels] @ ((read[j - 1] if j else 0 * own[j]) + own[j])[channels]
                for j in range(i + 1)
            ]
            copies[i, : i + 1] += gates_TH[i, head] * softmax(np.array(scores) / np.sqrt(32))
    change: Array = side @ p["up.weight"]
    return hidden_LTd[-1] + change, copies


def outputs(config: AdapterConfig, p: dict[str, Array], hidden_LTd: Array, start: int) -> Array:
    """(C,); ``start``: of the second segment, 0 where there is none."""
    out = hidden_LTd[-1] + norm(side_state(config, p, hidden_LTd, "")) @ p["up.weight"]
    tokens = len(out)
    split = start if config.pair and start else tokens
    segments = slice(split), slice(split, tokens)
    u, v = (norm(out[span].sum(0) / max(1, len(out[span]))) for span in segments)
    read = np.concatenate([np.abs(u - v), u * v]) if config.pair else u
    result = read * (48 / len(read)) @ p["head.weight"] + p["head.bias"]
    if config.pair:
        found = np.concatenate([comparison(h[segments[0]], h[segments[1]]) for h in hidden_LTd])
        result = result + found * (1000 / len(found)) @ p["comparison.weight"]
    values: Array = result * config.target_scale + config.target_mean
    return values


def comparison(first: Array, second: Array) -> Array:
    """What the tokens of two segments have in common in one layer, (5 * d,)."""
    if not (len(first) and len(second)):
        return np.zeros(5 * first.shape[1])
    a, b = norm(first), norm(second)
    cosines = a @ b.T / a.shape[1]  # normalized, a token's squared length is d
    to_a, to_b = softmax(20 * cosines) @ b, softmax(20 * cosines.T) @ a
    distance = np.abs(np.concatenate([a - to_a, b - to_b]))
    product = np.concatenate([a * to_a, b * to_b]).mean(0)
    apart = [(a - to_a).mean(0), (b - to_b).mean(0)]
    return np.concatenate([*apart, distance.mean(0), distance.max(0), product])
