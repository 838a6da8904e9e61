"""Which factor to move from each channel of an activation into the weights (int8).

After a layer normalisation a few channels are much larger than the others and would
spend the token's whole int8 range on themselves. Dividing channel j by c_j and
multiplying row j of the weights by c_j changes nothing in exact arithmetic and evens
the ranges out (SmoothQuant, Xiao et al. 2023, equation 4):

    c_j = max|x_j|^0.6 / max|W_j|^0.4

Measured on MiniLM and SST-2 it lowers the int8 error of the last layer from 0.073 to
0.043 (mean relative RMS per token). The factors are powers of two: multiplying by them is
exact, and a calibration that differs in its last bits still gives the same bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edge_runtime.contract.manifest import InputSpec

from .quantize import Array, linear_groups, weight_array
from .samples import Sample, pad_batch
from .session import Graph

ALPHA = 0.6
_NORMALISATIONS = frozenset({"LayerNormalization", "RMSNormalization"})
_BATCH_SIZE = 8
_SMALLEST = 1e-5


def channel_factors(
    model: ir.Model, samples: Sequence[Sample], inputs: Sequence[InputSpec], scratch: Path
) -> dict[str, Array]:
    """Measures the factors of all activations that come out of a layer normalisation.

    Args:
        model: the float graph; left as it was.
        samples: what to run it on.
        inputs: the graph's inputs.
        scratch: a folder for the graph file; the caller removes it.

    Returns:
        Name of the activation -> c, (channels,), float32 powers of two.
    """
    groups = {
        source.name: nodes
        for source, nodes in linear_groups(model.graph).items()
        if source.name is not None and _is_normalised(source)
    }
    largest = _largest_values(model, groups, samples, inputs, scratch)
    factors = {}
    for name, nodes in groups.items():
        weight_K = np.max([np.abs(weight_array(node)).max(axis=1) for node in nodes], axis=0)
        factor_K = np.maximum(largest[name], _SMALLEST) ** ALPHA / np.maximum(
            weight_K, _SMALLEST
        ) ** (1 - ALPHA)
        exponent_K = np.log2(factor_K)
        factors[name] = np.exp2(np.rint(exponent_K - np.median(exponent_K))).astype(np.float32)
    return factors


def _is_normalised(source: ir.Value) -> bool:
    producer = source.producer()
    return producer is not None and producer.op_type in _NORMALISATIONS


def _largest_values(
    model: ir.Model,
    groups: Mapping[str, Sequence[ir.Node]],
    samples: Sequence[Sample],
    inputs: Sequence[InputSpec],
    scratch: Path,
) -> dict[str, Array]:
    """The largest magnitude of each channel over all tokens that are no padding."""
    path = scratch / "calibration.onnx"
    outputs = list(model.graph.outputs)
    for nodes in groups.values():
        source = nodes[0].inputs[0]
        if source is not None and not source.is_graph_output():
            model.graph.outputs.append(source)
    ir.save(model, path, external_data="calibration.bin")
    del model.graph.outputs[len(outputs) :]
    graph = Graph(path)
    largest: dict[str, Array] = {}
    for start in range(0, len(samples), _BATCH_SIZE):
        batch = pad_batch(samples[start : start + _BATCH_SIZE], inputs)
        results = graph.run(batch)
        tokens = batch["attention_mask"] > 0
        for name in groups:
            peak = np.abs(results[name][tokens]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, peak), peak)
    return largest
