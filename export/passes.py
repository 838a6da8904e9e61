"""Graph passes that every bundle goes through, whatever the family and the quantisation.

Each takes a model, changes it in place and returns how many places it changed.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from .graph import constant, constant_array, only_consumer, replace


def strip_metadata(model: ir.Model) -> None:
    """Removes the exporter's notes: stack traces hold paths, and a bundle is reproducible."""
    common.ClearMetadataAndDocStringPass()(model)
    model.producer_name, model.producer_version, model.domain = "pacplus", "", ""
    model.graph.name = "backbone"
    model.graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
        value.doc_string = None


def read_shapes_from(model: ir.Model, source: str) -> int:
    """Takes batch and sequence length from the graph input ``source`` alone.

    The exporter reads them from whichever input comes to hand. A stage must not be sent
    token ids only for their shape, so they come from the mask, which every stage has.

    Requires: graph inputs that share a symbolic dimension's name share its value.
    """
    inputs = {value.name: value for value in model.graph.inputs}
    mask = inputs[source]
    changed = 0
    for node in list(model.graph):
        read = node.inputs[0] if node.op_type == "Shape" else None
        if read is None or read is mask or not read.is_graph_input():
            continue
        if read.shape is not None and mask.shape is not None and read.shape == mask.shape:
            node.replace_input_with(0, mask)
            changed += 1
    return changed


def keep_kernels_apart(model: ir.Model) -> int:
    """Gives biases a leading axis, and adds them last in front of a layer normalisation.

    ONNX Runtime would fuse bias and residual with the layer normalisation, and the bias with
    Gelu; its fused CPU kernels are scalar code, measured at 4 and 1.3 times the time of the
    separate ones, which are vectorised and work in place. The fusions want biases of rank 1.
    """
    changed = 0
    for node in list(model.graph):
        if node.op_type == "LayerNormalization":
            changed += _add_bias_last(model.graph, node)
        elif node.op_type == "Gelu":
            changed += _lift_bias(model.graph, node.inputs[0])
    return changed


def _lift_bias(graph: ir.Graph, total: ir.Value | None) -> int:
    """Gives the rank-1 operand of the addition that makes ``total`` a leading axis."""
    add = total.producer() if total is not None else None
    if add is None or add.op_type != "Add":
        return 0
    for index, operand in enumerate(add.inputs):
        bias = constant_array(operand)
        if operand is not None and bias is not None and bias.ndim == 1:
            lifted = constant(graph, f"{operand.name}.row", bias[None])
            add.replace_input_with(index, lifted)
            return 1
    return 0


def _add_bias_last(graph: ir.Graph, norm: ir.Node) -> int:
    """Rewrites ``(x + bias) + residual`` as ``(x + residual) + bias``."""
    total = norm.inputs[0]
    outer = total.producer() if total is not None else None
    if outer is None or outer.op_type != "Add":
        return 0
    for index, operand in enumerate(outer.inputs):
        inner = operand.producer() if operand is not None else None
        if inner is None or inner.op_type != "Add" or only_consumer(inner.outputs[0]) is not outer:
            continue
        bias, x = sorted(inner.inputs, key=lambda value: constant_array(value) is None)
        if constant_array(bias) is None:
            continue
        residual = outer.inputs[1 - index]
        with_residual = ir.node("Add", [x, residual], name=f"{inner.name}.residual")
        with_residual.outputs[0].name = with_residual.name
        replace(outer, [with_residual, ir.node("Add", [with_residual.outputs[0], bias])])
        graph.remove(inner, safe=True)
        return _lift_bias(graph, norm.inputs[0])
    return 0


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
