"""Runs the passes of a quantization mode."""

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from edge_runtime.contract.manifest import InputSpec, Quantization
from export.verify.samples import Sample

from .blockwise_activations import CalibrationRun
from .embeddings import quantize_tables
from .int4 import BLOCK_SIZE, quantize_int4
from .int8 import quantize_int8
from .smoothing import channel_factors


def quantize_backbone(
    model: ir.Model,
    mode: Quantization,
    samples: Sequence[Sample],
    inputs: Sequence[InputSpec],
    scratch: Path,
) -> tuple[str, ...]:
    """Quantizes the backbone in place, calibrated on ``samples``.

    Args:
        model: the float graph.
        mode: form of the weights; not ``none``.
        samples: to calibrate on.
        inputs: the graph's inputs.
        scratch: an empty folder for temporary files; the caller removes it.

    Returns:
        A description of each change, one line each, for people.
    """
    run = CalibrationRun(model, samples, inputs, scratch)
    if mode == "int4":
        int4, int8 = quantize_int4(run)
        notes = [
            f"{int4} linear layers: int4 weights in blocks of {BLOCK_SIZE} with zero points",
            f"{int8} sensitive ones: int8 weights per output channel, activations per token",
        ]
    else:
        layers = quantize_int8(model, channel_factors(run))
        notes = [f"{layers} linear layers: int8 weights per output channel, activations per token"]
    return (*notes, f"{quantize_tables(model)} embedding tables: int8 per row")
