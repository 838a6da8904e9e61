"""Graph passes that every bundle goes through, whatever the family and the quantization.

Each takes a model and changes it in place.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edge_runtime.contract.manifest import InputSpec

from .graph import SUM_COLUMNS, append, constant, constant_array, name_of, only_consumer, replace


def prepare(model: ir.Model, inputs: Sequence[InputSpec]) -> None:
    """Runs all passes that come before quantization."""
    strip_metadata(model)
    tidy(model)
    read_shapes_from(model, [spec.name for spec in inputs if spec.kind == "mask"])
    unfold_gemm(model)
    sum_by_products(model)
    keep_kernels_apart(model)
    tidy(model)


def strip_metadata(model: ir.Model) -> None:
    """Removes the exporter's notes: stack traces hold paths, and a bundle is reproducible."""
    common.ClearMetadataAndDocStringPass()(model)
    model.producer_name, model.producer_version, model.domain = "pacplus", "", ""
    model.graph.name = "backbone"
    model.graph.metadata_props.clear()
    results = (value for node in model.graph for value in node.outputs)
    for value in (*model.graph.inputs, *results, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None


def read_shapes_from(model: ir.Model, masks: Sequence[str]) -> None:
    """Takes batch and sequence lengths from the masks among the graph's inputs alone.

    The exporter reads them from whichever input comes to hand. A stage must not be sent
    token ids only for their shape, so they come from the masks, which every stage has.

    Requires: graph inputs that share a symbolic dimension's name share its value.
    """
    candidates = [value for value in model.graph.inputs if value.name in masks]
    candidates.sort(key=lambda value: masks.index(name_of(value)))
    for node in list(model.graph):
        read = node.inputs[0] if node.op_type == "Shape" else None
        if read is None or read in candidates or not read.is_graph_input() or read.shape is None:
            continue
        if mask := next((mask for mask in candidates if mask.shape == read.shape), None):
            node.replace_input_with(0, mask)


def sum_by_products(model: ir.Model) -> None:
    """Rewrites each softmax over the last axis so that it adds up by a matrix product.

    :mod:`export.tracing.attention` has the reason; this serves models with their own attention.
    """
    graph = model.graph
    for node in [node for node in graph if node.op_type == "Softmax"]:
        scores = node.inputs[0]
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        last = -1 if scores is None or scores.shape is None else scores.shape.rank() - 1
        if scores is not None and axis in (-1, last):
            replace(node, _ordered_softmax(graph, scores, name_of(node.outputs[0])))


def _ordered_softmax(graph: ir.Graph, scores: ir.Value, name: str) -> list[ir.Node]:
    nodes: list[ir.Node] = []

    def add(op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return append(nodes, op_type, inputs, f"{name}.{len(nodes)}", **attributes)

    def integers(key: str, *values: int) -> ir.Value:
        return constant(graph, f"softmax.{key}", np.array(values, np.int64))

    last = integers("axis", -1)
    weights = add("Exp", add("Sub", scores, add("ReduceMax", scores, last, keepdims=1)))
    columns = integers("columns", SUM_COLUMNS)
    shape = add("Concat", add("Shape", scores, start=-1), columns, axis=0)
    one = constant(graph, "softmax.one", np.ones((1, 1), np.float32))
    sums = add("MatMul", weights, add("Expand", one, shape))
    first = add("Slice", sums, integers("zero", 0), integers("one_column", 1), last)
    add("Div", weights, first)
    return nodes


def unfold_gemm(model: ir.Model) -> None:
    """Rewrites ``Gemm`` as a product and a sum, the form that all other linear layers have."""
    graph = model.graph
    for node in [node for node in graph if node.op_type == "Gemm"]:
        plain = {key: attribute.value for key, attribute in node.attributes.items()}
        transposed = plain.pop("transB", 0)
        if plain.pop("transA", 0) or any(float(value) != 1 for value in plain.values()):
            continue
        left, right = node.inputs[0], node.inputs[1]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        array = constant_array(right)
        if left is None or right is None or (transposed and array is None):
            continue
        if transposed and array is not None:
            right = constant(graph, f"{right.name}.transposed", np.ascontiguousarray(array.T))
        old, nodes = node.outputs[0], list[ir.Node]()
        product = append(nodes, "MatMul", [left, right], f"{old.name}.product")
        product.type, product.shape = old.type, old.shape
        if bias is not None:
            nodes.append(ir.node("Add", [product, bias]))
        replace(node, nodes)


def keep_kernels_apart(model: ir.Model) -> None:
    """Gives biases a leading axis, and adds them last in front of a layer normalization.

    ONNX Runtime would fuse bias and residual with the layer normalization, and the bias with
    Gelu; its fused CPU kernels are scalar code, measured at 4 and 1.3 times the time of the
    separate ones, which are vectorised and work in place. The fusions want biases of rank 1.
    """
    rewrite = {"LayerNormalization": _add_bias_last, "Gelu": _lift_bias}
    for node in [node for node in model.graph if node.op_type in rewrite]:
        rewrite[node.op_type](model.graph, node.inputs[0])


def _lift_bias(graph: ir.Graph, total: ir.Value | None) -> None:
    """Gives the rank-1 operand of the addition that makes ``total`` a leading axis."""
    add = total.producer() if total is not None else None
    if add is None or add.op_type != "Add":
        return
    for index, operand in enumerate(add.inputs):
        bias = constant_array(operand)
        if operand is not None and bias is not None and bias.ndim == 1:
            add.replace_input_with(index, constant(graph, f"{operand.name}.row", bias[None]))
            return


def _add_bias_last(graph: ir.Graph, total: ir.Value | None) -> None:
    """Rewrites ``(x + bias) + residual`` as ``(x + residual) + bias``."""
    outer = total.producer() if total is not None else None
    if outer is None or outer.op_type != "Add":
        return
    for index, operand in enumerate(outer.inputs):
        inner = operand.producer() if operand is not None else None
        if inner is None or inner.op_type != "Add" or only_consumer(inner.outputs[0]) is not outer:
            continue
        bias, x = sorted(inner.inputs, key=lambda value: constant_array(value) is None)
        if constant_array(bias) is None:
            continue
        residual = outer.inputs[1 - index]
        assert x is not None
        assert residual is not None
        nodes: list[ir.Node] = []
        with_residual = append(nodes, "Add", [x, residual], f"{inner.name}.residual")
        biased = ir.node("Add", [with_residual, bias])
        replace(outer, [*nodes, biased])
        graph.remove(inner, safe=True)
        _lift_bias(graph, biased.outputs[0])
        return


def tidy(model: ir.Model) -> None:
    """Drops what nothing reads and lifts constants, so that only initializers are left."""
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.IdentityEliminationPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.TopologicalSortPass()(model)
    for node in model.graph:
        node.name = node.outputs[0].name  # instead of a number that counts past edits
