"""Measures how far the exported graph is from PyTorch, as an adapter sees it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edge_runtime.contract.cache_format import FP16_MAX
from edge_runtime.contract.cache_format.encoding import decode_into, encode
from edge_runtime.contract.errors import PacplusError
from edge_runtime.contract.manifest import Parity, Quantization, Stream
from export.checkpoint.load import LoadedModel
from export.ir.graph import Array, hidden_name

from .ort_session import Graph
from .samples import Sample, pad_batch, token_masks

LIMITS: dict[Quantization, float] = {"none": 1e-3, "int8": 0.12, "int4": 0.6}
"""Of the largest error of a token in float32, of the root mean square over tokens else.

Rounding can tip a single token over (in SmolLM2-135M at int8 one of 645 is off by 0.83, the
others by 0.07), so the largest would say little. At 4 bits real models are off by 0.1, tiny
random ones by up to 0.5; a graph that computes something else is off by 1 and more.
"""

_BATCH_SIZE = 8
_EPSILON = 1e-12


def normalized(hidden: Array) -> Array:
    """Layer normalization without parameters, over the last axis, in float64."""
    centred = hidden.astype(np.float64)
    centred = centred - centred.mean(-1, keepdims=True)
    scaled: Array = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + _EPSILON)
    return scaled


def relative_error(hidden: Array, reference: Array) -> Array:
    """Root mean square of the difference, relative to that of the reference, per token.

    Both are (..., channels) and are layer-normalized first; returns (...).
    """
    expected = normalized(reference)
    difference = ((normalized(hidden) - expected) ** 2).mean(-1)
    error: Array = np.sqrt(difference / np.maximum((expected**2).mean(-1), _EPSILON))
    return error


def measure_parity(
    loaded: LoadedModel,
    graph_file: Path,
    samples: Sequence[Sample],
    blocks: Sequence[Stream],
    quantization: Quantization,
) -> Parity:
    """Compares all hidden states of model and graph on batches of unequal lengths.

    The figures are rounded to three digits, so that exporting again gives the same bundle.
    ``blocks`` are the streams of the hidden states; the quantization decides the limit.
    """
    graph = Graph(graph_file)
    errors: list[list[Array]] = [[] for _ in blocks]
    largest, halves, codes = np.zeros((3, len(blocks)))
    tokens = 0
    for start in range(0, len(samples), _BATCH_SIZE):
        batch = pad_batch(samples[start : start + _BATCH_SIZE], loaded.inputs)
        masks = token_masks(batch, loaded.inputs)
        tokens += sum(int(mask.sum()) for mask in masks.values())
        states = graph.run(batch)
        references = reference_states(loaded.backbone, batch)
        for block, (stream, expected) in enumerate(zip(blocks, references, strict=True)):
            mask = masks[stream]
            found = states[hidden_name(block)][mask]
            errors[block].append(relative_error(found, expected[mask]))
            largest[block] = max(largest[block], np.abs(found).max())
            halves[block] = max(halves[block], fp16_error(found).max())
            codes[block] = max(codes[block], int8_error(found).max())
    per_state = _rounded(_summary(np.concatenate(error), quantization) for error in errors)
    return Parity(
        worst=max(per_state),
        limit=LIMITS[quantization],
        per_state=per_state,
        tokens=tokens,
        state_max=_rounded(largest),
        fp16_error=_rounded(halves),
        int8_error=_rounded(codes),
    )


def fp16_error(hidden: Array) -> Array:
    """How far rounding to fp16 moves each token's state, as :func:`relative_error`."""
    half = np.clip(hidden, -FP16_MAX, FP16_MAX).astype(np.float16)
    return relative_error(half.astype(np.float32), hidden)


def int8_error(hidden: Array) -> Array:
    """How far the cache's int8 moves each token's state, as :func:`relative_error`."""
    decoded = np.empty_like(hidden, np.float32)
    decode_into(encode(hidden, "int8"), decoded, "int8")
    return relative_error(decoded, hidden)


def _rounded(figures: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(f"{figure:.3g}") for figure in figures)


def _summary(errors: Array, quantization: Quantization) -> float:
    return float(errors.max() if quantization == "none" else np.sqrt(np.square(errors).mean()))


def check_parity(parity: Parity) -> None:
    """Raises PacplusError when the graph is further from PyTorch than its limit."""
    # Written so that NaN is refused as well.
    if not parity.worst <= parity.limit:
        states = parity.per_state
        block = next(i for i, error in enumerate(states) if not error <= parity.limit)
        raise PacplusError(
            f"the exported graph is off: hidden state {block} differs from PyTorch by "
            f"{states[block]:.3g}, the limit is {parity.limit:.2g}; nothing was written"
        )


def reference_states(model: Any, batch: Mapping[str, Array]) -> list[Array]:
    """Computes all hidden states by transformers, an encoder's before its decoder's."""
    fields = {name: torch.from_numpy(array) for name, array in batch.items()}
    with torch.inference_mode():
        output = model(**fields, output_hidden_states=True)
    if "hidden_states" in output:
        states = output.hidden_states
    else:
        states = (*output.encoder_hidden_states, *output.decoder_hidden_states)
    return [state.numpy() for state in states]
