"""Measures what rounding hidden states for the cache changes in an adapter's outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edge_runtime.contract.adapter import AdapterConfig
from edge_runtime.contract.cache_format.encoding import check_range, decode_into, encode
from edge_runtime.contract.manifest import HIDDEN_PREFIX, Manifest, Stream
from edge_runtime.contract.messages import Array, CacheDtype
from edge_runtime.inference.session import GraphSession
from edge_runtime.language_head.frozen_head import FrozenHead
from edge_runtime.parallel_adapters import Batch
from edge_runtime.parallel_adapters.batch import NOT_COUNTED

from .onnx_adapter import AdapterSession


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedText:
    """Token inputs of one sample, by name, and where its second segment starts, or 0."""

    inputs: Mapping[str, Sequence[int]]
    second_start: int = 0


def cache_effect(
    bundle: Path,
    manifest: Manifest,
    config: AdapterConfig,
    adapter: bytes,
    dtype: CacheDtype,
    texts: Sequence[TokenizedText],
) -> float:
    """Computes the difference that outputs of cached hidden states make to those of exact ones.

    Args:
        bundle: the backbone's graph, weights and head.
        manifest: of the bundle.
        config: of the adapter.
        adapter: as ONNX.
        dtype: of the cache.
        texts: whose outputs are compared.

    Returns:
        The largest of logits; of a regression's values, in standard deviations of the labels. Of a
        language model, that of the mean loss a token over all texts, as evaluations have it, in
        nats: a single token's moves far more, one way or the other.

    Raises:
        UnresumableError: the cache cannot hold the states of such texts.
    """
    backbone = GraphSession(bundle / "backbone.onnx", threads=1)
    spec = manifest.head if config.generative else None
    head = FrozenHead.open(bundle / spec.path, config) if spec is not None else None
    session = AdapterSession(adapter, config, head)
    worst = summed = 0.0
    count = 0
    for text in texts:
        exact = _batch(backbone, manifest, config, text)
        rounded = dataclasses.replace(
            exact,
            hidden=_rounded(exact.hidden, dtype),
            encoder_hidden=_rounded(exact.encoder_hidden, dtype)
            if exact.encoder_hidden is not None
            else None,
        )
        moved = session.outputs(rounded) - session.outputs(exact)
        if config.generative:  # summed loss, counted tokens, hits
            summed, count = summed + float(moved[:, 0].sum()), count + exact.count
            continue
        if config.task == "regression":
            moved = moved / config.target_scale
        worst = max(worst, float(np.abs(moved).max()))
    return abs(summed) / max(1, count) if config.generative else worst


def _batch(
    backbone: GraphSession, manifest: Manifest, config: AdapterConfig, text: TokenizedText
) -> Batch:
    """A batch of one sample with its hidden states; a language model learns its own tokens."""
    rows = {
        spec.name: np.array([text.inputs[spec.name]], spec.dtype)
        for spec in manifest.inputs
        if spec.kind == "tokens"
    }
    streams: dict[Stream, Array] = {
        spec.stream: rows[spec.name] for spec in manifest.inputs if spec.kind == "tokens"
    }
    masks = {
        spec.name: np.ones_like(streams[spec.stream], spec.dtype)
        for spec in manifest.inputs
        if spec.kind == "mask"
    }
    feeds = {name: array for name, array in (rows | masks).items() if name in backbone.input_names}
    states = backbone.run(feeds, [f"{HIDDEN_PREFIX}{layer}" for layer in config.layers])
    first = config.encoder_layers
    tokens = streams[manifest.output_stream][0].astype(np.int64)
    targets = np.zeros(1, np.float32 if config.task == "regression" else np.int64)
    if config.generative:
        targets = np.append(tokens[1:], NOT_COUNTED)[None]
    encoder = np.stack(states[:first]) if first else None
    return Batch(
        hidden=np.stack(states[first:]),
        lengths=np.array([len(tokens)]),
        second_starts=np.array([text.second_start]),
        targets=targets,
        encoder_hidden=encoder,
        encoder_lengths=np.array([encoder.shape[2]]) if encoder is not None else None,
        tokens=tokens[None] if config.copies else None,
    )


def _rounded(hidden: Array, dtype: CacheDtype) -> Array:
    check_range(hidden, dtype, "a hidden state")
    out = np.empty_like(hidden)
    decode_into(encode(hidden, dtype), out, dtype)
    return out
