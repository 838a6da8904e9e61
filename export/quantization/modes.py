"""Which passes a quantization mode stands for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from edge_runtime.contract.manifest import InputSpec, Quantization
from export.verify.samples import Sample

from .embeddings import quantize_tables
from .int4 import BLOCK_SIZE, quantize_int4
from .int8 import quantize_int8
from .smoothing import channel_factors


def quantize_backbone(
    graph: ir.Model,
    mode: Quantization,
    samples: Sequence[Sample],
    inputs: Sequence[InputSpec],
    scratch: Path,
) -> tuple[str, ...]:
    """Quantizes the backbone in place.

    Args:
        graph: the float graph.
        mode: what to make of it; ``none`` changes nothing.
        samples: what calibration runs the graph on.
        inputs: the graph's inputs.
        scratch: an empty folder for temporary files; the caller removes it.

    Returns:
        What was done, one line each, for people.
    """
    if mode == "none":
        return ()
    if mode == "int4":
        count = quantize_int4(graph, samples, inputs, scratch)
        tables = quantize_tables(graph)
        return (
            f"{count.int4} linear layers: int4 weights in blocks of {BLOCK_SIZE} with zero points",
            f"{count.int8} sensitive ones: int8 weights per output channel, activations per token",
            f"{tables} embedding tables: int8 per row",
        )
    factors = channel_factors(graph, samples, inputs, scratch)
    layers = quantize_int8(graph, factors)
    tables = quantize_tables(graph)
    return (
        f"{layers} linear layers: int8 weights per output channel, activations per token",
        f"{tables} embedding tables: int8 per row",
    )
