"""The int4 mode: 4-bit weights in blocks, activations and sums in float32.

Layers become ``MatMulNBits`` of com.microsoft, in blocks of 32 with zero points; see
:mod:`.gptq` for the rounding. In each block of the backbone the layers with the largest
errors go through the int8 pass instead, if they are small: in decoders mostly the value
projection, whose errors nothing evens out. What each step brought, SmolLM2-135M on gsm8k
(loss above float32, on 2,925 tokens of completions):

    nearest, blocks of 32, symmetric                        +0.28
    nearest, with zero points                               +0.17
    scales searched, weighted by the activations            +0.15
    GPTQ, calibrated on float blocks                        +0.11
    GPTQ, blocks of 16 (a sixth more bytes)                 +0.15
    GPTQ, calibrated on quantized blocks                    +0.13
    GPTQ and int8 for 25 % of the weights (down)            +0.10
    GPTQ and int8 for 13 % (first and last two blocks)      +0.09
    GPTQ and int8 for 3 % (the worst, mostly value)         +0.07   <- this module

An int8 head adds 0.003. These weights came from 4-bit blocks of 32, which is why blocks of
16 do not help here. The kernel dequantizes and multiplies in float32 (accuracy level 0):
level 4 rounds activations per block and was slower from some hundred rows on.
A single row takes another kernel, whose sums differ in the last bits (1e-6, relative).
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from export.ir.graph import Array, append, constant, name_of

from .blockwise_activations import CalibrationRun
from .gptq import Blocks, round_weight
from .int8 import DOMAIN, linear_groups, quantize_group, replace_linear, weight_array
from .smoothing import even_factors, is_uneven

BLOCK_SIZE = 32
EIGHT_BIT_SHARE = 0.1
"""Of a block's weights, at most this share stays at 8 bits."""

_BITS = 4
_TINY = 1e-30


def quantize_int4(run: CalibrationRun) -> tuple[int, int]:
    """Rewrites linear layers with a constant weight, in place, block after block.

    Each block is calibrated on the states that the float blocks before it give.

    Returns:
        How many layers became int4, and how many int8.
    """
    int4 = int8 = 0
    for block in run.blocks:
        groups = linear_groups(run.nodes(block))
        statistics = _observe(run, block, list(groups))
        run.advance(block)
        rounded = {
            node: one
            for source, nodes in groups.items()
            for node, one in zip(nodes, _round(nodes, statistics[source].gram), strict=True)
        }
        layers = {node: (one.error, one.blocks.codes.size) for node, one in rounded.items()}
        kept = sensitive(layers)
        for source, nodes in groups.items():
            _keep(run.graph, [node for node in nodes if node in kept], statistics[source])
        for node, one in rounded.items():
            if node not in kept:
                _rewrite(run.graph, node, one.blocks)
        int4, int8 = int4 + len(rounded) - len(kept), int8 + len(kept)
    return int4, int8


def sensitive(layers: Mapping[ir.Node, tuple[float, int]]) -> set[ir.Node]:
    """Selects the layers of a block that stay at 8 bits: few weights with the largest errors.

    Args:
        layers: node -> relative error at 4 bits, and number of weights.
    """
    budget = EIGHT_BIT_SHARE * sum(size for _, size in layers.values())
    worst = sorted(layers, key=lambda node: -layers[node][0])
    sizes = itertools.accumulate(layers[node][1] for node in worst)
    return {node for node, size in zip(worst, sizes, strict=True) if size <= budget}


@dataclasses.dataclass(slots=True)
class _Statistics:
    """Calibration statistics of an activation.

    Attributes:
        gram: X^T X, (channels, channels) float64.
        largest: the largest magnitude of each channel.
        uneven: see :func:`.smoothing.is_uneven`.
    """

    gram: Array
    largest: Array
    uneven: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Rounded:
    """A layer at 4 bits, and the relative error of its output: |X W' - X W| / |X W|."""

    blocks: Blocks
    error: float


def _observe(
    run: CalibrationRun, block: int, sources: Sequence[ir.Value]
) -> dict[ir.Value, _Statistics]:
    found: dict[ir.Value, _Statistics] = {}
    for rows in run.activations(block, sources):
        for source in sources:
            x_TK = rows[name_of(source)]
            wide_TK = x_TK.astype(np.float64)
            gram_KK, largest_K = wide_TK.T @ wide_TK, np.abs(x_TK).max(axis=0)
            if source not in found:
                found[source] = _Statistics(gram_KK, largest_K, is_uneven(source))
                continue
            found[source].gram += gram_KK
            np.maximum(found[source].largest, largest_K, out=found[source].largest)
    return found


def _round(nodes: Sequence[ir.Node], gram_KK: Array) -> list[_Rounded]:
    """Rounds layers that read the same activation."""
    weights = [weight_array(node) for node in nodes]
    together = round_weight(np.concatenate(weights, axis=1), gram_KK, BLOCK_SIZE)
    rounded, start = [], 0
    for weight_KN in weights:
        blocks = together.outputs(slice(start, start + weight_KN.shape[1]))
        start += weight_KN.shape[1]
        error = _energy(blocks.weight() - weight_KN, gram_KK) / _energy(weight_KN, gram_KK)
        rounded.append(_Rounded(blocks=blocks, error=float(np.sqrt(error))))
    return rounded


def _energy(weight_KN: Array, gram_KK: Array) -> float:
    """|X W|^2."""
    return max(float(((gram_KK @ weight_KN) * weight_KN).sum()), _TINY)


def _keep(graph: ir.Graph, nodes: Sequence[ir.Node], statistics: _Statistics) -> None:
    """Puts layers that read the same activation through the int8 pass."""
    if nodes:
        weights = [weight_array(node) for node in nodes]
        factor_K = even_factors(statistics.largest, weights) if statistics.uneven else None
        quantize_group(graph, nodes, factor_K)


def _rewrite(graph: ir.Graph, node: ir.Node, blocks: Blocks) -> None:
    source, name, nodes = node.inputs[0], f"{node.outputs[0].name}.int4", list[ir.Node]()
    assert source is not None
    arrays = zip(("weight", "scale", "zero_point"), packed(blocks), strict=True)
    inputs = [source, *(constant(graph, f"{name}.{part}", array) for part, array in arrays)]
    width, outputs = blocks.codes.shape
    attributes = {"K": width, "N": outputs, "bits": _BITS, "block_size": blocks.block_size}
    append(nodes, "MatMulNBits", inputs, name, DOMAIN, **attributes, accuracy_level=0)
    replace_linear(graph, node, nodes)
    graph.opset_imports[DOMAIN] = 1


def packed(blocks: Blocks) -> tuple[Array, Array, Array]:
    """Brings codes into the layout of ``MatMulNBits``.

    Returns:
        Weights (N, blocks, block_size / 2) uint8, the earlier input in the low half; scales
        (N, blocks) float32; zero points (N, ceil(blocks / 2)) uint8, packed likewise.
    """
    count, outputs = blocks.scale.shape
    padded = np.zeros((count * blocks.block_size, outputs), np.uint8)
    padded[: len(blocks.codes)] = blocks.codes
    codes = _pairs(padded.T.reshape(outputs, count, blocks.block_size))
    zero_points = np.zeros((outputs, count + count % 2), np.uint8)
    zero_points[:, :count] = blocks.zero_point.T
    return codes, np.ascontiguousarray(blocks.scale.T), _pairs(zero_points)


def _pairs(codes: Array) -> Array:
    both: Array = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return np.ascontiguousarray(both)
